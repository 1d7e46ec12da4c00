"""conv_transpose_act in Triton: which kernel a call gets, and how it is launched.

Kernels: triton_fwd.py (pointers, for every call; a GEMM for 1x1 inputs), triton_tma.py (Hopper), triton_few.py (RGB); block shapes
and their names: triton_configs.py.
"""

from collections.abc import Callable
from functools import lru_cache
from math import gcd, prod
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks, _triton
from ganfast._triton import cdiv
from ganfast.ops.conv_transpose_act.triton_configs import (
    OP,
    Blocks,
    Problem,
    parse,
    pointer_blocks,
    pointer_configurations,
    pointer_fault,
    tma_configurations,
    tma_fault,
)
from ganfast.ops.conv_transpose_act.triton_few import (
    FEW_FROM,
    conv_transpose_act_fwd_few_triton,
    few_configurations,
    few_reason,
)
from ganfast.ops.conv_transpose_act.triton_fwd import conv_transpose_act_fwd_1x1_kernel, conv_transpose_act_fwd_kernel
from ganfast.ops.conv_transpose_act.triton_tma import conv_transpose_act_fwd_tma, tma_refusal

__all__ = ["configurations", "conv_transpose_act_fwd_triton"]


class _Plan(NamedTuple):
    """The pointer kernels' geometry; per-dimension constants are triples with unit dimensions in front."""

    m: int  # rows of the GEMM
    columns: int
    others: int  # tiles beside those of rows and columns: groups, and the pointer kernel's phases
    copies: int  # partials per tile of rows
    sizes: tuple[int, ...] | None  # None for a 1x1 input
    constants: dict


@lru_cache(maxsize=4096)
def _output(p: Problem) -> tuple[int, ...]:
    inside, kernel = p.x_shape[2:], p.w_shape[2:]
    geometry = zip(inside, kernel, p.stride, p.padding, p.output_padding, p.dilation)
    return p.x_shape[0], p.w_shape[1] * p.groups, *((i - 1) * s - 2 * pad + d * (k - 1) + op + 1 for i, k, s, pad, op, d in geometry)


