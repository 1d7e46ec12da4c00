"""The forward kernels of conv_transpose_act in Triton: pointers and masks for every GPU, and a GEMM for 1x1 inputs.

All ranks run as 3-D: a unit dimension is a constant 1 to the compiler and folds away. x and y are dense in one of the two
layouts; the weight is read through its strides. Per-dimension constants come as triples (depth, height, width).
"""

import triton
import triton.language as tl

from ganfast._triton_activations import act_fwd, signs_of


@triton.jit
def phase(r, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, D: tl.constexpr, G: tl.constexpr, INV: tl.constexpr):
    """Phase r of one dimension: (first tap, number of taps, input of that tap for q = 0). G = gcd(S, D), INV = (D/G)^-1 mod S/G."""
    k0 = ((r + P) // G * INV) % (S // G)
    taps = tl.maximum(K - k0 + S // G - 1, 0) // (S // G)
    taps = tl.where((r + P) % G == 0, taps, 0)
    # The numerator can be negative (D > 1): where there are taps the division is exact, so truncation and floor agree.
    return k0, taps, (r + P - D * k0) // S


@triton.jit
def load_tile(at, row_ok, column_ok, offsets, columns, COLUMNS_LAST: tl.constexpr):
    """[BLOCK_M, BLOCK_N] in float32 of an image that lies as y does; memory's own direction is last, as in store_tile."""
    if COLUMNS_LAST:
        tile = tl.load(at + offsets[:, None] + columns[None, :], mask=row_ok[:, None] & column_ok[None, :], other=0.0)
    else:
        tile = tl.trans(tl.load(at + offsets[None, :] + columns[:, None], mask=row_ok[None, :] & column_ok[:, None], other=0.0))
    return tile.to(tl.float32)


@triton.jit
def store_tile(at, tile, row_ok, column_ok, offsets, columns, COLUMNS_LAST: tl.constexpr):
    """Stored with memory's own direction last, or neighbouring threads would write far apart."""
    if COLUMNS_LAST:
        tl.store(at + offsets[:, None] + columns[None, :], tile, mask=row_ok[:, None] & column_ok[None, :])
    else:
        tl.store(at + offsets[None, :] + columns[:, None], tl.trans(tile), mask=row_ok[None, :] & column_ok[:, None])


@triton.jit
def store_outputs(acc, offsets, columns, channels, row_ok, column_ok, count, part, y, z, partials, bias, alpha, alpha_value,
                  residual, signs, factor, c_out, ACT: tl.constexpr, ADD_FIRST: tl.constexpr, COLUMNS_LAST: tl.constexpr):  # fmt: skip
    """Epilogue: acc [BLOCK_M, BLOCK_N] float32 -> y = (act(z) + residual) * factor, or act(z + residual) * factor if ADD_FIRST; z, what
    the activation is applied to, the activation's signs and the statistics of every column, each where there is a tensor for it.

    offsets [BLOCK_M] + columns [BLOCK_N] address y; channels [BLOCK_N] are output channels; count is the number of row_ok rows;
    part [BLOCK_N] is the column's row of `partials` [T, 3, c_out].
    """
    if bias is not None:
        acc += tl.load(bias + channels, mask=column_ok, other=0.0)[None, :]
    if alpha is not None:
        a = tl.load(alpha + channels, mask=column_ok, other=1.0)[None, :]
    else:
        a = alpha_value
    if residual is not None:
        added = load_tile(residual, row_ok, column_ok, offsets, columns, COLUMNS_LAST)
        if ADD_FIRST:
            acc += added
    out = act_fwd(acc, a, ACT)
    if signs is not None:
        store_tile(signs, signs_of(out, y.dtype.element_ty, ACT), row_ok, column_ok, offsets, columns, COLUMNS_LAST)
    if residual is not None:
        out = (out if ADD_FIRST else out + added) * factor
    out = out.to(y.dtype.element_ty)
    store_tile(y, out, row_ok, column_ok, offsets, columns, COLUMNS_LAST)
    if z is not None:
        store_tile(z, acc.to(z.dtype.element_ty), row_ok, column_ok, offsets, columns, COLUMNS_LAST)
    if partials is not None:
        value = tl.where(row_ok[:, None], out.to(tl.float32), 0.0)
        mean = tl.sum(value, 0) / tl.maximum(count, 1.0)
        d = tl.where(row_ok[:, None], value - mean[None, :], 0.0)
        at = partials + part * 3 * c_out + channels
        tl.store(at, tl.zeros_like(mean) + count, mask=column_ok)
        tl.store(at + c_out, mean, mask=column_ok)
        tl.store(at + 2 * c_out, tl.sum(d * d, 0), mask=column_ok)


@triton.jit
def conv_transpose_act_fwd_kernel(
    x, weight, bias, alpha, residual, y, z, signs, partials, alpha_value, factor,
    n, c_in, c_out, d_in, h_in, w_in, d_out, h_out, w_out,
    ws_in, ws_out, ws_d, ws_h, ws_w,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, D: tl.constexpr, G: tl.constexpr, INV: tl.constexpr, GROUPS: tl.constexpr,
    ACT: tl.constexpr, ADD_FIRST: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M pixels of one phase, BLOCK_N output channels of one group.

    x [n, c_in, d_in, h_in, w_in], y and z [n, c_out, d_out, h_out, w_out], weight [c_in, c_out / GROUPS, *K] by strides ws_*.
    Programs that share input pixels (channel tiles, then phases) are neighbours, so that they meet in L2.
    """
    group_in = c_in // GROUPS
    group_out = c_out // GROUPS
    tiles_n = tl.cdiv(group_out, BLOCK_N)
    phases: tl.constexpr = S[0] * S[1] * S[2]
    q_d = tl.cdiv(d_out, S[0])
    q_h = tl.cdiv(h_out, S[1])
    q_w = tl.cdiv(w_out, S[2])

    pid = tl.program_id(0)
    group = pid // tiles_n % GROUPS
    c0 = pid % tiles_n * BLOCK_N
    r = pid // (tiles_n * GROUPS) % phases
    tile = pid // (tiles_n * GROUPS * phases)
    r_d = r // (S[1] * S[2])
    r_h = r // S[2] % S[1]
    r_w = r % S[2]
    k_d, taps_d, base_d = phase(r_d, K[0], S[0], P[0], D[0], G[0], INV[0])
    k_h, taps_h, base_h = phase(r_h, K[1], S[1], P[1], D[1], G[1], INV[1])
    k_w, taps_w, base_w = phase(r_w, K[2], S[2], P[2], D[2], G[2], INV[2])

    m = (tile.to(tl.int64) if WIDE else tile) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_w = m % q_w * S[2] + r_w
    o_h = m // q_w % q_h * S[1] + r_h
    o_d = m // (q_w * q_h) % q_d * S[0] + r_d
    image = m // (q_w * q_h * q_d)
    row_ok = (image < n) & (o_d < d_out) & (o_h < h_out) & (o_w < w_out)
    i_w = m % q_w + base_w
    i_h = m // q_w % q_h + base_h
    i_d = m // (q_w * q_h) % q_d + base_d

    in_v = d_in * h_in * w_in
    in_c = 1 if CHANNELS_LAST else in_v
    in_p = c_in if CHANNELS_LAST else 1
    pixels = image * in_v * c_in + ((i_d * h_in + i_h) * w_in + i_w) * in_p
    columns = c0 + tl.arange(0, BLOCK_N)
    lanes = tl.arange(0, BLOCK_K)
    if WIDE:
        columns = columns.to(tl.int64)
        lanes = lanes.to(tl.int64)
    column_ok = columns < group_out
    group_row = group * group_in

    # One flat loop over taps and channel blocks keeps the pipeline full; nested loops drain it at every tap. The position is
    # counted along instead of divided out of the step: runtime divisions would cost as much as a small tile's multiplications.
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    k = 0
    j_d = 0
    j_h = 0
    j_w = 0
    for _ in range(taps_d * taps_h * taps_w * tl.cdiv(group_in, BLOCK_K)):
        t_d = i_d - j_d * (D[0] // G[0])
        t_h = i_h - j_h * (D[1] // G[1])
        t_w = i_w - j_w * (D[2] // G[2])
        inside = row_ok & (t_d >= 0) & (t_d < d_in) & (t_h >= 0) & (t_h < h_in) & (t_w >= 0) & (t_w < w_in)
        back = ((j_d * (D[0] // G[0]) * h_in + j_h * (D[1] // G[1])) * w_in + j_w * (D[2] // G[2])) * in_p
        at = pixels - back
        lane_in = k + lanes
        channels_in = (group_row + lane_in) * in_c
        lane_ok = lane_in < group_in
        if CHANNELS_LAST:
            mask = inside[:, None] if EVEN_K else inside[:, None] & lane_ok[None, :]
            a = tl.load(x + at[:, None] + channels_in[None, :], mask=mask, other=0.0)
        else:
            mask = inside[None, :] if EVEN_K else inside[None, :] & lane_ok[:, None]
            a = tl.trans(tl.load(x + at[None, :] + channels_in[:, None], mask=mask, other=0.0))
        tap = (k_d + j_d * (S[0] // G[0])) * ws_d + (k_h + j_h * (S[1] // G[1])) * ws_h + (k_w + j_w * (S[2] // G[2])) * ws_w
        w_mask = column_ok[None, :] if EVEN_K else column_ok[None, :] & lane_ok[:, None]
        b = tl.load(weight + tap + ((group_row + lane_in) * ws_in)[:, None] + (columns * ws_out)[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        k += BLOCK_K
        next_w = (k >= group_in).to(tl.int32)
        k = k * (1 - next_w)
        j_w += next_w
        next_h = (j_w == taps_w).to(tl.int32)
        j_w = j_w * (1 - next_h)
        j_h += next_h
        next_d = (j_h == taps_h).to(tl.int32)
        j_h = j_h * (1 - next_d)
        j_d += next_d

    out_v = d_out * h_out * w_out
    spot = (o_d * h_out + o_h) * w_out + o_w
    channels = group * group_out + columns
    if CHANNELS_LAST:
        offsets = (image * out_v + spot) * c_out
        moved = channels
    else:
        offsets = image * out_v * c_out + spot
        moved = channels * out_v
    count = tl.sum(row_ok.to(tl.float32), 0)
    store_outputs(acc, offsets, moved, channels, row_ok, column_ok, count, tile * phases + r, y, z, partials, bias, alpha, alpha_value,
                  residual, signs, factor, c_out, ACT, ADD_FIRST, CHANNELS_LAST)  # fmt: skip


@triton.jit
def conv_transpose_act_fwd_1x1_kernel(
    x, weight, bias, alpha, residual, y, z, signs, partials, alpha_value, factor,
    n, c_in, c_out,
    ws_in, ws_out, ws_d, ws_h, ws_w,
    K: tl.constexpr, P: tl.constexpr, D: tl.constexpr, OUT: tl.constexpr, GROUPS: tl.constexpr,
    ACT: tl.constexpr, ADD_FIRST: tl.constexpr, CHANNELS_LAST: tl.constexpr, WEIGHT_LAST: tl.constexpr, WIDE: tl.constexpr,
    EVEN_K: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x [n, c_in] times weight [c_in, columns]: a column is an (output channel, output pixel) pair, ordered as the weight lies in
    memory (WEIGHT_LAST: channels run fastest). Each pixel is reached by one tap or none; the latter hold act(bias)."""
    group_in = c_in // GROUPS
    group_out = c_out // GROUPS
    out_v: tl.constexpr = OUT[0] * OUT[1] * OUT[2]
    tiles_n = tl.cdiv(group_out * out_v, BLOCK_N)
    pid = tl.program_id(0)
    group = pid // tiles_n % GROUPS
    tile = pid // (tiles_n * GROUPS)
    j = pid % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    column_ok = j < group_out * out_v
    c = j % group_out if WEIGHT_LAST else j // out_v
    pixel = j // group_out if WEIGHT_LAST else j % out_v

    t_d = pixel // (OUT[1] * OUT[2]) + P[0]
    t_h = pixel // OUT[2] % OUT[1] + P[1]
    t_w = pixel % OUT[2] + P[2]
    reached = column_ok & (t_d % D[0] == 0) & (t_h % D[1] == 0) & (t_w % D[2] == 0)
    reached = reached & (t_d < K[0] * D[0]) & (t_h < K[1] * D[1]) & (t_w < K[2] * D[2])
    from_weight = c * ws_out + t_d // D[0] * ws_d + t_h // D[1] * ws_h + t_w // D[2] * ws_w

    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    lanes = tl.arange(0, BLOCK_K)
    if WIDE:
        m = m.to(tl.int64)
        lanes = lanes.to(tl.int64)
    row_ok = m < n
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, group_in, BLOCK_K):
        lane_ok = k + lanes < group_in
        row = group * group_in + k + lanes
        mask = row_ok[:, None] if EVEN_K else row_ok[:, None] & lane_ok[None, :]
        a = tl.load(x + (m * c_in)[:, None] + row[None, :], mask=mask, other=0.0)
        w_mask = reached[None, :] if EVEN_K else reached[None, :] & lane_ok[:, None]
        b = tl.load(weight + (row * ws_in)[:, None] + from_weight[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    channels = group * group_out + c
    moved = pixel * c_out + channels if CHANNELS_LAST else channels * out_v + pixel
    count = tl.sum(row_ok.to(tl.float32), 0)
    store_outputs(acc, m * (c_out * out_v), moved, channels, row_ok, column_ok, count, tile * out_v + pixel, y, z, partials, bias, alpha,
                  alpha_value, residual, signs, factor, c_out, ACT, ADD_FIRST, True)  # fmt: skip
