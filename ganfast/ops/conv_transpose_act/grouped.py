"""Grouped convolutions as torch runs them faster: neighbouring groups merged into one, whose weight is zero off the diagonal's blocks; and
a transposed convolution of stride 1 as an ordinary one. README.md in this folder says where that was measured.

A weight [groups * a, b, *k] with m groups merged is [groups * a, m * b, *k], in both roles: a are the inputs of a group and b its outputs,
or the other way round.
"""

import torch
from torch import Tensor

from ganfast._layout import memory_format

_CPU, _CPU_HALF, _GPU = (8, 16), (16, 32), (32, 64, 128)  # channels: vectors; vectors and rows of AMX's tiles; tiles of tensor cores


def _channels(weight: Tensor, groups: int) -> int:
    """Of a group, on the narrower side."""
    return min(weight.shape[0] // groups, weight.shape[1])


def _merges(weight: Tensor, groups: int, width: int) -> int:
    """How many groups become one of `width` channels or more: a divisor of `groups`."""
    wanted = -(-width // _channels(weight, groups))
    return next((m for m in range(wanted, groups) if groups % m == 0), groups)


def configurations(x: Tensor, weight: Tensor, groups: int) -> list[str]:
    """The merged ones worth a look. A depthwise convolution has kernels of its own, which were faster than all of these; and on a CPU
    no 1-D layer gained."""
    channels = _channels(weight, groups)
    if groups == 1 or channels == 1 or (x.dim() == 3 and not x.is_cuda):
        return []
    widths = _GPU if x.is_cuda else _CPU_HALF if x.itemsize == 2 else _CPU
    merges = {_merges(weight, groups, width): width for width in reversed(widths) if width > channels}  # each way by its least width
    return [f"torch/wide{width}" for m, width in sorted(merges.items()) if m * channels <= 2 * width]


def can_flip(kernel, stride, padding, output_padding, dilation) -> bool:
    """Whether `flipped` computes this transposed convolution."""
    inside = all(p <= d * (k - 1) for k, p, d in zip(kernel, padding, dilation))
    return inside and all(s == 1 for s in stride) and not any(output_padding)


def flipped(weight: Tensor, groups: int, padding, dilation) -> tuple[Tensor, list[int]]:
    """(weight, padding) of the ordinary convolution that this transposed one of stride 1 is."""
    own = weight.unflatten(0, (groups, -1)).transpose(1, 2).flip(*range(3, weight.dim() + 1)).flatten(0, 1)
    return own, [d * (k - 1) - p for k, p, d in zip(weight.shape[2:], padding, dilation)]


def _width(layout: str) -> int:
    """Of a configuration "wide64"; 0 for any other."""
    return int(layout.removeprefix("wide")) if layout.startswith("wide") else 0


def laid_out(x: Tensor, layout: str) -> str:
    """The memory format that a configuration runs in: for these ways channels_last on a CPU, where it was faster, copies included."""
    if layout in ("", "nchw", "nhwc"):
        return layout
    if layout == "float32":
        return ""
    return "nhwc" if x.device.type == "cpu" and x.dim() > 3 else ""


def merge(weight: Tensor, groups: int, layout: str) -> tuple[Tensor, int]:
    """(weight, groups) as the configuration runs them."""
    if not (width := _width(layout)):
        return weight, groups
    m = _merges(weight, groups, width)
    own = weight.unflatten(0, (groups // m, m, -1))  # [groups / m, m, a, b, *k]
    wide = own.new_zeros(*own.shape[:3], m, *own.shape[3:])
    wide.diagonal(0, 1, 3).copy_(own.movedim(1, -1))
    fmt = memory_format(weight.dim(), not weight.is_contiguous())
    return wide.flatten(3, 4).flatten(0, 2).contiguous(memory_format=fmt), groups // m


def merged_like(weight: Tensor, groups: int, layout: str, x: Tensor) -> tuple[Tensor, int]:
    """What `merge` gives by its look, laid out as the configuration has it."""
    m = _merges(weight, groups, width) if (width := _width(layout)) else 1
    laid = laid_out(x, layout)
    fmt = memory_format(weight.dim(), laid == "nhwc" if laid else not weight.is_contiguous())
    shape = (weight.shape[0], m * weight.shape[1], *weight.shape[2:])
    return torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=fmt), groups // m


def blocks(gweight: Tensor, groups: int, merged_groups: int) -> Tensor:
    """The weight's gradient [groups * a, b, *k], out of the merged one's."""
    if groups == merged_groups:
        return gweight
    m = groups // merged_groups
    own = gweight.unflatten(1, (m, -1)).unflatten(0, (merged_groups, m, -1)).diagonal(0, 1, 3)  # [merged groups, a, b, *k, m]
    return own.movedim(-1, 1).flatten(0, 2)
