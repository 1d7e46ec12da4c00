"""bias_act in Triton: one tile a program forward; backward gx, gbias and galpha from one reading of gy and `saved`, sums in two stages
with a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import load_channels, sum_rows, tile_offsets
from ganfast._triton_activations import act_alpha_bwd, act_bwd, act_fwd, act_scale_bwd, signs_of


@triton.jit
def bias_act_fwd_kernel(
    x, bias, alpha, residual, y, signs, alpha_value, gain, clamp, factor, rows, inner, c,
    ACT: tl.constexpr, CLAMPS: tl.constexpr, FIRST: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = (clamp(act(x + bias) * gain) + residual) * factor, one tile a program; x, residual, y, signs [N, C, inner]; x and y may be the
    same memory. Of the residual, added to x if FIRST, and of the signs (reference.signs) either may be None."""
    t = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = (t.to(tl.int64) if WIDE else t) * BLOCK_R + tl.arange(0, BLOCK_R)
    offsets, mask = tile_offsets(r, channels, rows, inner, c, CHANNELS_LAST)
    z = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) + load_channels(bias, channels, c, 0.0, CHANNELS_LAST)
    if residual is not None and FIRST:
        z += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    s = load_channels(alpha + c, channels, c, 0.0, CHANNELS_LAST) if ACT == "snake_beta" else 0.0
    out = gain * act_fwd(z, load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST), ACT, s)
    if CLAMPS:
        out = tl.where(out > clamp, clamp, tl.where(out < -clamp, -clamp, out))
    if signs is not None:
        on = signs_of(out, y.dtype.element_ty, ACT)
        if CLAMPS:
            edge = tl.full([], clamp, tl.float32).to(y.dtype.element_ty).to(tl.float32)
            on = tl.where(tl.abs(out.to(y.dtype.element_ty).to(tl.float32)) >= edge, 2, on).to(tl.uint8)
        tl.store(signs + offsets, on, mask=mask)
    if residual is not None:
        if not FIRST:
            out += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
        out *= factor
    tl.store(y + offsets, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def bias_act_bwd_kernel(
    gy, saved, bias, alpha, gx, partials, alpha_value, gain, scale, limit, rows, inner, c, row_blocks,
    ACT: tl.constexpr, FROM_Y: tl.constexpr, CLAMPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """gy, saved, gx [N, C, inner], z = saved * scale + bias; program (t, i) takes row_blocks tiles of a channel block and leaves
    partials[t]: [1, 2 or 3, C]."""
    t = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    a = load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST)
    s = load_channels(alpha + c, channels, c, 0.0, CHANNELS_LAST) if ACT == "snake_beta" else 0.0
    b = load_channels(bias, channels, c, 0.0, CHANNELS_LAST)
    shape: tl.constexpr = (BLOCK_R, BLOCK_C) if CHANNELS_LAST else (BLOCK_C, BLOCK_R)
    sum_bias = tl.zeros(shape, tl.float32)
    sum_alpha = tl.zeros(shape, tl.float32)
    sum_scale = tl.zeros(shape, tl.float32)
    first = (t.to(tl.int64) if WIDE else t) * row_blocks * BLOCK_R
    for step in range(row_blocks):
        r = first + step * BLOCK_R + tl.arange(0, BLOCK_R)
        offsets, mask = tile_offsets(r, channels, rows, inner, c, CHANNELS_LAST)
        g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32) * gain
        v = tl.load(saved + offsets, mask=mask, other=0).to(tl.float32)
        z = v * scale + b
        if CLAMPS:
            y = v if FROM_Y else gain * act_fwd(z, a, ACT, s)
            g = tl.where(tl.abs(y) >= limit, 0.0, g)
        gz = act_bwd(g, z, a, ACT, FROM_Y, s)
        tl.store(gx + offsets, gz.to(gx.dtype.element_ty), mask=mask)
        sum_bias += tl.where(mask, gz, 0.0)
        if alpha is not None:
            sum_alpha += tl.where(mask, act_alpha_bwd(g, z, a, ACT, s), 0.0)
        if ACT == "snake_beta":
            sum_scale += tl.where(mask, act_scale_bwd(g, z, a), 0.0)
    ROWS: tl.constexpr = 1 if alpha is None else 3 if ACT == "snake_beta" else 2
    at = partials + (t.to(tl.int64) if WIDE else t) * ROWS * c + channels
    tl.store(at, sum_rows(sum_bias, CHANNELS_LAST), mask=channels < c)
    if alpha is not None:
        tl.store(at + c, sum_rows(sum_alpha, CHANNELS_LAST), mask=channels < c)
    if ACT == "snake_beta":
        tl.store(at + 2 * c, sum_rows(sum_scale, CHANNELS_LAST), mask=channels < c)


