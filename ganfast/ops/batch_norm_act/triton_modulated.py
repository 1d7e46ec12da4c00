"""Norms with an affine from outside and a residual in Triton: one launch forward; backward sums, what follows from them, gx.

Every image's channel is a column, N * C of them, with one gain and one shift; scale and shift of x's shape, and the residual, are read
beside x. Statistics, weight, bias and alpha may be shorter than the columns: they start again for every image.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import cdiv, load_channels, next_power_of_2, sum_rows
from ganfast._triton_activations import act_alpha_bwd, act_bwd, act_fwd
from ganfast.ops.batch_norm_act import triton as passes
from ganfast.ops.batch_norm_act.modulated_reference import is_full
from ganfast.ops.batch_norm_act.triton import channels_of, offsets_of


@triton.jit
def normalised(x, offsets, mask, mean, invstd, k, stats, CHANNELS_LAST: tl.constexpr):
    """(xhat, invstd) of a tile whose columns are k."""
    inverse = load_channels(invstd, k % stats, stats, 1.0, CHANNELS_LAST)
    v = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    return (v - load_channels(mean, k % stats, stats, 0.0, CHANNELS_LAST)) * inverse, inverse


@triton.jit
def affine(xhat, weight, bias, scale, shift, residual, offsets, mask, k, columns, c, FULL: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """(weight, scale, xhat * weight + bias, z) of a tile; `residual` where it comes before the activation."""
    w = load_channels(weight, k % c, c, 1.0, CHANNELS_LAST)
    inner = xhat * w + load_channels(bias, k % c, c, 0.0, CHANNELS_LAST)
    if FULL:
        by = tl.load(scale + offsets, mask=mask, other=0.0).to(tl.float32)
        z = inner * by + tl.load(shift + offsets, mask=mask, other=0.0).to(tl.float32)
    else:
        by = load_channels(scale, k, columns, 1.0, CHANNELS_LAST)
        z = inner * by + load_channels(shift, k, columns, 0.0, CHANNELS_LAST)
    if residual is not None:
        z += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    return w, by, inner, z


@triton.jit
def batch_norm_act_modulated_fwd_kernel(
    x, mean, invstd, weight, bias, scale, shift, before, after, alpha, y, alpha_value, factor, rows, inner, columns, image, stats, c,
    ACT: tl.constexpr, FULL: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = (act((xhat * weight + bias) * scale + shift + before) + after) * factor, one tile a program."""
    t = tl.program_id(0)
    k = channels_of(BLOCK_C)
    r = (t.to(tl.int64) if WIDE else t) * BLOCK_R + tl.arange(0, BLOCK_R)
    offsets, mask = offsets_of(r, k, rows, inner, columns, image, CHANNELS_LAST)
    xhat, _ = normalised(x, offsets, mask, mean, invstd, k, stats, CHANNELS_LAST)
    _, _, _, z = affine(xhat, weight, bias, scale, shift, before, offsets, mask, k, columns, c, FULL, CHANNELS_LAST)
    out = act_fwd(z, load_channels(alpha, k % c, c, alpha_value, CHANNELS_LAST), ACT)
    if after is not None:
        out += tl.load(after + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + offsets, (out * factor).to(y.dtype.element_ty), mask=mask)


