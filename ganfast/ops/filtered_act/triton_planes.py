"""The kernel over planes: both filters on both sides of a tile. A filter that is no product of two vectors is a sum of such, one for each
of its rows."""

import triton
import triton.language as tl

from ganfast.ops.filtered_act.triton_between import act_sums, band, between, code_of, floor_div, slope_of


@triton.jit
def resampled(
    v, filter, sy, sx, ry, rx, before_y, before_x, UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, FLIP: tl.constexpr, SEPARABLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """v [sources y, sources x] at places sy, sx -> results at places ry, rx."""
    if SEPARABLE:
        left = band(filter, sy[None, :], ry[:, None], before_y, UP_Y, DOWN_Y, TAPS_Y, FLIP)
        right = band(filter, sx[:, None], rx[None, :], before_x, UP_X, DOWN_X, TAPS_X, FLIP)
        found = tl.dot(tl.dot(left, v, input_precision=PRECISION), right, input_precision=PRECISION)
    else:
        found = tl.zeros((ry.shape[0], rx.shape[0]), tl.float32)
        for r in range(TAPS_Y):
            left = tl.where(sy[None, :] * UP_Y - ry[:, None] * DOWN_Y + before_y == r, 1.0, 0.0)
            row = filter + (r if FLIP else TAPS_Y - 1 - r) * TAPS_X
            right = band(row, sx[:, None], rx[None, :], before_x, UP_X, DOWN_X, TAPS_X, FLIP)
            found += tl.dot(tl.dot(left, v, input_precision=PRECISION), right, input_precision=PRECISION)
    return found


@triton.jit
def loaded(x, y_at, x_at, h, w, shift):
    read = ((y_at >= 0) & (y_at < h))[:, None] & ((x_at >= 0) & (x_at < w))[None, :]
    v = tl.load(x + y_at[:, None] * w + x_at[None, :], mask=read, other=0.0).to(tl.float32)
    return tl.where(read, v + shift, 0.0)


@triton.jit
def filtered_act_planes_kernel(
    source, x, filter1, filter2, bias, alpha, out, signs, sums, alpha_value, gain, clamp, gain1, gain2, c, h, w, x_h, x_w, middle_h,
    middle_w, out_h, out_w, before1_y, before1_x, before2_y, before2_x, before_x_y, before_x_x, first_y, first_x, tiles_y, tiles_x,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr, TAPS1_Y: tl.constexpr, TAPS1_X: tl.constexpr,
    TAPS2_Y: tl.constexpr, TAPS2_X: tl.constexpr, FLIP1: tl.constexpr, FLIP2: tl.constexpr, SEPARABLE1: tl.constexpr,
    SEPARABLE2: tl.constexpr, ACT: tl.constexpr, PASS: tl.constexpr, TRANSPOSED: tl.constexpr, CLAMPS: tl.constexpr,
    PRECISION: tl.constexpr, STEP_Y: tl.constexpr, STEP_X: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_X: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """source [planes, h, w] -> out [planes, out_h, out_w]; of a backward x [planes, x_h, x_w]. signs [planes, middle_h,
    ceil(middle_w / 4)]. sums [planes, tiles, 3] of a backward."""
    tiles = tiles_y * tiles_x
    plane = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    channel = plane % c
    oy0, ox0 = first_y + tile // tiles_x * STEP_Y, first_x + tile % tiles_x * STEP_X
    my0, mx0 = oy0 * DOWN_Y - before2_y, ox0 * DOWN_X - before2_x
    my, mx = my0 + tl.arange(0, BLOCK_M), mx0 + tl.arange(0, BLOCK_M)
    sy = floor_div(my0 - before1_y, UP_Y) + tl.arange(0, BLOCK_S)
    sx = floor_div(mx0 - before1_x, UP_X) + tl.arange(0, BLOCK_S)
    shift = tl.load(bias + channel) if bias is not None else 0.0
    a = alpha_value if alpha is None else tl.load(alpha + channel)
    scale = tl.load(alpha + c + channel) if ACT == "snake_beta" else 0.0
    v = loaded(source + plane * h * w, sy, sx, h, w, 0.0 if TRANSPOSED else shift)
    u = (
        resampled(v, filter1, sy, sx, my, mx, before1_y, before1_x, UP_Y, UP_X, 1, 1, TAPS1_Y, TAPS1_X, FLIP1, SEPARABLE1, PRECISION)
        * gain1
    )
    inside = ((my >= 0) & (my < middle_h))[:, None] & ((mx >= 0) & (mx < middle_w))[None, :]
    packed = (middle_w + 3) // 4
    bytes_ = signs + plane * middle_h * packed if signs is not None else signs
    if PASS == "linear":
        byte = tl.load(bytes_ + my[:, None] * packed + (mx // 4)[None, :], mask=inside, other=0).to(tl.int32)
        m = u * slope_of((byte >> ((mx % 4) * 2)[None, :]) & 3, a, gain, ACT)
    elif PASS == "forward":
        if signs is not None:
            codes = tl.where(inside, code_of(u, a, gain, clamp, ACT, CLAMPS), 0)
            bits = tl.reshape(codes << (tl.arange(0, BLOCK_M) % 4 * 2)[None, :], (BLOCK_M, BLOCK_M // 4, 4))
            b = mx0 // 4 + tl.arange(0, BLOCK_M // 4)
            rows = (my < middle_h) & (my < my0 + STEP_Y * DOWN_Y)
            kept = rows[:, None] & ((b < packed) & (b < mx0 // 4 + STEP_X * DOWN_X // 4))[None, :]
            tl.store(bytes_ + my[:, None] * packed + b[None, :], tl.sum(bits, 2).to(tl.uint8), mask=kept)
        m = between(u, u, a, scale, gain, clamp, ACT, False, CLAMPS)
    else:
        iy = floor_div(my0 - before_x_y, DOWN_Y) + tl.arange(0, BLOCK_X)
        ix = floor_div(mx0 - before_x_x, DOWN_X) + tl.arange(0, BLOCK_X)
        z = loaded(x + plane * x_h * x_w, iy, ix, x_h, x_w, shift)
        z = resampled(z, filter2, iy, ix, my, mx, before_x_y, before_x_x, DOWN_Y, DOWN_X, 1, 1, TAPS2_Y, TAPS2_X, not FLIP2, SEPARABLE2,
                      PRECISION) * gain2  # fmt: skip
        if alpha is not None:
            own = inside & (my < my0 + STEP_Y * DOWN_Y)[:, None] & (mx < mx0 + STEP_X * DOWN_X)[None, :]
            of_alpha, of_scale = act_sums(u, z, a, scale, gain, clamp, ACT, CLAMPS)
            tl.store(sums + (plane * tiles + tile) * 3 + 1, tl.sum(tl.where(own, of_alpha, 0.0)))
            tl.store(sums + (plane * tiles + tile) * 3 + 2, tl.sum(tl.where(own, of_scale, 0.0)))
        m = between(u, z, a, scale, gain, clamp, ACT, True, CLAMPS)
    m = tl.where(inside, m, 0.0)
    oy, ox = oy0 + tl.arange(0, BLOCK_O), ox0 + tl.arange(0, BLOCK_O)
    y = resampled(m, filter2, my, mx, oy, ox, before2_y, before2_x, 1, 1, DOWN_Y, DOWN_X, TAPS2_Y, TAPS2_X, FLIP2, SEPARABLE2, PRECISION)
    y *= gain2 if TRANSPOSED else 1.0
    write = ((oy >= 0) & (oy < out_h) & (oy < oy0 + STEP_Y))[:, None] & ((ox >= 0) & (ox < out_w) & (ox < ox0 + STEP_X))[None, :]
    if PASS == "backward":
        tl.store(sums + (plane * tiles + tile) * 3, tl.sum(tl.where(write, y, 0.0)))
    tl.store(out + plane * out_h * out_w + oy[:, None] * out_w + ox[None, :], y.to(out.dtype.element_ty), mask=write)
