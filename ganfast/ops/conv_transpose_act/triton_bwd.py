"""The fused backward of conv_transpose_act's epilogue in Triton: gz, gbias and galpha from one reading of gy and `saved`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import act_alpha_grad, act_grad, load_channels, sum_rows, tile_offsets


@triton.jit
def conv_transpose_act_bwd_kernel(
    gy, saved, alpha, gz, partials, alpha_value, rows, inner, c, row_blocks,
    ACT: tl.constexpr, FROM_Y: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """gy, saved, gz [N, C, inner]; program (t, i) takes row_blocks tiles of a channel block and leaves partials[t]: [1 or 2, C]."""
    t = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    a = load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST)
    shape: tl.constexpr = (BLOCK_R, BLOCK_C) if CHANNELS_LAST else (BLOCK_C, BLOCK_R)
    sum_bias = tl.zeros(shape, tl.float32)
    sum_alpha = tl.zeros(shape, tl.float32)
    first = (t.to(tl.int64) if WIDE else t) * row_blocks * BLOCK_R
    for step in range(row_blocks):
        r = first + step * BLOCK_R + tl.arange(0, BLOCK_R)
        offsets, mask = tile_offsets(r, channels, rows, inner, c, CHANNELS_LAST)
        g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(saved + offsets, mask=mask, other=0.0).to(tl.float32)
        gv = g * act_grad(v, a, ACT, FROM_Y)
        tl.store(gz + offsets, gv.to(gz.dtype.element_ty), mask=mask)
        sum_bias += tl.where(mask, gv, 0.0)
        if alpha is not None:
            sum_alpha += tl.where(mask, g * act_alpha_grad(v, a, ACT), 0.0)
    ROWS: tl.constexpr = 1 if alpha is None else 2
    at = partials + t * ROWS * c + channels
    tl.store(at, sum_rows(sum_bias, CHANNELS_LAST), mask=channels < c)
    if alpha is not None:
        tl.store(at + c, sum_rows(sum_alpha, CHANNELS_LAST), mask=channels < c)


def conv_transpose_act_bwd_triton(
    gy: Tensor, saved: Tensor, alpha: Tensor | None, act: str, alpha_value: float, from_y: bool, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    c = gy.shape[1]
    rows = gy.numel() // c
    block_r, block_c = _triton.tile_shape(rows, c, channels_last)
    c_blocks = _triton.cdiv(c, block_c)
    t_count, row_blocks = _triton.chunks(rows, block_r, c_blocks)
    gz = _triton.empty(gy.shape, gy, channels_last=channels_last)
    gbias = _triton.empty(c, gy, torch.float32)
    galpha = _triton.empty(0 if alpha is None else c, gy, torch.float32)
    sums = (gbias,) if alpha is None else (gbias, galpha)
    partials = _triton.empty((t_count, len(sums), c), gy, torch.float32)
    with _triton.on_device(gy):
        conv_transpose_act_bwd_kernel[(t_count, c_blocks)](
            gy, saved, alpha, gz, partials, alpha_value, rows, rows // gy.shape[0], c, row_blocks,
            ACT=act, FROM_Y=from_y, CHANNELS_LAST=channels_last, WIDE=gy.numel() >= _triton.wide_from, BLOCK_R=block_r, BLOCK_C=block_c,
            enable_fp_fusion=True,
        )  # fmt: skip
        _triton.finish_sums(partials, *sums)
    return gz, gbias, galpha