def _plan(x: Tensor, channels_last: bool) -> tuple[int, int, int, dict]:
    """(rows, inner, channel blocks, constants) of a kernel over x; rows of one pixel are channels_last, whatever they are called."""
    c = x.shape[1]
    rows = x.numel() // c
    inner = rows // x.shape[0]
    channels_last = channels_last or inner == 1
    block_r, block_c = _triton.tile_shape(rows, c, channels_last)
    constants = {
        "CHANNELS_LAST": channels_last,
        "WIDE": x.numel() >= _triton.wide_from,
        "BLOCK_R": block_r,
        "BLOCK_C": block_c,
        "enable_fp_fusion": True,
    }
    return rows, inner, _triton.cdiv(c, block_c), constants


def _launch_fwd(
    y: Tensor, x: Tensor, bias: Tensor | None, alpha: Tensor | None, act: str, alpha_value: float, gain: float, clamp: float | None,
    channels_last: bool, residual: Tensor | None, residual_first: bool, factor: float, keep_signs: bool,
) -> Tensor:  # fmt: skip
    """The signs, empty where they are not kept."""
    rows, inner, c_blocks, constants = _plan(x, channels_last)
    kind = torch.bool if clamp is None else torch.uint8
    signs = _triton.empty(x.shape if keep_signs else 0, x, kind, channels_last=channels_last and keep_signs)
    with _triton.on_device(x):
        bias_act_fwd_kernel[(_triton.cdiv(rows, constants["BLOCK_R"]), c_blocks)](
            x, bias, alpha, residual, y, signs.view(torch.uint8) if keep_signs else None, alpha_value, gain, clamp or 0.0, factor, rows,
            inner, x.shape[1], ACT=act, CLAMPS=clamp is not None, FIRST=residual_first, **constants,
        )  # fmt: skip
    return signs


def bias_act_fwd_triton(x: Tensor, *args) -> tuple[Tensor, Tensor]:
    y = _triton.empty(x.shape, x, channels_last=args[6])
    return y, _launch_fwd(y, x, *args)


def bias_act_fwd_triton_(x: Tensor, *args) -> Tensor:
    """Overwrites x."""
    return _launch_fwd(x, x, *args)


def bias_act_bwd_triton(
    gy: Tensor, saved: Tensor, bias: Tensor | None, alpha: Tensor | None, act: str, alpha_value: float, gain: float, limit: float | None,
    from_y: bool, channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    c = gy.shape[1]
    saved = saved.view(torch.uint8) if saved.dtype == torch.bool else saved
    rows, inner, c_blocks, constants = _plan(gy, channels_last)
    t_count, row_blocks = _triton.chunks(rows, constants["BLOCK_R"], c_blocks)
    gx = _triton.empty(gy.shape, gy, channels_last=channels_last)
    gbias = _triton.empty(c, gy, torch.float32)
    galpha = _triton.empty(0 if alpha is None else alpha.shape, gy, torch.float32)
    sums = (gbias,) if alpha is None else (gbias, *galpha.view(-1, c))
    partials = _triton.empty((t_count, len(sums), c), gy, torch.float32)
    with _triton.on_device(gy):
        bias_act_bwd_kernel[(t_count, c_blocks)](
            gy, saved, None if from_y else bias, alpha, gx, partials, alpha_value, gain, 1 / gain if from_y else 1.0, limit or 0.0, rows,
            inner, c, row_blocks, ACT=act, FROM_Y=from_y, CLAMPS=limit is not None, **constants,
        )  # fmt: skip
        _triton.finish_sums(partials, *sums)
    return gx, gbias, galpha