@triton.jit
def batch_norm_act_modulated_bwd_reduce_kernel(
    gy, x, mean, invstd, weight, bias, scale, shift, before, alpha, partials, alpha_value, factor, rows, inner, columns, image, stats, c,
    row_blocks,
    ACT: tl.constexpr, FULL: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partials [T, 2 or 3, columns]: the sums of h = gy * factor * f'(z), times scale where that has x's shape; of h xhat; and with alpha
    of gy * factor * df/dalpha."""
    t = tl.program_id(0)
    k = channels_of(BLOCK_C)
    a = load_channels(alpha, k % c, c, alpha_value, CHANNELS_LAST)
    shape: tl.constexpr = (BLOCK_R, BLOCK_C) if CHANNELS_LAST else (BLOCK_C, BLOCK_R)
    sum_h = tl.zeros(shape, tl.float32)
    sum_product = tl.zeros(shape, tl.float32)
    sum_alpha = tl.zeros(shape, tl.float32)
    first = (t.to(tl.int64) if WIDE else t) * row_blocks * BLOCK_R
    for step in range(row_blocks):
        r = first + step * BLOCK_R + tl.arange(0, BLOCK_R)
        offsets, mask = offsets_of(r, k, rows, inner, columns, image, CHANNELS_LAST)
        xhat, _ = normalised(x, offsets, mask, mean, invstd, k, stats, CHANNELS_LAST)
        _, by, _, z = affine(xhat, weight, bias, scale, shift, before, offsets, mask, k, columns, c, FULL, CHANNELS_LAST)
        g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32) * factor
        h = act_bwd(g, z, a, ACT, False)
        if FULL:
            h *= by
        sum_h += tl.where(mask, h, 0.0)
        sum_product += tl.where(mask, h * xhat, 0.0)
        if alpha is not None:
            sum_alpha += tl.where(mask, act_alpha_bwd(g, z, a, ACT), 0.0)
    ROWS: tl.constexpr = 2 if alpha is None else 3
    at = partials + (t.to(tl.int64) if WIDE else t) * ROWS * columns + k
    tl.store(at, sum_rows(sum_h, CHANNELS_LAST), mask=k < columns)
    tl.store(at + columns, sum_rows(sum_product, CHANNELS_LAST), mask=k < columns)
    if alpha is not None:
        tl.store(at + columns + columns, sum_rows(sum_alpha, CHANNELS_LAST), mask=k < columns)


@triton.jit
def gain_of(weight, scale, k, mask, c):
    """weight * scale of columns k: scale [columns] or none."""
    gain = tl.full(k.shape, 1.0, tl.float32)
    if weight is not None:
        gain = tl.load(weight + k % c, mask=mask, other=0.0)
    if scale is not None:
        gain *= tl.load(scale + k, mask=mask, other=0.0)
    return gain


@triton.jit
def fold_groups(sums, through, weight, scale, columns, c, width, values, first, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr):
    """BLOCK_G groups from `first` on, of `width` columns each: through [2, columns] = the means of gain h and of gain h xhat."""
    group = first + tl.arange(0, BLOCK_G)
    of_h = tl.zeros((BLOCK_G, BLOCK_W), tl.float32)
    of_product = tl.zeros((BLOCK_G, BLOCK_W), tl.float32)
    for start in range(0, width, BLOCK_W):
        i = start + tl.arange(0, BLOCK_W)
        k = (group * width)[:, None] + i[None, :]
        mask = (k < columns) & (i < width)[None, :]
        gain = gain_of(weight, scale, k, mask, c)
        of_h += gain * tl.load(sums + k, mask=mask, other=0.0)
        of_product += gain * tl.load(sums + columns + k, mask=mask, other=0.0)
    offset, slope = tl.sum(of_h, 1) / values, tl.sum(of_product, 1) / values
    for start in range(0, width, BLOCK_W):
        i = start + tl.arange(0, BLOCK_W)
        k = (group * width)[:, None] + i[None, :]
        mask = (k < columns) & (i < width)[None, :]
        tl.store(through + k, tl.broadcast_to(offset[:, None], k.shape), mask=mask)
        tl.store(through + columns + k, tl.broadcast_to(slope[:, None], k.shape), mask=mask)


@triton.jit
def modulated_norm_act_fold_kernel(
    sums, through, weight, bias, scale, gweight, gbias, galpha, gscale, gshift, columns, c, width, group_blocks, values,
    GROUPED: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """All that follows from sums [2 or 3, columns]. The first group_blocks programs look at groups of columns, the others at channels, down
    the images: the vectors' gradients, and `through` where a channel of all images is normalised together."""
    pid = tl.program_id(0)
    if pid < group_blocks:
        if GROUPED:
            fold_groups(sums, through, weight, scale, columns, c, width, values, pid * BLOCK_G, BLOCK_G, BLOCK_W)
    else:
        channels = (pid - group_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = channels < c
        w = load_channels(weight, channels, c, 1.0, True)
        b = load_channels(bias, channels, c, 0.0, True)
        of_h = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        of_product = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        of_alpha = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        for first in range(0, columns, BLOCK_N * c):
            k = first + (tl.arange(0, BLOCK_N) * c)[:, None] + channels[None, :]
            mask = (k < columns) & inside[None, :]
            h = tl.load(sums + k, mask=mask, other=0.0)
            product = tl.load(sums + columns + k, mask=mask, other=0.0)
            if galpha is not None:
                of_alpha += tl.load(sums + columns + columns + k, mask=mask, other=0.0)
            if scale is None:
                of_h += h
                of_product += product
            else:
                by = tl.load(scale + k, mask=mask, other=0.0)
                of_h += h * by
                of_product += product * by
                tl.store(gscale + k, product * w + h * b, mask=mask)
                tl.store(gshift + k, h, mask=mask)
        sum_h, sum_product = tl.sum(of_h, 0), tl.sum(of_product, 0)
        tl.store(gbias + channels, sum_h, mask=inside)
        tl.store(gweight + channels, sum_product, mask=inside)
        if galpha is not None:
            tl.store(galpha + channels, tl.sum(of_alpha, 0), mask=inside)
        if through is not None:  # noqa: SIM102 - the compiler decides both, and knows `and` of constants alone
            if not GROUPED:
                for first in range(0, columns, BLOCK_N * c):
                    k = first + (tl.arange(0, BLOCK_N) * c)[:, None] + channels[None, :]
                    mask = (k < columns) & inside[None, :]
                    tl.store(through + k, tl.broadcast_to(sum_h[None, :] * w / values, k.shape), mask=mask)
                    tl.store(through + columns + k, tl.broadcast_to(sum_product[None, :] * w / values, k.shape), mask=mask)


@triton.jit
def batch_norm_act_modulated_bwd_kernel(
    gy, x, mean, invstd, weight, bias, scale, shift, before, alpha, through, gx, gscale, gshift, alpha_value, factor, rows, inner, columns,
    image, stats, c,
    ACT: tl.constexpr, FULL: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """gx = invstd * (weight * scale * g - through[0] - xhat * through[1]), g = gy * factor * f'(z); gscale = g * (xhat * weight + bias) and
    gshift = g where they have x's shape, gshift also for a residual before the activation."""
    t = tl.program_id(0)
    k = channels_of(BLOCK_C)
    r = (t.to(tl.int64) if WIDE else t) * BLOCK_R + tl.arange(0, BLOCK_R)
    offsets, mask = offsets_of(r, k, rows, inner, columns, image, CHANNELS_LAST)
    xhat, inverse = normalised(x, offsets, mask, mean, invstd, k, stats, CHANNELS_LAST)
    w, by, before_scale, z = affine(xhat, weight, bias, scale, shift, before, offsets, mask, k, columns, c, FULL, CHANNELS_LAST)
    g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32) * factor
    g = act_bwd(g, z, load_channels(alpha, k % c, c, alpha_value, CHANNELS_LAST), ACT, False)
    if gscale is not None:
        tl.store(gscale + offsets, (g * before_scale).to(gscale.dtype.element_ty), mask=mask)
    if gshift is not None:
        tl.store(gshift + offsets, g.to(gshift.dtype.element_ty), mask=mask)
    out = g * by * w
    if through is not None:
        out -= load_channels(through, k, columns, 0.0, CHANNELS_LAST)
        out -= xhat * load_channels(through + columns, k, columns, 0.0, CHANNELS_LAST)
    tl.store(gx + offsets, (out * inverse).to(gx.dtype.element_ty), mask=mask)


def batch_norm_act_modulated_fwd_triton(
    x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor, channels_last
) -> Tensor:
    """Vectors in float32: statistics [C] or [N * C], weight, bias and alpha [C], scale and shift [N, C]; or these two of x's shape."""
    sizes, grid, _, constants = passes.plan_of(x, True, channels_last)
    y = _triton.empty(x.shape, x, channels_last=channels_last)
    before, after = (residual, None) if residual_first else (None, residual)
    with _triton.on_device(x):
        batch_norm_act_modulated_fwd_kernel[(cdiv(sizes[0], constants["BLOCK_R"]), *grid)](
            x, mean, invstd, weight, bias, scale, shift, before, after, alpha, y, alpha_value, factor, *sizes, len(mean), x.shape[1],
            ACT=act, FULL=is_full(x, scale), **constants,
        )  # fmt: skip
    return y


def fold(sums: Tensor, x: Tensor, weight, bias, scale, alpha, groups: int, training: bool):
    """sums [2 or 3, N * C] -> (through [2, N * C] or None, gweight, gbias, galpha [C] or None, gscale, gshift [N * C] or None)."""
    c, columns = x.shape[1], sums.shape[1]
    n, width = columns // c, c // groups if groups else 1
    new = lambda count, there=True: _triton.empty(count, x, torch.float32) if there else None
    through = new((2, columns), training)
    gweight, gbias, galpha = new(c), new(c), new(c, alpha is not None)
    gscale, gshift = new(columns, scale is not None), new(columns, scale is not None)
    block_w = min(next_power_of_2(width), 64)
    block_g = min(1024 // block_w, next_power_of_2(columns // width))
    group_blocks = cdiv(columns // width, block_g) if groups and training else 0
    block_c = min(16, next_power_of_2(c))
    modulated_norm_act_fold_kernel[(group_blocks + cdiv(c, block_c),)](
        sums, through, weight, bias, scale, gweight, gbias, galpha, gscale, gshift, columns, c, width, group_blocks,
        float(x.numel() // (n * groups if groups else c)),
        GROUPED=groups > 0, BLOCK_G=block_g, BLOCK_W=block_w, BLOCK_N=min(64, next_power_of_2(n)), BLOCK_C=block_c, enable_fp_fusion=True,
    )  # fmt: skip
    return through, gweight, gbias, galpha, gscale, gshift


def batch_norm_act_modulated_bwd_triton(
    gy, x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, factor, groups, training, channels_last
) -> tuple[Tensor, ...]:
    """`residual`: where it comes before the activation. Gives what the schema in modulated.py says."""
    sizes, grid, c_blocks, constants = passes.plan_of(x, True, channels_last)
    rows, _, columns, _ = sizes
    full = is_full(x, scale)
    t_count, row_blocks = passes.chunks(rows, constants["BLOCK_R"], c_blocks)
    partials = _triton.empty((t_count, 2 if alpha is None else 3, columns), x, torch.float32)
    like_x = lambda there=True: _triton.empty(x.shape, x, channels_last=channels_last) if there else None
    gx, full_scale, full_shift = like_x(), like_x(full), like_x(full or residual is not None)
    operands = (gy, x, mean, invstd, weight, bias, scale, shift, residual, alpha)
    constants |= {"ACT": act, "FULL": full}
    with _triton.on_device(x):
        batch_norm_act_modulated_bwd_reduce_kernel[(t_count, *grid)](
            *operands, partials, alpha_value, factor, *sizes, len(mean), x.shape[1], row_blocks, **constants
        )
        sums = partials[0]
        if t_count > 1:
            sums = _triton.empty(sums.shape, x, torch.float32)
            _triton.finish_sums(partials, *sums)
        through, gweight, gbias, galpha, gscale, gshift = fold(sums, x, weight, bias, None if full else scale, alpha, groups, training)
        batch_norm_act_modulated_bwd_kernel[(cdiv(rows, constants["BLOCK_R"]), *grid)](
            *operands, through, gx, full_scale, full_shift, alpha_value, factor, *sizes, len(mean), x.shape[1], **constants
        )
    found = (gx, gweight, gbias, galpha, full_scale if full else gscale, full_shift if full else gshift, None if full else full_shift)
    return tuple(_triton.empty(0, x, torch.float32) if g is None else g for g in found)
