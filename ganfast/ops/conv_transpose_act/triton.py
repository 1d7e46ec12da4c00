"""conv_transpose_act in Triton: how the forward is launched. Kernels: triton_fwd.py; the fused backward: triton_bwd.py."""

from functools import lru_cache
from math import gcd

import torch
from torch import Tensor

from ganfast import _triton
from ganfast._triton import cdiv, next_power_of_2
from ganfast.ops.conv_transpose_act.triton_bwd import conv_transpose_act_bwd_triton
from ganfast.ops.conv_transpose_act.triton_fwd import conv_transpose_act_fwd_1x1_kernel, conv_transpose_act_fwd_kernel

__all__ = ["conv_transpose_act_bwd_triton", "conv_transpose_act_fwd_triton"]


@lru_cache(maxsize=4096)
def _geometry(spatial, kernel, stride, padding, output_padding, dilation):
    """Everything per dimension as triples, unit dimensions in front: (input, output, K, S, P, D, gcd(S, D), (D/g)^-1 mod S/g)."""
    fill = (1,) * (3 - len(spatial))
    out = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + op + 1 for i, k, s, p, op, d in zip(spatial, kernel, stride, padding, output_padding, dilation)
    )
    s, d = fill + stride, fill + dilation
    g = tuple(map(gcd, s, d))
    inv = tuple(pow(b // c, -1, a // c) for a, b, c in zip(s, d, g))  # 0 where S/g = 1
    return fill + spatial, fill + out, fill + kernel, s, (0,) * len(fill) + padding, d, g, inv


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
    n, c_in, *spatial = x.shape
    _, group_out, *kernel = weight.shape
    group_in, c_out = c_in // groups, group_out * groups
    inside, outside, k, s, p, d, g, inv = _geometry(
        tuple(spatial), tuple(kernel), tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation)
    )
    shape = (n, c_out, *outside[3 - len(spatial) :])
    y = _triton.empty(shape, x, channels_last=channels_last)
    z = _triton.empty(shape, x, channels_last=channels_last) if save_z else None
    exact = x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision != "tf32"
    flags = {
        "GROUPS": groups,
        "ACT": act,
        "CHANNELS_LAST": channels_last,
        "WIDE": max(x.numel(), weight.numel(), y.numel()) >= _triton.wide_from,
        "PRECISION": "ieee" if exact else "tf32",
    }
    large = x.element_size() == 2 and channels_last and group_in % 16 == 0 and group_out % 16 == 0 and not save_z
    one_pixel = inside == (1, 1, 1)
    if one_pixel:
        m, columns, copies = n, group_out * y[0, 0].numel(), y[0, 0].numel()
        blocks = _blocks(m, group_in, columns, groups, x.element_size(), exact, large)
        grid = cdiv(m, blocks["BLOCK_M"]) * cdiv(columns, blocks["BLOCK_N"]) * groups
    else:
        m, copies = n, s[0] * s[1] * s[2]
        for o, step in zip(outside, s):
            m *= cdiv(o, step)
        blocks = _blocks(m, group_in, group_out, groups * copies, x.element_size(), exact, large)
        grid = cdiv(m, blocks["BLOCK_M"]) * cdiv(group_out, blocks["BLOCK_N"]) * groups * copies
        if weight.stride(1) != 1 and group_out > 1 and cdiv(m, blocks["BLOCK_M"]) > 8:
            # Taps outside channels put neighbouring channels in different sectors, for every pixel tile anew: one copy is cheaper.
            weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    stats = _triton.empty((cdiv(m, blocks["BLOCK_M"]) * copies, 3, c_out), x, torch.float32) if partials else None
    w_strides = (*weight.stride()[:2], *(0,) * (3 - len(spatial)), *weight.stride()[2:])
    with _triton.on_device(x):
        if one_pixel:
            conv_transpose_act_fwd_1x1_kernel[(grid,)](
                x, weight, bias, alpha, y, z, stats, alpha_value, n, c_in, c_out, *w_strides,
                K=k, P=p, D=d, OUT=outside, WEIGHT_LAST=weight.stride(1) == 1, **flags, **blocks,
            )  # fmt: skip
        else:
            conv_transpose_act_fwd_kernel[(grid,)](
                x, weight, bias, alpha, y, z, stats, alpha_value, n, c_in, c_out, *inside, *outside, *w_strides,
                K=k, S=s, P=p, D=d, G=g, INV=inv, **flags, **blocks,
            )  # fmt: skip
    z = _triton.empty(0, x) if z is None else z
    return y, z, _triton.empty(0, x, torch.float32) if stats is None else stats
