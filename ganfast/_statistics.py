"""Moments that a convolution's epilogue hands to batch norm: [T, 3, C] of (count, mean, M2) per tile and channel."""

import torch
from torch import Tensor


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
    """The [1, 3, C] moments of y [N, C, ...], for backends without an epilogue of their own."""
    dims = [0, *range(2, y.dim())]
    acc = torch.promote_types(y.dtype, torch.float32)
    variance, mean = torch.var_mean(y.to(acc), dims, correction=0)
    count = y.numel() // y.shape[1]
    return torch.stack([torch.full_like(mean, count), mean, variance * count])[None]
