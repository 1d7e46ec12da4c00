"""The adversarial losses in Triton: loss, the gradient of every logit and the statistics, from reading the logits once.

Up to 64K logits one program does it all. Above, programs leave fixed-order partials and a finishing launch merges them.
relativistic_average needs the means before the loss and two more sums before the gradients: three sweeps in either plan.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import cdiv, next_power_of_2
from ganfast._triton_activations import sigmoid, softplus

ONE_PROGRAM = 65536  # logits up to which one launch does
PROGRAMS = 256  # at most, above that
# The sums of a sweep, by column: loss terms, their slopes (relativistic_average), and the statistics.
_SUMS = tl.constexpr(16)
_LOSS_R, _LOSS_F, _SLOPE_R, _SLOPE_F, _RIGHT_R, _RIGHT_F, _REAL, _FAKE, _SIGN = (tl.constexpr(i) for i in range(9))


@triton.jit
def real_term(r, target, KIND: tl.constexpr):
    """(loss, slope) of the discriminator's term in a real logit; target is 1 - smoothing."""
    if KIND == "hinge":
        return tl.where(1.0 - r <= 0, 0.0, 1.0 - r), tl.where(1.0 - r <= 0, 0.0, -1.0)
    elif KIND == "lsgan":
        return 0.5 * (r - target) * (r - target), r - target
    elif KIND == "wasserstein":
        return -r, tl.zeros_like(r) - 1.0
    else:
        return target * softplus(-r) + (1.0 - target) * softplus(r), (1.0 - target) * sigmoid(r) - target * sigmoid(-r)


@triton.jit
def fake_term(f, KIND: tl.constexpr, GENERATOR: tl.constexpr):
    """(loss, slope) of either network's term in a fake logit."""
    if GENERATOR and (KIND == "wasserstein" or KIND == "hinge"):
        return -f, tl.zeros_like(f) - 1.0
    elif KIND == "wasserstein":
        return f, tl.zeros_like(f) + 1.0
    elif KIND == "hinge":
        return tl.where(1.0 + f <= 0, 0.0, 1.0 + f), tl.where(1.0 + f <= 0, 0.0, 1.0)
    elif KIND == "lsgan":
        d = f - 1.0 if GENERATOR else f
        return 0.5 * d * d, d
    elif KIND == "minimax" and GENERATOR:
        return -softplus(f), -sigmoid(f)
    elif GENERATOR:
        return softplus(-f), -sigmoid(-f)
    else:
        return softplus(f), sigmoid(f)


@triton.jit
def load_logits(ptr, at, count):
    return tl.load(ptr + at, mask=at < count, other=0.0).to(tl.float32)


@triton.jit
def sweep(real, fake, greal, gfake, n_real, n_fake, first, blocks, mean_real, mean_fake, target,
          KIND: tl.constexpr, GENERATOR: tl.constexpr, LOSS: tl.constexpr, STATS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """[16] sums over `blocks` blocks of both inputs from element `first`: of the statistics where STATS, of the loss where LOSS,
    which also writes the gradients, but for relativistic_average: its gradients need these sums first."""
    AVERAGE: tl.constexpr = KIND == "relativistic_average"
    threshold: tl.constexpr = 0.5 if KIND == "lsgan" else 0.0
    loss_r = tl.zeros((BLOCK,), tl.float32)
    loss_f = tl.zeros((BLOCK,), tl.float32)
    slope_r = tl.zeros((BLOCK,), tl.float32)
    slope_f = tl.zeros((BLOCK,), tl.float32)
    right_r = tl.zeros((BLOCK,), tl.float32)
    right_f = tl.zeros((BLOCK,), tl.float32)
    sum_r = tl.zeros((BLOCK,), tl.float32)
    sum_f = tl.zeros((BLOCK,), tl.float32)
    sign = tl.zeros((BLOCK,), tl.float32)
    for step in range(blocks):
        at = first + step * BLOCK + tl.arange(0, BLOCK)
        f_ok = at < n_fake
        f = load_logits(fake, at, n_fake)
        if STATS:
            sum_f += f
            right_f += tl.where(f_ok & (f < threshold), 1.0, 0.0)
        if real is not None:
            r_ok = at < n_real
            r = load_logits(real, at, n_real)
            if STATS:
                sum_r += r
                right_r += tl.where(r_ok & (r > threshold), 1.0, 0.0)
                sign += tl.where(r > 0, 1.0, 0.0) - tl.where(r < 0, 1.0, 0.0)
        if LOSS:
            if AVERAGE:
                d_r = r - mean_fake if GENERATOR else mean_fake - r
                d_f = mean_real - f if GENERATOR else f - mean_real
                loss_r += tl.where(r_ok, softplus(d_r), 0.0)
                loss_f += tl.where(f_ok, softplus(d_f), 0.0)
                slope_r += tl.where(r_ok, sigmoid(d_r), 0.0)
                slope_f += tl.where(f_ok, sigmoid(d_f), 0.0)
            elif KIND == "relativistic":
                d = r - f if GENERATOR else f - r
                loss_f += tl.where(f_ok, softplus(d), 0.0)
                g = sigmoid(d) / n_fake
                tl.store(gfake + at, -g if GENERATOR else g, mask=f_ok)
                tl.store(greal + at, g if GENERATOR else -g, mask=f_ok)
            else:
                value, slope = fake_term(f, KIND, GENERATOR)
                loss_f += tl.where(f_ok, value, 0.0)
                tl.store(gfake + at, slope / n_fake, mask=f_ok)
                if real is not None:
                    if GENERATOR:
                        tl.store(greal + at, tl.zeros_like(r), mask=r_ok)
                    else:
                        value, slope = real_term(r, target, KIND)
                        loss_r += tl.where(r_ok, value, 0.0)
                        tl.store(greal + at, slope / n_real, mask=r_ok)
    column = tl.arange(0, _SUMS)
    sums = tl.where(column == _LOSS_R, tl.sum(loss_r), 0.0) + tl.where(column == _LOSS_F, tl.sum(loss_f), 0.0)
    sums += tl.where(column == _SLOPE_R, tl.sum(slope_r), 0.0) + tl.where(column == _SLOPE_F, tl.sum(slope_f), 0.0)
    sums += tl.where(column == _RIGHT_R, tl.sum(right_r), 0.0) + tl.where(column == _RIGHT_F, tl.sum(right_f), 0.0)
    sums += tl.where(column == _REAL, tl.sum(sum_r), 0.0) + tl.where(column == _FAKE, tl.sum(sum_f), 0.0)
    return sums + tl.where(column == _SIGN, tl.sum(sign), 0.0)


@triton.jit
def pick(sums, COLUMN: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, _SUMS) == COLUMN, sums, 0.0))


