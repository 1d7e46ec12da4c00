"""What the Triton kernels share: the activations on the device, [rows, channels] tiles in both layouts, fixed-order
reductions, and the few decisions a launcher makes. Importing this imports triton: do it on first use, never from the package.

A tile is [BLOCK_R, BLOCK_C] in channels_last memory and [BLOCK_C, BLOCK_R] in contiguous memory, so that its last axis is
always the one that runs along memory. A row is one (image, pixel) pair; row r is image r // inner, pixel r % inner.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

_SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
_SELU_SLOPE = tl.constexpr(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717)
_INV_SQRT2 = tl.constexpr(0.70710678118654752440)
_INV_SQRT_2PI = tl.constexpr(0.39894228040143267794)

# From this many elements on, offsets need 64 bits; below, 32 save registers. A test lowers it to reach the wide kernels.
wide_from = 2**31
MIN_CAPABILITY = (8, 0)
MIN_VERSION = (3, 6)


@triton.jit
def expm1(x):
    """exp(x) - 1. The series (error below 2e-8 relative) where the subtraction would cancel."""
    p = 1.0 + x * (1.0 / 8)
    p = 1.0 + x * (1.0 / 7) * p
    p = 1.0 + x * (1.0 / 6) * p
    p = 1.0 + x * (1.0 / 5) * p
    p = 1.0 + x * (1.0 / 4) * p
    p = 1.0 + x * (1.0 / 3) * p
    p = 1.0 + x * (1.0 / 2) * p
    return tl.where(tl.abs(x) < 0.5, x * p, tl.exp(x) - 1.0)


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))  # of a non-positive number only: no overflow
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def tanh(x):
    e = expm1(-2.0 * tl.abs(x))
    t = -e / (2.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def softplus(x):
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    d = u - 1.0  # log1p(e) = log(u) * e / d undoes the rounding of u: a confident logit's tiny loss keeps its digits
    log1p = tl.where(d == 0, e, tl.log(u) * (e / tl.where(d == 0, 1.0, d)))
    return tl.where(x > 0, x, 0.0) + log1p


@triton.jit
def act_fwd(z, alpha, ACT: tl.constexpr):
    """f(z) in float32; alpha is a scalar or broadcasts against z."""
    if ACT == "relu":
        return tl.where(z <= 0, 0.0, z)
    elif ACT == "leaky_relu" or ACT == "prelu":
        return tl.where(z > 0, z, alpha * z)
    elif ACT == "tanh":
        return tanh(z)
    elif ACT == "sigmoid":
        return sigmoid(z)
    elif ACT == "elu":
        return tl.where(z > 0, z, alpha * expm1(z))
    elif ACT == "selu":
        return tl.where(z > 0, z * _SELU_SCALE, expm1(z) * _SELU_SLOPE)
    elif ACT == "softplus":
        t = alpha * z
        return tl.where(t > 20, z, softplus(t) / alpha)
    elif ACT == "silu":
        return z * sigmoid(z)
    elif ACT == "gelu":
        return 0.5 * z * (1.0 + tl.erf(z * _INV_SQRT2))
    elif ACT == "snake":
        s = tl.sin(alpha * z)
        return tl.where(alpha == 0, z, z + s * s / tl.where(alpha == 0, 1.0, alpha))
    else:
        tl.static_assert(ACT == "linear", "unknown activation")
        return z


@triton.jit
def act_grad(saved, alpha, ACT: tl.constexpr, FROM_Y: tl.constexpr):
    """f'(z) in float32 from the saved pre-activation, or from the output where FROM_Y."""
    if ACT == "relu":
        return tl.where(saved <= 0, 0.0, 1.0)
    elif ACT == "leaky_relu" or ACT == "prelu":
        return tl.where(saved > 0, 1.0, alpha)
    elif ACT == "tanh":
        y = saved if FROM_Y else tanh(saved)
        return 1.0 - y * y
    elif ACT == "sigmoid":
        y = saved if FROM_Y else sigmoid(saved)
        return y * (1.0 - y)
    elif ACT == "elu":
        below = saved + alpha if FROM_Y else alpha * tl.exp(saved)
        return tl.where(saved > 0, 1.0, below)
    elif ACT == "selu":
        below = saved + _SELU_SLOPE if FROM_Y else tl.exp(saved) * _SELU_SLOPE
        return tl.where(saved > 0, _SELU_SCALE, below)
    elif ACT == "softplus":
        return -expm1(-alpha * saved) if FROM_Y else sigmoid(alpha * saved)
    elif ACT == "silu":
        s = sigmoid(saved)
        return s * (1.0 + saved * (1.0 - s))
    elif ACT == "gelu":
        return 0.5 * (1.0 + tl.erf(saved * _INV_SQRT2)) + saved * tl.exp(-0.5 * saved * saved) * _INV_SQRT_2PI
    elif ACT == "snake":
        return 1.0 + tl.sin(2.0 * alpha * saved)
    else:
        tl.static_assert(ACT == "linear", "unknown activation")
        return tl.zeros_like(saved) + 1.0


