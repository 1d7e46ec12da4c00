"""group_norm_act in Triton, a program a group: statistics, normalising and activating in one launch, the backward in one and a sum over
its programs. A tile is a group of BLOCK_G images, [BLOCK_G, channels, pixels], or [BLOCK_G, pixels, channels] where channels lie side by
side in memory; it stays in registers from its loads to its stores. For larger groups the merging of their channels' statistics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import cdiv, chan_merge, chunks, next_power_of_2
from ganfast._triton_activations import act_alpha_bwd, act_bwd, act_fwd
from ganfast.ops.batch_norm_act import triton as passes


@triton.jit
def over_pixels(v, LAST: tl.constexpr):
    """A number for each image and channel, [G, W], broadcast over the tile's pixels."""
    return v[:, None, :] if LAST else v[:, :, None]


@triton.jit
def sum_pixels(tile, LAST: tl.constexpr):
    """[G, W]: the tile summed over its pixels."""
    return tl.sum(tile, 1 if LAST else 2)


@triton.jit
def per_image(v):
    return v[:, None, None]


@triton.jit
def tile_at(images, n, group, width, inner, c, LAST: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_P: tl.constexpr):
    """(memory offsets, mask) of the tile; images [G], 64-bit where the tensor needs it."""
    i, p = tl.arange(0, BLOCK_W), tl.arange(0, BLOCK_P)
    channels = (group * width + i).to(images.dtype)
    if LAST:
        offsets = per_image(images * (c * inner)) + (p.to(images.dtype) * c)[None, :, None] + channels[None, None, :]
        mask = per_image(images < n) & (p < inner)[None, :, None] & (i < width)[None, None, :]
    else:
        offsets = per_image(images * (c * inner)) + (channels * inner)[None, :, None] + p[None, None, :]
        mask = per_image(images < n) & (i < width)[None, :, None] & (p < inner)[None, None, :]
    return offsets, mask


@triton.jit
def channel_vector(ptr, channels, inside, default):
    """A number a channel, [1, W], or the scalar `default`."""
    if ptr is None:
        return default
    else:
        return tl.load(ptr + channels, mask=inside, other=1.0)[None, :]


@triton.jit
def affine_of(weight, bias, scale, shift, images, n, channels, inside, c):
    """(weight, bias, scale, gain, offset): z = xhat * gain + offset; [1, W], or [G, W] with scale and shift [N, C]."""
    ones = tl.full((1, channels.shape[0]), 1.0, tl.float32)
    w = channel_vector(weight, channels, inside, 1.0) * ones
    b = channel_vector(bias, channels, inside, 0.0) * ones
    if scale is None:
        return w, b, ones, w, b
    else:
        mask = (images < n)[:, None] & inside[None, :]
        at = (images * c)[:, None] + channels[None, :]
        by = tl.load(scale + at, mask=mask, other=0.0)
        return w, b, by, w * by, b * by + tl.load(shift + at, mask=mask, other=0.0)