@triton.jit
def average_grads(real, fake, greal, gfake, n_real, n_fake, first, blocks, sums, GENERATOR: tl.constexpr, BLOCK: tl.constexpr):
    """relativistic_average: every logit moves its own term and, through its mean, every term of the other side."""
    mean_real = pick(sums, _REAL) / n_real
    mean_fake = pick(sums, _FAKE) / n_fake
    slope_r = pick(sums, _SLOPE_R) / n_real
    slope_f = pick(sums, _SLOPE_F) / n_fake
    for step in range(blocks):
        at = first + step * BLOCK + tl.arange(0, BLOCK)
        r = load_logits(real, at, n_real)
        f = load_logits(fake, at, n_fake)
        g_r = sigmoid(r - mean_fake if GENERATOR else mean_fake - r) + slope_f
        g_f = sigmoid(mean_real - f if GENERATOR else f - mean_real) + slope_r
        tl.store(greal + at, (g_r if GENERATOR else -g_r) / n_real, mask=at < n_real)
        tl.store(gfake + at, (-g_f if GENERATOR else g_f) / n_fake, mask=at < n_fake)


@triton.jit
def store_results(sums, loss, stats, n_real, n_fake, HAS_REAL: tl.constexpr):
    share_r = 1.0 / n_real if HAS_REAL else 0.0
    share_f = 1.0 / n_fake
    tl.store(loss, pick(sums, _LOSS_R) * share_r + pick(sums, _LOSS_F) * share_f)
    tl.store(stats, pick(sums, _RIGHT_R) * share_r)
    tl.store(stats + 1, pick(sums, _RIGHT_F) * share_f)
    tl.store(stats + 2, pick(sums, _REAL) * share_r)
    tl.store(stats + 3, pick(sums, _FAKE) * share_f)
    tl.store(stats + 4, pick(sums, _SIGN) * share_r)


@triton.jit
def merge(partials, t_count, BLOCK_T: tl.constexpr):
    """partials [T, 16] summed over T, BLOCK_T >= T: every program that asks gets the same bits."""
    t = tl.arange(0, BLOCK_T)
    at = (t * _SUMS)[:, None] + tl.arange(0, _SUMS)[None, :]
    return tl.sum(tl.load(partials + at, mask=(t < t_count)[:, None], other=0.0), 0)