@triton.jit
def act_alpha_grad(z, alpha, ACT: tl.constexpr):
    """df/dalpha in float32 from the pre-activation; zero where the activation has no parameter."""
    if ACT == "leaky_relu" or ACT == "prelu":
        return tl.where(z > 0, 0.0, z)
    elif ACT == "elu":
        return tl.where(z > 0, 0.0, expm1(z))
    elif ACT == "softplus":
        t = alpha * z
        return tl.where(t > 20, 0.0, (z * sigmoid(t) - softplus(t) / alpha) / alpha)
    elif ACT == "snake":
        safe = tl.where(alpha == 0, 1.0, alpha)
        s = tl.sin(alpha * z)
        return tl.where(alpha == 0, z * z, (z * tl.sin(2.0 * alpha * z) - s * s / safe) / safe)
    else:
        return tl.zeros_like(z)


@triton.jit
def act_bwd(g, saved, alpha, ACT: tl.constexpr, FROM_Y: tl.constexpr):
    """g f'(z). Where relu is off 0 is selected: a product would make NaN of an infinite g."""
    return tl.where(saved <= 0, 0.0, g) if ACT == "relu" else g * act_grad(saved, alpha, ACT, FROM_Y)


@triton.jit
def act_alpha_bwd(g, z, alpha, ACT: tl.constexpr):
    """g df/dalpha; 0 is selected where f does not depend on alpha."""
    term = g * act_alpha_grad(z, alpha, ACT)
    return term if ACT == "snake" else tl.where(alpha * z > 20 if ACT == "softplus" else z > 0, 0.0, term)


@triton.jit
def over_rows(v, CHANNELS_LAST: tl.constexpr):
    """A vector per row, broadcast over the tile's channels."""
    return v[:, None] if CHANNELS_LAST else v[None, :]


@triton.jit
def over_channels(v, CHANNELS_LAST: tl.constexpr):
    """A vector per channel, broadcast over the tile's rows."""
    return v[None, :] if CHANNELS_LAST else v[:, None]


@triton.jit
def sum_rows(tile, CHANNELS_LAST: tl.constexpr):
    """[BLOCK_C]: the tile summed over its rows."""
    return tl.sum(tile, axis=0 if CHANNELS_LAST else 1)


