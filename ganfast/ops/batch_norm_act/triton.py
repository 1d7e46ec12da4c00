"""batch_norm_act in Triton: statistics, the normalising and activating pass, and the backward's reducing and writing passes.

Every reduction runs in two stages with a fixed order: a thousand programs at most leave partials, one launch merges them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import (
    cdiv,
    chan_merge,
    chunks,
    load_channels,
    next_power_of_2,
    over_channels,
    over_rows,
    sum_rows,
    tile_offsets,
    tile_shape,
)
from ganfast._triton_activations import act_alpha_bwd, act_bwd, act_fwd

MOST_BLOCKS = 65535  # along the second axis of a grid; images times channels may be more, so blocks of channels take two


@triton.jit
def channels_of(BLOCK_C: tl.constexpr):
    """The channels of this program's tile."""
    return (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def offsets_of(r, channels, rows, inner, c, image, CHANNELS_LAST: tl.constexpr):
    """tile_offsets of x [N, C, inner] or, with `image` = C, of the N * C = c channels that N channels_last images have when each
    has statistics of its own: row r of channel k is pixel r of image k // C. In contiguous memory that is [1, N * C, inner]."""
    if image is None:
        return tile_offsets(r, channels, rows, inner, c, CHANNELS_LAST)
    else:
        k = channels.to(r.dtype)
        mask = over_rows(r < rows, True) & over_channels(channels < c, True)
        return (r * image)[:, None] + (k // image * (image * inner) + k % image)[None, :], mask


@triton.jit
def batch_norm_act_stats_kernel(
    x, partials, rows, inner, c, image, row_blocks,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """x [N, C, inner] -> partials [T, 3, C] (n, mean, M2). Every lane runs Welford down its own rows, then the lanes merge: no
    reduction across threads until the end, and no square of a large mean."""
    t = tl.program_id(0)
    channels = channels_of(BLOCK_C)
    shape: tl.constexpr = (BLOCK_R, BLOCK_C) if CHANNELS_LAST else (BLOCK_C, BLOCK_R)
    n = tl.zeros(shape, tl.float32)
    mean = tl.zeros(shape, tl.float32)
    m2 = tl.zeros(shape, tl.float32)
    first = (t.to(tl.int64) if WIDE else t) * row_blocks * BLOCK_R
    for step in range(row_blocks):
        r = first + step * BLOCK_R + tl.arange(0, BLOCK_R)
        offsets, mask = offsets_of(r, channels, rows, inner, c, image, CHANNELS_LAST)
        v = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        n += over_rows((r < rows).to(tl.float32), CHANNELS_LAST)
        d = tl.where(mask, v - mean, 0.0)
        mean += d / tl.maximum(n, 1.0)
        m2 += d * tl.where(mask, v - mean, 0.0)
    total, merged, spread = chan_merge(n, mean, m2, 0 if CHANNELS_LAST else 1)
    at = partials + (t.to(tl.int64) if WIDE else t) * 3 * c + channels
    tl.store(at, total, mask=channels < c)
    tl.store(at + c, merged, mask=channels < c)
    tl.store(at + c + c, spread, mask=channels < c)


@triton.jit
def batch_norm_act_merge_kernel(partials, mean_out, var_out, t_count, c, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """partials [T, 3, C] -> mean and biased variance [C]: Chan's rule lane by lane down T, then over the lanes."""
    channels = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    mean = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    m2 = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for t0 in range(0, t_count, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        mask = (t < t_count)[:, None] & (channels < c)[None, :]
        at = partials + (t.to(tl.int64) * 3 * c)[:, None] + channels[None, :]
        n_new = tl.load(at, mask=mask, other=0.0)
        d = tl.load(at + c, mask=mask, other=0.0) - mean
        share = n_new / tl.maximum(n + n_new, 1.0)
        mean += d * share
        m2 += tl.load(at + c + c, mask=mask, other=0.0) + d * d * n * share
        n += n_new
    total, merged, spread = chan_merge(n, mean, m2, 0)
    tl.store(mean_out + channels, merged, mask=channels < c)
    tl.store(var_out + channels, spread / tl.maximum(total, 1.0), mask=channels < c)


@triton.jit
def batch_norm_act_fwd_kernel(
    x, mean, invstd, weight, bias, alpha, y, alpha_value, rows, inner, c, image,
    ACT: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = act((x - mean) * invstd * weight + bias), one tile a program; x, y [N, C, inner]."""
    t = tl.program_id(0)
    channels = channels_of(BLOCK_C)
    r = (t.to(tl.int64) if WIDE else t) * BLOCK_R + tl.arange(0, BLOCK_R)
    offsets, mask = offsets_of(r, channels, rows, inner, c, image, CHANNELS_LAST)
    v = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    scale = load_channels(invstd, channels, c, 1.0, CHANNELS_LAST) * load_channels(weight, channels, c, 1.0, CHANNELS_LAST)
    z = (v - load_channels(mean, channels, c, 0.0, CHANNELS_LAST)) * scale + load_channels(bias, channels, c, 0.0, CHANNELS_LAST)
    out = act_fwd(z, load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST), ACT)
    tl.store(y + offsets, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def batch_norm_act_bwd_reduce_kernel(
    gy, x, mean, invstd, weight, bias, alpha, partials, alpha_value, rows, inner, c, image, row_blocks,
    ACT: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partials [T, 2 or 3, C]: the sums of g' = gy f'(z), of g' xhat, and with alpha of gy df/dalpha."""
    t = tl.program_id(0)
    channels = channels_of(BLOCK_C)
    centre = load_channels(mean, channels, c, 0.0, CHANNELS_LAST)
    inverse = load_channels(invstd, channels, c, 1.0, CHANNELS_LAST)
    w = load_channels(weight, channels, c, 1.0, CHANNELS_LAST)
    b = load_channels(bias, channels, c, 0.0, CHANNELS_LAST)
    a = load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST)
    shape: tl.constexpr = (BLOCK_R, BLOCK_C) if CHANNELS_LAST else (BLOCK_C, BLOCK_R)
    sum_bias = tl.zeros(shape, tl.float32)
    sum_weight = tl.zeros(shape, tl.float32)
    sum_alpha = tl.zeros(shape, tl.float32)
    first = (t.to(tl.int64) if WIDE else t) * row_blocks * BLOCK_R
    for step in range(row_blocks):
        r = first + step * BLOCK_R + tl.arange(0, BLOCK_R)
        offsets, mask = offsets_of(r, channels, rows, inner, c, image, CHANNELS_LAST)
        g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32)
        xhat = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - centre) * inverse
        z = xhat * w + b
        g_z = tl.where(mask, act_bwd(g, z, a, ACT, False), 0.0)
        sum_bias += g_z
        sum_weight += tl.where(mask, g_z * xhat, 0.0)
        if alpha is not None:
            sum_alpha += tl.where(mask, act_alpha_bwd(g, z, a, ACT), 0.0)
    ROWS: tl.constexpr = 2 if alpha is None else 3
    at = partials + (t.to(tl.int64) if WIDE else t) * ROWS * c + channels
    tl.store(at, sum_rows(sum_bias, CHANNELS_LAST), mask=channels < c)
    tl.store(at + c, sum_rows(sum_weight, CHANNELS_LAST), mask=channels < c)
    if alpha is not None:
        tl.store(at + c + c, sum_rows(sum_alpha, CHANNELS_LAST), mask=channels < c)


@triton.jit
def batch_norm_act_bwd_kernel(
    gy, x, mean, invstd, weight, bias, alpha, gbias, gweight, gx, alpha_value, rows, inner, c, image,
    ACT: tl.constexpr, TRAINING: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """gx = weight * invstd * (g' - [TRAINING] * (gbias + xhat * gweight) / rows), one tile a program."""
    t = tl.program_id(0)
    channels = channels_of(BLOCK_C)
    r = (t.to(tl.int64) if WIDE else t) * BLOCK_R + tl.arange(0, BLOCK_R)
    offsets, mask = offsets_of(r, channels, rows, inner, c, image, CHANNELS_LAST)
    inverse = load_channels(invstd, channels, c, 1.0, CHANNELS_LAST)
    w = load_channels(weight, channels, c, 1.0, CHANNELS_LAST)
    a = load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST)
    g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32)
    xhat = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - load_channels(mean, channels, c, 0.0, CHANNELS_LAST)) * inverse
    g = act_bwd(g, xhat * w + load_channels(bias, channels, c, 0.0, CHANNELS_LAST), a, ACT, False)
    if TRAINING:
        sum_bias = load_channels(gbias, channels, c, 0.0, CHANNELS_LAST)
        sum_weight = load_channels(gweight, channels, c, 0.0, CHANNELS_LAST)
        g -= (sum_bias + xhat * sum_weight) / (rows * 1.0)
    tl.store(gx + offsets, (g * (w * inverse)).to(gx.dtype.element_ty), mask=mask)


def plan_of(x: Tensor, per_image: bool, channels_last: bool) -> tuple[tuple, tuple, int, dict]:
    """((rows, inner, c, image), the grid over channels, channel blocks, constants) of every kernel over x."""
    n, c = x.shape[:2]
    inner = x.numel() // (n * c)
    rows, columns = (inner, n * c) if per_image else (n * inner, c)
    block_r, block_c = tile_shape(rows, columns, channels_last)
    blocks = cdiv(columns, block_c)
    constants = {
        "CHANNELS_LAST": channels_last,
        "WIDE": x.numel() >= _triton.wide_from,
        "BLOCK_R": block_r,
        "BLOCK_C": block_c,
        "enable_fp_fusion": True,
    }
    sizes = (rows, inner, columns, c if per_image and channels_last else None)
    return sizes, (min(blocks, MOST_BLOCKS), cdiv(blocks, MOST_BLOCKS)), blocks, constants


def batch_norm_act_stats_triton(x: Tensor, per_image: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
    sizes, grid, c_blocks, constants = plan_of(x, per_image, channels_last)
    rows, _, c, _ = sizes
    t_count, row_blocks = chunks(rows, constants["BLOCK_R"], c_blocks)
    partials = _triton.empty((t_count, 3, c), x, torch.float32)
    mean, var = _triton.empty(c, x, torch.float32), _triton.empty(c, x, torch.float32)
    with _triton.on_device(x):
        batch_norm_act_stats_kernel[(t_count, *grid)](x, partials, *sizes, row_blocks, **constants)
        batch_norm_act_merge_kernel[(cdiv(c, 16),)](
            partials, mean, var, t_count, c, BLOCK_T=min(64, next_power_of_2(t_count)), BLOCK_C=16, enable_fp_fusion=True
        )
    return mean, var


def batch_norm_act_fwd_triton(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor | None,
    act: str,
    alpha_value: float,
    channels_last: bool,
) -> Tensor:
    """Every vector is [C], or [N * C] where each image has its own; so in the backward."""
    sizes, grid, _, constants = plan_of(x, len(mean) > x.shape[1], channels_last)
    y = _triton.empty(x.shape, x, channels_last=channels_last)
    with _triton.on_device(x):
        batch_norm_act_fwd_kernel[(cdiv(sizes[0], constants["BLOCK_R"]), *grid)](
            x, mean, invstd, weight, bias, alpha, y, alpha_value, *sizes, ACT=act, **constants
        )
    return y


def batch_norm_act_bwd_triton(
    gy: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor | None,
    act: str,
    alpha_value: float,
    training: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes, grid, c_blocks, constants = plan_of(x, len(mean) > x.shape[1], channels_last)
    rows, _, c, _ = sizes
    t_count, row_blocks = chunks(rows, constants["BLOCK_R"], c_blocks)
    gx = _triton.empty(x.shape, x, channels_last=channels_last)
    gbias, gweight = _triton.empty(c, x, torch.float32), _triton.empty(c, x, torch.float32)
    galpha = _triton.empty(0 if alpha is None else c, x, torch.float32)
    sums = (gbias, gweight) if alpha is None else (gbias, gweight, galpha)
    partials = _triton.empty((t_count, len(sums), c), x, torch.float32)
    with _triton.on_device(x):
        batch_norm_act_bwd_reduce_kernel[(t_count, *grid)](
            gy, x, mean, invstd, weight, bias, alpha, partials, alpha_value, *sizes, row_blocks, ACT=act, **constants
        )
        _triton.finish_sums(partials, *sums)
        batch_norm_act_bwd_kernel[(cdiv(rows, constants["BLOCK_R"]), *grid)](
            gy, x, mean, invstd, weight, bias, alpha, gbias, gweight, gx, alpha_value, *sizes,
            ACT=act, TRAINING=training, **constants,
        )  # fmt: skip
    return gx, gweight, gbias, galpha
