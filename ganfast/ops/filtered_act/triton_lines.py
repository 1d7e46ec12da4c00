"""The kernel over lines [N, C, L]: a program has the same piece of several channels."""

import triton
import triton.language as tl

from ganfast.ops.filtered_act.triton_between import act_sums, band, between, code_of, floor_div, folded_band, slope_of


@triton.jit
def filtered_act_lines_kernel(
    source, x, filter1, filter2, bias, alpha, out, signs, sums, alpha_value, gain, clamp, gain1, gain2, planes, c, size, size_x, middle,
    size_out, before1, before2, before_x, first_out, tiles, UP: tl.constexpr, DOWN: tl.constexpr, TAPS1: tl.constexpr, TAPS2: tl.constexpr,
    FLIP1: tl.constexpr, FLIP2: tl.constexpr, ACT: tl.constexpr, PASS: tl.constexpr, TRANSPOSED: tl.constexpr, CLAMPS: tl.constexpr,
    REPLICATE: tl.constexpr, PRECISION: tl.constexpr, STEP: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """source [planes, size] -> out [planes, size_out]; of a backward x [planes, size_x]. The first map goes up by UP, the second down by
    DOWN. signs [planes, ceil(middle / 4)]: written by a forward, read by PASS "linear". sums [planes, tiles, 3] of a backward."""
    tile = tl.program_id(0) % tiles
    plane = tl.program_id(0) // tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    there = (plane < planes)[:, None]
    o0 = first_out + tile * STEP
    m0 = o0 * DOWN - before2
    m = m0 + tl.arange(0, BLOCK_M)
    s0 = floor_div(m0 - before1, UP)
    s = s0 + tl.arange(0, BLOCK_S)
    row = plane.to(tl.int64)
    channel = plane % c
    shift = tl.load(bias + channel, mask=plane < planes, other=0.0)[:, None] if bias is not None else 0.0
    if alpha is None:
        a = alpha_value
    else:
        a = tl.load(alpha + channel, mask=plane < planes, other=1.0)[:, None]
    scale = tl.load(alpha + c + channel, mask=plane < planes, other=0.0)[:, None] if ACT == "snake_beta" else 0.0
    inside = (m >= 0) & (m < middle)
    near = (m0 <= 0) | (m0 + BLOCK_M >= middle)
    if REPLICATE and not TRANSPOSED:
        v = (
            tl.load(source + row[:, None] * size + tl.minimum(tl.maximum(s, 0), size - 1)[None, :], mask=there, other=0.0).to(tl.float32)
            + shift
        )
        held = tl.minimum(tl.maximum(m, 0), middle - 1)
        first = band(filter1, s[:, None], held[None, :], before1, UP, 1, TAPS1, FLIP1)
    else:
        read = there & (s >= 0)[None, :] & (s < size)[None, :]
        v = tl.load(source + row[:, None] * size + s[None, :], mask=read, other=0.0).to(tl.float32)
        if not TRANSPOSED:
            v = tl.where(read, v + shift, 0.0)
        if REPLICATE:
            first = folded_band(filter1, s[:, None], m[None, :], before1, middle - 1, UP, 1, TAPS1, FLIP1, near)
        else:
            first = band(filter1, s[:, None], m[None, :], before1, UP, 1, TAPS1, FLIP1)
    h = tl.dot(v, first, input_precision=PRECISION) * gain1
    packed = (middle + 3) // 4
    at = row[:, None] * packed + (m // 4)[None, :]
    if PASS == "linear":
        byte = tl.load(signs + at, mask=there & inside[None, :], other=0).to(tl.int32)
        h *= slope_of((byte >> ((m % 4) * 2)[None, :]) & 3, a, gain, ACT)
    elif PASS == "forward":
        if signs is not None:
            codes = tl.where(inside[None, :], code_of(h, a, gain, clamp, ACT, CLAMPS), 0)
            bits = tl.reshape(codes << (tl.arange(0, BLOCK_M) % 4 * 2)[None, :], (BLOCK_P, BLOCK_M // 4, 4))
            b = m0 // 4 + tl.arange(0, BLOCK_M // 4)
            kept = there & (b < packed)[None, :] & (b < m0 // 4 + STEP * DOWN // 4)[None, :]
            tl.store(signs + row[:, None] * packed + b[None, :], tl.sum(bits, 2).to(tl.uint8), mask=kept)
        h = between(h, h, a, scale, gain, clamp, ACT, False, CLAMPS)
    else:
        x0 = floor_div(m0 - before_x, DOWN)
        i = x0 + tl.arange(0, BLOCK_X)
        if REPLICATE:
            z = (
                tl.load(x + row[:, None] * size_x + tl.minimum(tl.maximum(i, 0), size_x - 1)[None, :], mask=there, other=0.0).to(tl.float32)
                + shift
            )
        else:
            read_x = there & (i >= 0)[None, :] & (i < size_x)[None, :]
            z = tl.where(read_x, tl.load(x + row[:, None] * size_x + i[None, :], mask=read_x, other=0.0).to(tl.float32) + shift, 0.0)
        u = tl.dot(z, band(filter2, i[:, None], m[None, :], before_x, DOWN, 1, TAPS2, not FLIP2), input_precision=PRECISION) * gain2
        if alpha is not None:
            own = there & (inside & (m < m0 + STEP * DOWN))[None, :]
            of_alpha, of_scale = act_sums(h, u, a, scale, gain, clamp, ACT, CLAMPS)
            tl.store(sums + (row * tiles + tile) * 3 + 1, tl.sum(tl.where(own, of_alpha, 0.0), 1), mask=plane < planes)
            tl.store(sums + (row * tiles + tile) * 3 + 2, tl.sum(tl.where(own, of_scale, 0.0), 1), mask=plane < planes)
        h = between(h, u, a, scale, gain, clamp, ACT, True, CLAMPS)
    if not REPLICATE or TRANSPOSED:
        h = tl.where(inside[None, :], h, 0.0)
    o = o0 + tl.arange(0, BLOCK_O)
    if REPLICATE and TRANSPOSED:
        second = folded_band(filter2, m[:, None], o[None, :], before2, size_out - 1, 1, DOWN, TAPS2, FLIP2, near)
    else:
        second = band(filter2, m[:, None], o[None, :], before2, 1, DOWN, TAPS2, FLIP2)
    y = tl.dot(h, second, input_precision=PRECISION) * (gain2 if TRANSPOSED else 1.0)
    write = there & (o >= 0)[None, :] & (o < size_out)[None, :] & (o < o0 + STEP)[None, :]
    if PASS == "backward":
        tl.store(sums + (row * tiles + tile) * 3, tl.sum(tl.where(write, y, 0.0), 1), mask=plane < planes)
    tl.store(out + row[:, None] * size_out + o[None, :], y.to(out.dtype.element_ty), mask=write)