@triton.jit
def gan_loss_fwd_kernel(real, fake, loss, greal, gfake, stats, n_real, n_fake, blocks, target,
                        KIND: tl.constexpr, GENERATOR: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One program over everything."""
    if KIND == "relativistic_average":
        sums = sweep(real, fake, greal, gfake, n_real, n_fake, 0, blocks, 0.0, 0.0, target, KIND, GENERATOR, False, True, BLOCK)
        mean_real = pick(sums, _REAL) / n_real
        mean_fake = pick(sums, _FAKE) / n_fake
        sums += sweep(real, fake, greal, gfake, n_real, n_fake, 0, blocks, mean_real, mean_fake, target, KIND, GENERATOR,
                      True, False, BLOCK)  # fmt: skip
        average_grads(real, fake, greal, gfake, n_real, n_fake, 0, blocks, sums, GENERATOR, BLOCK)
    else:
        sums = sweep(real, fake, greal, gfake, n_real, n_fake, 0, blocks, 0.0, 0.0, target, KIND, GENERATOR, True, True, BLOCK)
    store_results(sums, loss, stats, n_real, n_fake, real is not None)


@triton.jit
def gan_loss_partials_kernel(real, fake, greal, gfake, means, partials, n_real, n_fake, blocks, t_count, target,
                             KIND: tl.constexpr, GENERATOR: tl.constexpr, BLOCK: tl.constexpr, BLOCK_T: tl.constexpr):  # fmt: skip
    """Program t sweeps its own blocks into partials[t] [16]. relativistic_average runs it twice: without `means` for the
    statistics, then with the partials of that as `means` for the loss."""
    t = tl.program_id(0)
    AVERAGE: tl.constexpr = KIND == "relativistic_average"
    first = t.to(tl.int64) * blocks * BLOCK
    mean_real = 0.0
    mean_fake = 0.0
    if means is not None:
        sums = merge(means, t_count, BLOCK_T)
        mean_real = pick(sums, _REAL) / n_real
        mean_fake = pick(sums, _FAKE) / n_fake
    LOSS: tl.constexpr = not AVERAGE or means is not None
    part = sweep(real, fake, greal, gfake, n_real, n_fake, first, blocks, mean_real, mean_fake, target, KIND, GENERATOR,
                 LOSS, means is None, BLOCK)  # fmt: skip
    tl.store(partials + t * _SUMS + tl.arange(0, _SUMS), part)


@triton.jit
def gan_loss_finish_kernel(real, fake, loss, greal, gfake, stats, means, partials, n_real, n_fake, blocks, t_count,
                           KIND: tl.constexpr, GENERATOR: tl.constexpr, BLOCK: tl.constexpr, BLOCK_T: tl.constexpr):  # fmt: skip
    """Program 0 writes loss and statistics; for relativistic_average every program t also writes its blocks' gradients."""
    t = tl.program_id(0)
    sums = merge(partials, t_count, BLOCK_T)
    if KIND == "relativistic_average":
        sums += merge(means, t_count, BLOCK_T)
        average_grads(real, fake, greal, gfake, n_real, n_fake, t.to(tl.int64) * blocks * BLOCK, blocks, sums, GENERATOR, BLOCK)
    if t == 0:
        store_results(sums, loss, stats, n_real, n_fake, real is not None)


def gan_loss_fwd_triton(
    real: Tensor | None, fake: Tensor, kind: str, generator: bool, smoothing: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_real, n_fake = 0 if real is None else real.numel(), fake.numel()
    loss = _triton.empty((), fake, torch.float32)
    greal, gfake = _triton.empty(n_real, fake, torch.float32), _triton.empty(n_fake, fake, torch.float32)
    stats = _triton.empty(5, fake, torch.float32)
    longest, average = max(n_real, n_fake), kind == "relativistic_average"
    constants = {"KIND": kind, "GENERATOR": generator, "enable_fp_fusion": True}
    target = 1.0 - smoothing
    with _triton.on_device(fake):
        if n_real + n_fake <= ONE_PROGRAM:
            block = min(2048, max(32, next_power_of_2(longest)))
            gan_loss_fwd_kernel[(1,)](
                real, fake, loss, greal, gfake, stats, n_real, n_fake, cdiv(longest, block), target, BLOCK=block, num_warps=8, **constants
            )
            return loss, greal, gfake, stats
        block = 1024
        blocks = cdiv(cdiv(longest, block), PROGRAMS)
        t_count = cdiv(longest, block * blocks)
        constants |= {"BLOCK": block, "BLOCK_T": next_power_of_2(t_count)}
        partials = _triton.empty((t_count, 16), fake, torch.float32)
        means = _triton.empty((t_count, 16), fake, torch.float32) if average else None
        if average:
            gan_loss_partials_kernel[(t_count,)](
                real, fake, greal, gfake, None, means, n_real, n_fake, blocks, t_count, target, **constants
            )
        gan_loss_partials_kernel[(t_count,)](
            real, fake, greal, gfake, means, partials, n_real, n_fake, blocks, t_count, target, **constants
        )
        gan_loss_finish_kernel[(t_count if average else 1,)](
            real, fake, loss, greal, gfake, stats, means, partials, n_real, n_fake, blocks, t_count, **constants
        )
    return loss, greal, gfake, stats