@triton.jit
def group_norm_act_fwd_kernel(
    x, weight, bias, scale, shift, alpha, y, mean_out, invstd_out, eps, alpha_value, n, groups, width, inner, c,
    ACT: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """y, mean and invstd [N, groups]."""
    group = tl.program_id(0) % groups
    images = tl.program_id(0) // groups * BLOCK_G + tl.arange(0, BLOCK_G)
    images = images.to(tl.int64) if WIDE else images
    offsets, mask = tile_at(images, n, group, width, inner, c, LAST, BLOCK_W, BLOCK_P)
    i = tl.arange(0, BLOCK_W)
    channels, inside = group * width + i, i < width
    v = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    count = width * inner * 1.0
    centre = tl.sum(sum_pixels(v, LAST), 1) / count
    d = tl.where(mask, v - per_image(centre), 0.0)
    rest = tl.sum(sum_pixels(d, LAST), 1) / count  # what rounding left of the mean
    var = tl.sum(sum_pixels(d * d, LAST), 1) / count - rest * rest
    inverse = 1.0 / tl.sqrt(tl.maximum(var, 0.0) + eps)
    _, _, _, gain, offset = affine_of(weight, bias, scale, shift, images, n, channels, inside, c)
    z = (d - per_image(rest)) * per_image(inverse) * over_pixels(gain, LAST) + over_pixels(offset, LAST)
    a = channel_vector(alpha, channels, inside, alpha_value)
    a = a if alpha is None else over_pixels(a, LAST)
    tl.store(y + offsets, act_fwd(z, a, ACT).to(y.dtype.element_ty), mask=mask)
    tl.store(mean_out + images * groups + group, centre + rest, mask=images < n)
    tl.store(invstd_out + images * groups + group, inverse, mask=images < n)


@triton.jit
def group_norm_act_bwd_kernel(
    gy, x, mean, invstd, weight, bias, scale, shift, alpha, gx, gscale, gshift, partials, alpha_value, n, groups, width, inner, c, steps,
    ACT: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """gx = invstd * (gain * g - mean(gain g) - xhat * mean(gain g xhat)), g = gy * f'(z), gain = weight * scale; gscale and gshift [N, C];
    partials [T, 2 or 3, C]: this program's share of gbias, gweight and galpha."""
    group, t = tl.program_id(0) % groups, tl.program_id(0) // groups
    i = tl.arange(0, BLOCK_W)
    channels, inside = group * width + i, i < width
    a = channel_vector(alpha, channels, inside, alpha_value)
    a = a if alpha is None else over_pixels(a, LAST)
    of_bias = tl.zeros((BLOCK_G, BLOCK_W), tl.float32)
    of_weight = tl.zeros((BLOCK_G, BLOCK_W), tl.float32)
    of_alpha = tl.zeros((BLOCK_G, BLOCK_W), tl.float32)
    for step in range(steps):
        images = (t * steps + step) * BLOCK_G + tl.arange(0, BLOCK_G)
        images = images.to(tl.int64) if WIDE else images
        offsets, mask = tile_at(images, n, group, width, inner, c, LAST, BLOCK_W, BLOCK_P)
        w, b, by, gain, offset = affine_of(weight, bias, scale, shift, images, n, channels, inside, c)
        inverse = per_image(tl.load(invstd + images * groups + group, mask=images < n, other=1.0))
        centre = per_image(tl.load(mean + images * groups + group, mask=images < n, other=0.0))
        xhat = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - centre) * inverse
        g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32)
        z = xhat * over_pixels(gain, LAST) + over_pixels(offset, LAST)
        if alpha is not None:
            of_alpha += sum_pixels(tl.where(mask, act_alpha_bwd(g, z, a, ACT), 0.0), LAST)
        g = tl.where(mask, act_bwd(g, z, a, ACT, False), 0.0)
        sum_g = sum_pixels(g, LAST)
        sum_product = sum_pixels(tl.where(mask, g * xhat, 0.0), LAST)
        of_bias += sum_g * by
        of_weight += sum_product * by
        if gscale is not None:
            at = (images * c)[:, None] + channels[None, :]
            there = (images < n)[:, None] & inside[None, :]
            tl.store(gscale + at, sum_product * w + sum_g * b, mask=there)
            tl.store(gshift + at, sum_g, mask=there)
        count = width * inner * 1.0
        through = per_image(tl.sum(sum_g * gain, 1) / count) + xhat * per_image(tl.sum(sum_product * gain, 1) / count)
        tl.store(gx + offsets, (inverse * (over_pixels(gain, LAST) * g - through)).to(gx.dtype.element_ty), mask=mask)
    ROWS: tl.constexpr = 2 if alpha is None else 3
    at = partials + t.to(tl.int64) * ROWS * c + channels
    tl.store(at, tl.sum(of_bias, 0), mask=inside)
    tl.store(at + c, tl.sum(of_weight, 0), mask=inside)
    if alpha is not None:
        tl.store(at + c + c, tl.sum(of_alpha, 0), mask=inside)