@triton.jit
def tile_offsets(r, channels, rows, inner, c, CHANNELS_LAST: tl.constexpr):
    """(memory offsets, mask) of a tile of x [N, C, inner]; r [BLOCK_R] is 64-bit where the tensor needs it."""
    mask = over_rows(r < rows, CHANNELS_LAST) & over_channels(channels < c, CHANNELS_LAST)
    if CHANNELS_LAST:
        return (r * c)[:, None] + channels[None, :], mask
    else:
        return (r // inner * (c * inner) + r % inner)[None, :] + (channels.to(r.dtype) * inner)[:, None], mask


@triton.jit
def load_channels(ptr, channels, c, default, CHANNELS_LAST: tl.constexpr):
    """A per-channel parameter broadcast over the tile, or the scalar `default` where there is no tensor."""
    if ptr is None:
        return default
    else:
        return over_channels(tl.load(ptr + channels, mask=channels < c, other=1.0), CHANNELS_LAST)


@triton.jit
def chan_merge(n, mean, m2, AXIS: tl.constexpr):
    """Chan's rule over a whole axis of groups (n, mean, M2) at once; groups of n = 0 carry mean = M2 = 0."""
    total = tl.sum(n, AXIS)
    merged = tl.sum(n * mean, AXIS) / tl.maximum(total, 1.0)
    d = mean - tl.expand_dims(merged, AXIS)
    return total, merged, tl.sum(m2 + n * d * d, AXIS)


@triton.jit
def finish_sums_kernel(partials, out0, out1, out2, t_count, c, ROWS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """partials [T, ROWS, C] summed over T; program (i, r) writes a block of row r's output [C]."""
    channels = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.program_id(1)
    acc = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for t0 in range(0, t_count, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        mask = (t < t_count)[:, None] & (channels < c)[None, :]
        acc += tl.load(partials + ((t * ROWS + row) * c)[:, None] + channels[None, :], mask=mask, other=0.0)
    total = tl.sum(acc, 0)
    if row == 0:
        tl.store(out0 + channels, total, mask=channels < c)
    if ROWS > 1:  # noqa: SIM102 - decided by the compiler, the inner one by the program
        if row == 1:
            tl.store(out1 + channels, total, mask=channels < c)
    if ROWS > 2:  # noqa: SIM102
        if row == 2:
            tl.store(out2 + channels, total, mask=channels < c)


def is_interpreting() -> bool:
    """True where TRITON_INTERPRET was set when the kernels were defined: they then run on CPU tensors."""
    return not isinstance(act_fwd, triton.JITFunction)


def unavailable_reason(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on this device, or None where they can."""
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < MIN_VERSION:
        return f"triton {triton.__version__} is installed, 3.6 or newer is needed"
    if is_interpreting():
        import numpy  # the interpreter's own dependency, nobody else's

        if version < (3, 7) and tuple(int(part) for part in numpy.__version__.split(".")[:2]) >= (2, 4):
            return f"triton {triton.__version__}'s interpreter breaks with numpy {numpy.__version__}; it needs numpy < 2.4"
        return None if device.type == "cpu" else "TRITON_INTERPRET is set: kernels run interpreted, on CPU tensors only"
    if device.type != "cuda":
        return f"Triton kernels run on CUDA devices, not on {device.type}"
    if torch.version.hip is not None:
        return "this torch is built for ROCm, the kernels were only compiled for NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, 8.0 or newer is needed"
    return None


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def empty(shape, like: Tensor, dtype: torch.dtype | None = None, channels_last: bool = False) -> Tensor:
    """Every output comes from here, so that a test can put NaN where a kernel should have written."""
    if not channels_last:
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
    memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


_HERE = nullcontext()


def on_device(x: Tensor):
    """Triton launches on the current device: make it x's. Costs nothing where it already is."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(x.device)


def tile_shape(rows: int, c: int, channels_last: bool) -> tuple[int, int]:
    """(BLOCK_R, BLOCK_C) of an elementwise tile: 2048 elements, long along memory, no longer than the tensor."""
    if channels_last:
        block_c = min(next_power_of_2(c), 64)
        return min(next_power_of_2(rows), 2048 // block_c), block_c
    block_r = min(next_power_of_2(rows), 512)
    return block_r, min(next_power_of_2(c), 2048 // block_r)


def chunks(rows: int, block_r: int, c_blocks: int) -> tuple[int, int]:
    """(T, row blocks per program) of a reduction's first stage: about a thousand programs, at most 512 partials a channel.
    Depends on the shape alone, so the order of the sum, and its bits, do too."""
    blocks = cdiv(rows, block_r)
    per_program = cdiv(blocks, min(512, max(1, 1024 // c_blocks)))
    return cdiv(blocks, per_program), per_program


def finish_sums(partials: Tensor, *outs: Tensor) -> None:
    """partials [T, len(outs), C] -> the outs, each [C]."""
    t_count, rows, c = partials.shape
    out0, out1, out2 = (*outs, None, None)[:3]
    finish_sums_kernel[(cdiv(c, 16), rows)](
        partials, out0, out1, out2, t_count, c, ROWS=rows, BLOCK_T=min(64, next_power_of_2(t_count)), BLOCK_C=16, enable_fp_fusion=True
    )