@lru_cache(maxsize=4096)
def _plan(p: Problem) -> _Plan:
    n, group_out, fill = p.x_shape[0], p.w_shape[1], (1,) * (5 - len(p.x_shape))
    inside, out = (*fill, *p.x_shape[2:]), (*fill, *_output(p)[2:])
    s, d = (*fill, *p.stride), (*fill, *p.dilation)
    constants = {"K": (*fill, *p.w_shape[2:]), "P": (*(0,) * len(fill), *p.padding), "D": d, "GROUPS": p.groups}
    constants |= {"CHANNELS_LAST": p.channels_last, "PRECISION": "ieee" if p.exact else "tf32", "enable_fp_fusion": True}
    if inside == (1, 1, 1):
        copies = prod(out)
        return _Plan(n, group_out * copies, p.groups, copies, None, constants | {"OUT": out})
    g = tuple(map(gcd, s, d))
    inverse = tuple(pow(b // c, -1, a // c) for a, b, c in zip(s, d, g))  # 0 where S/g = 1
    m, copies = n * prod(map(cdiv, out, s)), prod(s)
    return _Plan(m, group_out, p.groups * copies, copies, (*inside, *out), constants | {"S": s, "G": g, "INV": inverse})


def _launch_pointer(
    p, blocks, x, weight, bias, alpha, act, alpha_value, y, z, partials, *, signs, residual, residual_first, factor
) -> Tensor | None:
    m, columns, others, copies, sizes, constants = _plan(p)
    block_m, block_n, block_k = blocks.sizes
    tiles, c_out = cdiv(m, block_m), y.shape[1]
    if weight.stride(1) != 1 and c_out > p.groups and sizes is not None and tiles > 8:
        # Taps outside channels put neighbouring channels in different sectors, for every pixel tile anew: one copy is cheaper.
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    stats = _triton.empty((tiles * copies, 3, c_out), x, torch.float32) if partials else None
    wide = max(x.numel(), weight.numel(), y.numel()) >= _triton.wide_from
    ws_in, ws_out, *ws_taps = weight.stride()
    common = (x, weight, bias, alpha, residual, y, z, signs, stats, alpha_value, factor, x.shape[0], x.shape[1], c_out)
    w_strides = (ws_in, ws_out, *(0,) * (3 - len(ws_taps)), *ws_taps)
    constants = constants | {"ACT": act, "ADD_FIRST": residual_first, "WIDE": wide, "EVEN_K": x.shape[1] // p.groups % block_k == 0}
    constants |= {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": blocks.warps, "num_stages": blocks.stages}
    grid = (tiles * cdiv(columns, block_n) * others,)
    with _triton.on_device(x):
        if sizes is None:
            conv_transpose_act_fwd_1x1_kernel[grid](*common, *w_strides, WEIGHT_LAST=ws_out == 1, **constants)
        else:
            conv_transpose_act_fwd_kernel[grid](*common, *sizes, *w_strides, **constants)
    return stats


def _one_pixel(p: Problem) -> bool:
    return set(p.x_shape[2:]) == {1}


def _pointer_names(kernel: str) -> Callable[[Problem], list[str]]:
    return lambda p: pointer_configurations(p, pointer_blocks(kernel, p, *_plan(p)[:3]))


class _Kernel(NamedTuple):
    refusal: Callable[[Problem, Tensor], str | None]  # why it cannot take the call
    configurations: Callable[[Problem], list[str]]  # of a problem it takes, best guess first
    fault: Callable[[Problem, Blocks], str | None]  # why it cannot run these blocks
    launch: Callable[..., Tensor | None]  # fills y and z, returns the partials


# By the first part of a configuration's name, in the order in which a call tries them.
_KERNELS = {
    "gemm": _Kernel(
        lambda p, x: None if _one_pixel(p) else "the input has more than one pixel", _pointer_names("gemm"), pointer_fault, _launch_pointer
    ),
    "tma": _Kernel(
        lambda p, x: "a 1x1 input is one GEMM" if _one_pixel(p) else tma_refusal(p, x),
        tma_configurations, tma_fault, conv_transpose_act_fwd_tma,
    ),
    "ptr": _Kernel(
        lambda p, x: "a 1x1 input is one GEMM" if _one_pixel(p) else None, _pointer_names("ptr"), pointer_fault, _launch_pointer
    ),
}  # fmt: skip
_OFFERED, _OF_THE_FIRST = 6, 4  # configurations in all, and of the first kernel where there is a second


@lru_cache(maxsize=4096)
def _names(kernel: str, p: Problem) -> tuple[str, ...]:
    return tuple(_KERNELS[kernel].configurations(p))


@lru_cache(maxsize=64)
def _device_capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def _problem(x, weight, stride, padding, output_padding, dilation, groups, channels_last, second, capability) -> Problem:
    if capability is None and x.is_cuda:
        capability = _device_capability(x.device.index)
    elif capability is None and _triton.is_interpreting():
        capability = (9, 0)  # the interpreter runs every kernel
    exact = x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision != "tf32"
    geometry = (tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation), groups)
    return Problem(tuple(x.shape), tuple(weight.shape), *geometry, x.itemsize, exact, channels_last, second, capability)


def configurations(
    x: Tensor, weight: Tensor, stride, padding, output_padding, dilation, groups: int, channels_last: bool,
    second: bool = False, capability: tuple[int, int] | None = None,
) -> list[str]:  # fmt: skip
    """At most 6 names that `conv_transpose_act_fwd_triton` takes as `config` for this call, best guess first. second: the call
    keeps z, or has a residual. `capability` stands for the GPU's where x has no device, as on meta tensors."""
    geometry = (stride, padding, output_padding, dilation, groups)
    p = _problem(x, weight, *geometry, channels_last, second, capability)
    offers = [_names(name, p) for name, kernel in _KERNELS.items() if kernel.refusal(p, x) is None]
    if x.numel() // x.shape[1] >= FEW_FROM and few_reason(x, weight, *geometry, channels_last) is None:
        offers.insert(0, few_configurations(x, weight, *geometry, channels_last))
    offers = [names for names in offers if names]
    first = offers[0][: _OFFERED if len(offers) == 1 else _OF_THE_FIRST]
    return [*first, *(name for names in offers[1:] for name in names)][:_OFFERED]


def _first(p: Problem, x: Tensor) -> Blocks:
    for name, kernel in _KERNELS.items():
        if kernel.refusal(p, x) is None and (names := _names(name, p)):
            return parse(names[0])
    raise AssertionError("the pointer kernel and the GEMM take every call between them")


def _named(config: str, p: Problem, x: Tensor) -> Blocks:
    blocks = parse(config)
    kernel = _KERNELS.get(blocks.kernel)
    if kernel is None:
        _checks.fail(OP, f"config {config!r} names no kernel; there are {', '.join(_KERNELS)}")
    if why := kernel.refusal(p, x) or kernel.fault(p, blocks):
        _checks.fail(OP, f"config {config!r} does not fit this call: {why}")
    return blocks


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
    config: str = "",
    capability: tuple[int, int] | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    keep_signs: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`config`: one of `configurations`' names, or any other that fits (ValueError where it does not); "" is the best guess."""
    geometry = (stride, padding, output_padding, dilation, groups)
    added = {"residual": residual, "residual_first": residual_first, "factor": factor}
    if config.startswith("few-") or (not config and x.numel() // x.shape[1] >= FEW_FROM):
        why = few_reason(x, weight, *geometry, channels_last)
        if why is None and config and config not in (names := few_configurations(x, weight, *geometry, channels_last)):
            why = f"there are {', '.join(names)}"
        if why is None:
            args = (x, weight, bias, alpha, *geometry, act, alpha_value, channels_last, save_z, partials)
            return conv_transpose_act_fwd_few_triton(*args, config, **added, keep_signs=keep_signs)
        if config:
            _checks.fail(OP, f"config {config!r} does not fit this call: {why}")
    p = _problem(x, weight, *geometry, channels_last, save_z or residual is not None, capability)
    blocks = _named(config, p, x) if config else _first(p, x)
    shape = _output(p)
    y = _triton.empty(shape, x, channels_last=channels_last)
    z = _triton.empty(shape, x, channels_last=channels_last) if save_z else None
    signs = _triton.empty(shape, x, torch.bool, channels_last) if keep_signs else None
    bits = signs.view(torch.uint8) if keep_signs else None
    stats = _KERNELS[blocks.kernel].launch(p, blocks, x, weight, bias, alpha, act, alpha_value, y, z, partials, signs=bits, **added)
    kept = signs if keep_signs else z if save_z else _triton.empty(0, x)
    return y, kept, _triton.empty(0, x, torch.float32) if stats is None else stats