@triton.jit
def group_norm_act_merge_kernel(
    partials, mean_out, invstd_out, mean_columns, invstd_columns, eps, t_count, columns, width, BLOCK: tl.constexpr
):
    """partials [T, 3, N * C] (n, mean, M2) -> mean and invstd of every group, [N * groups] and spread over its channels, [N * C]: Chan's
    rule lane by lane over T and the group's channels, then over the lanes."""
    first = tl.program_id(0) * width
    n = tl.zeros((1, BLOCK), tl.float32)
    mean = tl.zeros((1, BLOCK), tl.float32)
    m2 = tl.zeros((1, BLOCK), tl.float32)
    for start in range(0, t_count * width, BLOCK):
        e = start + tl.arange(0, BLOCK)[None, :]
        mask = e < t_count * width
        at = partials + (e // width).to(tl.int64) * 3 * columns + first + e % width
        n_new = tl.load(at, mask=mask, other=0.0)
        d = tl.where(n_new > 0, tl.load(at + columns, mask=mask, other=0.0) - mean, 0.0)
        share = n_new / tl.maximum(n + n_new, 1.0)
        mean += d * share
        m2 += tl.load(at + columns + columns, mask=mask, other=0.0) + d * d * n * share
        n += n_new
    total, merged, spread = chan_merge(n, mean, m2, 1)
    inverse = 1.0 / tl.sqrt(spread / total + eps)
    one = tl.arange(0, 1)
    tl.store(mean_out + tl.program_id(0) + one, merged)
    tl.store(invstd_out + tl.program_id(0) + one, inverse)
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(mean_columns + first + i, tl.broadcast_to(merged, i.shape), mask=i < width)
        tl.store(invstd_columns + first + i, tl.broadcast_to(inverse, i.shape), mask=i < width)


def group_norm_act_stats_triton(x: Tensor, groups: int, eps: float, channels_last: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean, invstd [N * groups], the same as [N * C])."""
    sizes, grid, c_blocks, constants = passes.plan_of(x, True, channels_last)
    rows, _, columns, _ = sizes
    t_count, row_blocks = passes.chunks(rows, constants["BLOCK_R"], c_blocks)
    width = x.shape[1] // groups
    block = min(1024, max(32, next_power_of_2(t_count * width)))
    partials = _triton.empty((t_count, 3, columns), x, torch.float32)
    found = [_triton.empty(count, x, torch.float32) for count in (columns // width, columns // width, columns, columns)]
    with _triton.on_device(x):
        passes.batch_norm_act_stats_kernel[(t_count, *grid)](x, partials, *sizes, row_blocks, **constants)
        group_norm_act_merge_kernel[(columns // width,)](
            partials, *found, eps, t_count, columns, width, BLOCK=block, enable_fp_fusion=True
        )
    return tuple(found)


def _tiles(x: Tensor, groups: int, channels_last: bool) -> tuple[int, dict]:
    """(images a tile, constants): 2048 elements on 4 warps where groups are small, else the whole group, on up to 16."""
    n, c = x.shape[:2]
    width, inner = c // groups, x.numel() // (n * c)
    block_w, block_p = next_power_of_2(width), next_power_of_2(inner)
    block_g = min(next_power_of_2(n), max(1, 2048 // (block_w * block_p)))
    return block_g, {
        "LAST": channels_last or inner == 1,
        "WIDE": x.numel() >= _triton.wide_from,
        "BLOCK_G": block_g,
        "BLOCK_W": block_w,
        "BLOCK_P": block_p,
        "num_warps": min(16, max(4, block_g * block_w * block_p // 512)),
        "enable_fp_fusion": True,
    }


def group_norm_act_fwd_triton(
    x, weight, bias, scale, shift, alpha, groups, eps, act, alpha_value, channels_last
) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors in float32: weight, bias and alpha [C], scale and shift [N, C]. Gives (y, mean, invstd [N * groups])."""
    n, c = x.shape[:2]
    block_g, constants = _tiles(x, groups, channels_last)
    y = _triton.empty(x.shape, x, channels_last=channels_last)
    mean, invstd = (_triton.empty(n * groups, x, torch.float32) for _ in range(2))
    with _triton.on_device(x):
        group_norm_act_fwd_kernel[(cdiv(n, block_g) * groups,)](
            x, weight, bias, scale, shift, alpha, y, mean, invstd, eps, alpha_value, n, groups, c // groups, x.numel() // (n * c), c,
            ACT=act, **constants,
        )  # fmt: skip
    return y, mean, invstd


def group_norm_act_bwd_triton(
    gy, x, mean, invstd, weight, bias, scale, shift, alpha, groups, act, alpha_value, channels_last
) -> tuple[Tensor, ...]:
    """(gx, gweight, gbias, galpha, gscale, gshift), empty where there is no such tensor."""
    n, c = x.shape[:2]
    block_g, constants = _tiles(x, groups, channels_last)
    t_count, steps = chunks(n, block_g, groups)
    new = lambda count, there=True: _triton.empty(count if there else 0, x, torch.float32)
    gx = _triton.empty(x.shape, x, channels_last=channels_last)
    gweight, gbias, galpha = new(c), new(c), new(c, alpha is not None)
    gscale, gshift = new(n * c, scale is not None), new(n * c, scale is not None)
    sums = (gbias, gweight) if alpha is None else (gbias, gweight, galpha)
    partials = _triton.empty((t_count, len(sums), c), x, torch.float32)
    of_scale = (None, None) if scale is None else (gscale, gshift)
    with _triton.on_device(x):
        group_norm_act_bwd_kernel[(t_count * groups,)](
            gy, x, mean, invstd, weight, bias, scale, shift, alpha, gx, *of_scale, partials, alpha_value, n, groups, c // groups,
            x.numel() // (n * c), c, steps, ACT=act, **constants,
        )  # fmt: skip
        _triton.finish_sums(partials, *sums)
    return gx, gweight, gbias, galpha, gscale, gshift
