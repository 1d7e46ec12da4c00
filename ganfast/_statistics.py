"""Moments that a convolution's epilogue hands to batch norm: [T, 3, C] of (count, mean, M2) per tile and channel."""

import torch
from torch import Tensor

from ganfast import _native
from ganfast._layout import is_channels_last

_native.define("moments_native(Tensor x, bool channels_last) -> Tensor")


def merge_partials(partials: Tensor) -> Tensor:
    """[T, 3, C] -> [1, 3, C] by Chan's rule in its two-pass form: no cancellation, one fixed order."""
    if partials.shape[0] == 1:
        return partials
    count, mean, m2 = partials.unbind(1)
    total = count.sum(0)
    merged = (count * mean).sum(0) / total
    deviation = m2.sum(0) + (count * (mean - merged).square()).sum(0)
    return torch.stack([total, merged, deviation])[None]


def partials_of(y: Tensor) -> Tensor:
    """The [1, 3, C] moments of y [N, C, ...], dense, for backends without an epilogue of their own."""
    if y.device.type == "cpu" and _native.reason("cpu") is None:
        return torch.ops.ganfast.moments_native(y, is_channels_last(y))
    dims = [0, *range(2, y.dim())]
    acc = torch.promote_types(y.dtype, torch.float32)
    variance, mean = torch.var_mean(y.to(acc), dims, correction=0)
    count = y.numel() // y.shape[1]
    return torch.stack([torch.full_like(mean, count), mean, variance * count])[None]
