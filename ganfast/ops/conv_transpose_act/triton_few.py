"""The forward of conv_transpose_act in Triton for few output channels (images: RGB): every input element is read once a program.

One program multiplies a tile of input positions by the weights of several taps of all phases at once; a column of the product is
one (tap, phase, channel). An output then adds up columns of neighbouring positions: `tl.gather` shifts each column by its tap's
distance, through shared memory, and a sum over the taps is left. So all S * S phases come from one reading of x, where the
general kernel reads it once a tap and phase; only a tile's border is read twice, the second time from L2.

`tl.dot` with padded columns and not one multiply-add after the other: at 16 taps and 3 channels an element takes part in 48
multiply-adds, which FP32 units need longer for than memory needs to bring it; padding 12 of 16 columns costs tensor cores less.
"""

from functools import lru_cache
from math import gcd, prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import cdiv, next_power_of_2
from ganfast._triton_activations import act_fwd, signs_of
from ganfast.ops.conv_transpose_act.triton_fwd import phase

MAX_CHANNELS = 8  # output channels of a group
FEW_FROM = 4096  # input pixels from which this kernel is taken: below, a launch costs more than the reading of x
MAX_COLUMNS = 64  # of one product: taps * phases * channels, each a power of two


@triton.jit
def conv_transpose_act_fwd_few_kernel(
    x, weight, bias, alpha, residual, y, z, signs, partials, alpha_value, factor,
    c_in, c_out, h_in, w_in, h_out, w_out, tiles_h, tiles_w, ws_in, ws_out, ws_h, ws_w,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, D: tl.constexpr, G: tl.constexpr, INV: tl.constexpr, GROUPS: tl.constexpr,
    TAPS: tl.constexpr, TAP_BLOCK: tl.constexpr, OUTS: tl.constexpr, GROUP_OUT: tl.constexpr,
    TILE: tl.constexpr, VALID: tl.constexpr, FIRST: tl.constexpr,
    ACT: tl.constexpr, ADD_FIRST: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x [n, c_in, h_in, w_in], y and z [n, c_out, h_out, w_out], weight [c_in, GROUP_OUT, *K] by strides ws_*.

    Pairs are (height, width). A program's tile holds the input positions [q0 + FIRST, q0 + FIRST + TILE) and yields the outputs
    S * q + r, q in [q0, q0 + VALID), of every phase r and channel: a column of them, OUTS with padding. TAPS is the most taps of a
    phase; TAP_BLOCK of them share a product.
    """
    pid = tl.program_id(0)
    group = pid % GROUPS
    tile = pid // GROUPS
    q_w0 = tile % tiles_w * VALID[1]
    q_h0 = tile // tiles_w % tiles_h * VALID[0]
    image = tile // (tiles_w * tiles_h)
    if WIDE:
        image = image.to(tl.int64)
    group_in = c_in // GROUPS

    m = tl.arange(0, TILE[0] * TILE[1])
    m_h = m // TILE[1]
    m_w = m % TILE[1]
    i_h = q_h0 + FIRST[0] + m_h
    i_w = q_w0 + FIRST[1] + m_w
    inside = (i_h >= 0) & (i_h < h_in) & (i_w >= 0) & (i_w < w_in)
    in_v = h_in * w_in
    in_c = 1 if CHANNELS_LAST else in_v
    if WIDE:
        i_h = i_h.to(tl.int64)
    pixels = (i_h * w_in + i_w) * (c_in if CHANNELS_LAST else 1)
    x += image * c_in * in_v

    # Column (tap, output) of a product; output = (phase, channel).
    columns = tl.arange(0, TAP_BLOCK * OUTS)
    output = columns % OUTS
    r = output // GROUP_OUT
    k_h, taps_h, base_h = phase(r // S[1], K[0], S[0], P[0], D[0], G[0], INV[0])
    k_w, taps_w, base_w = phase(r % S[1], K[1], S[1], P[1], D[1], G[1], INV[1])
    from_weight = output % GROUP_OUT * ws_out
    lanes = tl.arange(0, BLOCK_K)
    if WIDE:
        lanes = lanes.to(tl.int64)

    BLOCKS: tl.constexpr = (TAPS[0] * TAPS[1] + TAP_BLOCK - 1) // TAP_BLOCK
    acc = tl.zeros((TILE[0] * TILE[1], OUTS), tl.float32)
    if BLOCKS == 1:
        product = tl.zeros((TILE[0] * TILE[1], TAP_BLOCK * OUTS), tl.float32)
    for k in range(0, group_in, BLOCK_K):
        lane_ok = k + lanes < group_in
        row = group * group_in + k + lanes
        # With memory's own direction last, or neighbouring threads would read far apart.
        if CHANNELS_LAST:
            mask = inside[:, None] if EVEN_K else inside[:, None] & lane_ok[None, :]
            a = tl.load(x + pixels[:, None] + row[None, :], mask=mask, other=0.0)
        else:
            mask = inside[None, :] if EVEN_K else inside[None, :] & lane_ok[:, None]
            a = tl.trans(tl.load(x + (row * in_c)[:, None] + pixels[None, :], mask=mask, other=0.0))
        for block in tl.range(BLOCKS, num_stages=1):  # unrolled, its products would not fit registers
            j = block * TAP_BLOCK + columns // OUTS
            j_h = j // TAPS[1]
            j_w = j % TAPS[1]
            reached = (r < S[0] * S[1]) & (j_h < taps_h) & (j_w < taps_w)
            tap = from_weight + (k_h + j_h * (S[0] // G[0])) * ws_h + (k_w + j_w * (S[1] // G[1])) * ws_w
            w_mask = reached[None, :] if EVEN_K else reached[None, :] & lane_ok[:, None]
            b = tl.load(weight + (row * ws_in)[:, None] + tap[None, :], mask=w_mask, other=0.0)
            if BLOCKS == 1:
                product = tl.dot(a, b, product, input_precision=PRECISION)
            else:
                product = tl.dot(a, b, input_precision=PRECISION)
                acc += taps_summed(product, m_h, m_w, base_h - j_h * (D[0] // G[0]), base_w - j_w * (D[1] // G[1]), reached,
                                   FIRST, TILE, OUTS)  # fmt: skip
    if BLOCKS == 1:
        j = columns // OUTS
        reached = (r < S[0] * S[1]) & (j // TAPS[1] < taps_h) & (j % TAPS[1] < taps_w)
        acc = taps_summed(product, m_h, m_w, base_h - j // TAPS[1] * (D[0] // G[0]), base_w - j % TAPS[1] * (D[1] // G[1]), reached,
                          FIRST, TILE, OUTS)  # fmt: skip

    output = tl.arange(0, OUTS)
    r = output // GROUP_OUT
    channels = group * GROUP_OUT + output % GROUP_OUT
    column_ok = r < S[0] * S[1]
    o_h = ((q_h0 + m_h) * S[0])[:, None] + (r // S[1])[None, :]
    o_w = ((q_w0 + m_w) * S[1])[:, None] + (r % S[1])[None, :]
    ok = ((m_h < VALID[0]) & (m_w < VALID[1]))[:, None] & column_ok[None, :] & (o_h < h_out) & (o_w < w_out)
    if bias is not None:
        acc += tl.load(bias + channels, mask=column_ok, other=0.0)[None, :]
    if alpha is not None:
        slope = tl.load(alpha + channels, mask=column_ok, other=1.0)[None, :]
    else:
        slope = alpha_value
    if WIDE:
        o_h = o_h.to(tl.int64)
        channels = channels.to(tl.int64)
    spot = o_h * w_out + o_w
    if CHANNELS_LAST:
        target = image * (c_out * h_out * w_out) + spot * c_out + channels[None, :]
    else:
        target = image * (c_out * h_out * w_out) + channels[None, :] * (h_out * w_out) + spot
    if residual is not None:
        added = tl.load(residual + target, mask=ok, other=0.0).to(tl.float32)
        if ADD_FIRST:
            acc += added
    out = act_fwd(acc, slope, ACT)
    if signs is not None:
        tl.store(signs + target, signs_of(out, y.dtype.element_ty, ACT), mask=ok)
    if residual is not None:
        out = (out if ADD_FIRST else out + added) * factor
    out = out.to(y.dtype.element_ty)
    tl.store(y + target, out, mask=ok)
    if z is not None:
        tl.store(z + target, acc.to(z.dtype.element_ty), mask=ok)
    if partials is not None:
        count = tl.sum(ok.to(tl.float32), 0)
        value = tl.where(ok, out.to(tl.float32), 0.0)
        mean = tl.sum(value, 0) / tl.maximum(count, 1.0)
        d = tl.where(ok, value - mean[None, :], 0.0)
        at = partials + (tile * (S[0] * S[1]) + r) * 3 * c_out + channels
        tl.store(at, count, mask=column_ok)
        tl.store(at + c_out, mean, mask=column_ok)
        tl.store(at + 2 * c_out, tl.sum(d * d, 0), mask=column_ok)


@triton.jit
def taps_summed(product, m_h, m_w, shift_h, shift_w, reached, FIRST: tl.constexpr, TILE: tl.constexpr, OUTS: tl.constexpr):
    """product [positions, taps * OUTS], every column moved by its tap's shift, then summed over the taps: [positions, OUTS]."""
    from_h = m_h[:, None] + (shift_h - FIRST[0])[None, :]
    from_w = m_w[:, None] + (shift_w - FIRST[1])[None, :]
    ok = (from_h >= 0) & (from_h < TILE[0]) & (from_w >= 0) & (from_w < TILE[1]) & reached[None, :]
    moved = tl.gather(product, tl.where(ok, from_h * TILE[1] + from_w, 0), 0)
    moved = tl.where(ok, moved, 0.0)
    return tl.sum(tl.reshape(moved, (TILE[0] * TILE[1], product.shape[1] // OUTS, OUTS)), 1)


def _axis(size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int) -> tuple[int, int, int, int, int]:
    """(outputs, outputs of the longest phase, most taps of a phase, least and greatest distance from q to a tap's input)."""
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    g = gcd(stride, dilation)
    distances = [
        (r + padding - dilation * k) // stride for r in range(stride) for k in range(kernel) if (r + padding - dilation * k) % stride == 0
    ]
    return out, cdiv(out, stride), cdiv(kernel, stride // g), min(distances), max(distances)


@lru_cache(maxsize=4096)
def _tile(positions: int, axes, sizes) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int] | None:
    """(TILE, VALID, FIRST, tiles an image) with the fewest tiles; an axis that fits whole needs no border, as only zeros lie beyond."""
    best, width = None, 1
    while width <= positions:
        tile = (positions // width, width)
        whole = [size <= t and phase_outputs <= t for t, (_, phase_outputs, *_), size in zip(tile, axes, sizes)]
        valid = tuple(t if w else t - (high - low) for t, w, (*_, low, high) in zip(tile, whole, axes))
        if min(valid) > 0:
            first = tuple(0 if w else low for w, (*_, low, _) in zip(whole, axes))
            tiles = cdiv(axes[0][1], valid[0]) * cdiv(axes[1][1], valid[1])
            if best is None or tiles <= best[3]:
                best = tile, valid, first, tiles
        width *= 2
    return best


def _geometry(x, weight, stride, padding, output_padding, dilation, groups):
    """(input sizes, kernel, stride, padding, dilation, axes), two of each, or None where the rank is not 1-D or 2-D."""
    rank = x.dim() - 2
    if rank > 2:
        return None
    fill = (1,) * (2 - rank)
    sizes, kernel = (*fill, *x.shape[2:]), (*fill, *weight.shape[2:])
    s, p, op, d = (*fill, *stride), (*(0,) * len(fill), *padding), (*(0,) * len(fill), *output_padding), (*fill, *dilation)
    return sizes, kernel, s, p, d, tuple(_axis(*axis) for axis in zip(sizes, kernel, s, p, op, d))


def few_reason(x, weight, stride, padding, output_padding, dilation, groups, channels_last) -> str | None:
    """Why this kernel cannot take the call, or None where it can."""
    group_out = weight.shape[1]
    if group_out > MAX_CHANNELS:
        return f"{group_out} output channels a group, at most {MAX_CHANNELS} are few"
    if x.dim() > 4:
        return "3-D; the few-channel kernel is 1-D and 2-D"
    if x.shape[2:].numel() == 1:
        return "one input pixel is a matrix product"
    outputs = next_power_of_2(group_out * prod(stride))
    if outputs > MAX_COLUMNS:
        return f"{outputs} outputs an input position (phases * channels, as a power of two), at most {MAX_COLUMNS}"
    if not few_configurations(x, weight, stride, padding, output_padding, dilation, groups, channels_last):
        return "the taps reach past the largest tile"
    return None


def few_configurations(x, weight, stride, padding, output_padding, dilation, groups, channels_last) -> list[str]:
    """The names of the configurations, the default first: positions a tile, the most that compile without spills at compute
    capability 8.0, 9.0 and 10.0. Exact float32 multiplies on registers, and fits fewer."""
    sizes, *_, axes = _geometry(x, weight, stride, padding, output_padding, dilation, groups)
    exact = x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision != "tf32"
    return [f"few-{m}" for m in ((128,) if exact else (256, 128)) if _tile(m, axes, sizes)]


def conv_transpose_act_fwd_few_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    stride,
    padding,
    output_padding,
    dilation,
    groups: int,
    act: str,
    alpha_value: float,
    channels_last: bool,
    save_z: bool,
    partials: bool,
    config: str = "",
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    keep_signs: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The caller has asked few_reason. config: a name that few_configurations gives, "" its first."""
    config = config or few_configurations(x, weight, stride, padding, output_padding, dilation, groups, channels_last)[0]
    sizes, kernel, s, p, d, axes = _geometry(x, weight, stride, padding, output_padding, dilation, groups)
    positions = int(config.removeprefix("few-"))
    tile, valid, first, tiles = _tile(positions, axes, sizes)
    exact = x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision != "tf32"
    n, c_in, group_out = x.shape[0], x.shape[1], weight.shape[1]
    group_in, c_out = c_in // groups, group_out * groups
    taps = (axes[0][2], axes[1][2])
    outs = next_power_of_2(s[0] * s[1] * group_out)
    tap_block = next_power_of_2(taps[0] * taps[1])
    if tap_block * outs > MAX_COLUMNS:  # several products, of half the columns: their sum takes registers too
        tap_block = max(1, MAX_COLUMNS // 2 // outs)
    outs = max(outs, 16 // tap_block)  # tensor cores take 16 columns at least
    block_k = min(16 if exact else 64 if x.itemsize == 2 else 32, max(16, next_power_of_2(group_in)))
    g = tuple(map(gcd, s, d))
    shape = (n, c_out, *[out for out, *_ in axes][4 - x.dim() :])
    y = _triton.empty(shape, x, channels_last=channels_last)
    z = _triton.empty(shape, x, channels_last=channels_last) if save_z else None
    signs = _triton.empty(shape, x, torch.bool, channels_last) if keep_signs else None
    bits = signs.view(torch.uint8) if keep_signs else None
    stats = _triton.empty((n * tiles * s[0] * s[1], 3, c_out), x, torch.float32) if partials else None
    ws_in, ws_out, *ws_taps = weight.stride()
    with _triton.on_device(x):
        conv_transpose_act_fwd_few_kernel[(n * tiles * groups,)](
            x, weight, bias, alpha, residual, y, z, bits, stats, alpha_value, factor,
            c_in, c_out, *sizes, axes[0][0], axes[1][0],
            cdiv(axes[0][1], valid[0]), cdiv(axes[1][1], valid[1]), ws_in, ws_out, *(0,) * (2 - len(ws_taps)), *ws_taps,
            K=kernel, S=s, P=p, D=d, G=g, INV=tuple(pow(b // c, -1, a // c) for a, b, c in zip(s, d, g)), GROUPS=groups,
            TAPS=taps, TAP_BLOCK=tap_block, OUTS=outs, GROUP_OUT=group_out, TILE=tile, VALID=valid, FIRST=first,
            ACT=act, ADD_FIRST=residual_first, CHANNELS_LAST=channels_last,
            WIDE=max(x.numel(), weight.numel(), y.numel()) >= _triton.wide_from,
            EVEN_K=group_in % block_k == 0, PRECISION="ieee" if exact else "tf32", BLOCK_K=block_k,
            num_warps=max(4, positions // 32), num_stages=2, enable_fp_fusion=True,
        )  # fmt: skip
    kept = signs if keep_signs else z if save_z else _triton.empty(0, x)
    return y, kept, _triton.empty(0, x, torch.float32) if stats is None else stats
