"""conv_transpose_act in Triton: how the forward is launched. Kernels: triton_fwd.py; the fused backward: triton_bwd.py."""

from functools import lru_cache
from math import gcd, prod

import torch
from torch import Tensor

from ganfast import _triton
from ganfast._triton import cdiv, next_power_of_2
from ganfast.ops.conv_transpose_act.triton_bwd import conv_transpose_act_bwd_triton
from ganfast.ops.conv_transpose_act.triton_few import FEW_FROM, conv_transpose_act_fwd_few_triton, few_reason
from ganfast.ops.conv_transpose_act.triton_fwd import conv_transpose_act_fwd_1x1_kernel, conv_transpose_act_fwd_kernel

__all__ = ["conv_transpose_act_bwd_triton", "conv_transpose_act_fwd_triton"]


def _blocks(m: int, group_in: int, columns: int, others: int, itemsize: int, exact: bool, large: bool) -> dict:
    """Tile sizes for m rows and `others` further tiles: as large as the problem allows, then halved until some 128 programs share
    the work. The tops are what compiles without spills at compute capability 8.0, 9.0 and 10.0: 128 x 128 only where `large`
    (16-bit operands that go to shared memory 16 bytes at a time, no second output), and 64 x 64 for exact float32, which is plain
    FMA on registers. The largest takes 96 KiB of shared memory in 3 stages, which every GPU from 8.0 on has."""
    block_m = min(64 if exact else 128, max(16, next_power_of_2(m)))
    block_n = min(128 if large else 64, max(16, next_power_of_2(columns)))
    while max(block_m, block_n) > 32 and cdiv(m, block_m) * cdiv(columns, block_n) * others < 128:
        if block_m >= block_n:
            block_m //= 2
        else:
            block_n //= 2
    block_k = min(16 if exact else 64 if large else 32, max(16, next_power_of_2(group_in)))
    return {
        "EVEN_K": group_in % block_k == 0,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "num_warps": 8 if block_m * block_n * itemsize >= 16384 else 4,
        "num_stages": 2 if exact else 3,
        "enable_fp_fusion": True,
    }


@lru_cache(maxsize=4096)
def _plan(x_shape, w_shape, stride, padding, output_padding, dilation, groups, itemsize, exact, channels_last, save_z):
    """What depends on sizes alone: (shape of y, grid, pixel tiles, partials per pixel tile, size arguments or None for a 1x1 input,
    constants). Per-dimension constants are triples with unit dimensions in front."""
    n, c_in, *inside = x_shape
    _, group_out, *kernel = w_shape
    group_in = c_in // groups
    outside = [
        (i - 1) * s - 2 * p + d * (k - 1) + op + 1 for i, k, s, p, op, d in zip(inside, kernel, stride, padding, output_padding, dilation)
    ]
    fill = (1,) * (3 - len(inside))
    inside, out = (*fill, *inside), (*fill, *outside)
    s, d = (*fill, *stride), (*fill, *dilation)
    constants = {"K": (*fill, *kernel), "P": (*(0,) * len(fill), *padding), "D": d}
    large = itemsize == 2 and channels_last and group_in % 16 == 0 and group_out % 16 == 0 and not save_z
    if inside == (1, 1, 1):
        m, copies = n, prod(out)
        columns, others, sizes = group_out * copies, groups, None
        constants["OUT"] = out
    else:
        copies = prod(s)
        m = n * prod(map(cdiv, out, s))
        columns, others, sizes = group_out, groups * copies, (*inside, *out)
        g = tuple(map(gcd, s, d))
        inverse = tuple(pow(b // c, -1, a // c) for a, b, c in zip(s, d, g))  # 0 where S/g = 1
        constants |= {"S": s, "G": g, "INV": inverse}
    constants |= {"GROUPS": groups, "CHANNELS_LAST": channels_last, "PRECISION": "ieee" if exact else "tf32"}
    constants |= _blocks(m, group_in, columns, others, itemsize, exact, large)
    tiles = cdiv(m, constants["BLOCK_M"])
    grid = (tiles * cdiv(columns, constants["BLOCK_N"]) * others,)
    return (n, group_out * groups, *outside), grid, tiles, copies, sizes, constants


def conv_transpose_act_fwd_triton(
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
) -> tuple[Tensor, Tensor, Tensor]:
    geometry = (stride, padding, output_padding, dilation, groups)
    if x.numel() // x.shape[1] >= FEW_FROM and few_reason(x, weight, *geometry, channels_last) is None:
        return conv_transpose_act_fwd_few_triton(
            x, weight, bias, alpha, *geometry, act, alpha_value, channels_last, save_z, partials
        )  # fmt: skip
    exact = x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision != "tf32"
    shape, grid, tiles, copies, sizes, constants = _plan(
        x.shape, weight.shape, tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation),
        groups, x.itemsize, exact, channels_last, save_z,
    )  # fmt: skip
    if weight.stride(1) != 1 and shape[1] > groups and sizes is not None and tiles > 8:
        # Taps outside channels put neighbouring channels in different sectors, for every pixel tile anew: one copy is cheaper.
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    y = _triton.empty(shape, x, channels_last=channels_last)
    z = _triton.empty(shape, x, channels_last=channels_last) if save_z else None
    stats = _triton.empty((tiles * copies, 3, shape[1]), x, torch.float32) if partials else None
    wide = max(x.numel(), weight.numel(), y.numel()) >= _triton.wide_from
    ws_in, ws_out, *ws_taps = weight.stride()
    common = (x, weight, bias, alpha, y, z, stats, alpha_value, x.shape[0], x.shape[1], shape[1])
    w_strides = (ws_in, ws_out, *(0,) * (3 - len(ws_taps)), *ws_taps)
    with _triton.on_device(x):
        if sizes is None:
            conv_transpose_act_fwd_1x1_kernel[grid](*common, *w_strides, ACT=act, WIDE=wide, WEIGHT_LAST=ws_out == 1, **constants)
        else:
            conv_transpose_act_fwd_kernel[grid](*common, *sizes, *w_strides, ACT=act, WIDE=wide, **constants)
    z = _triton.empty(0, x) if z is None else z
    return y, z, _triton.empty(0, x, torch.float32) if stats is None else stats
