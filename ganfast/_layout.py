"""Memory formats: channels_last in, channels_last out; where x does not say (one pixel, one channel), the weight does."""

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: Tensor, weight: Tensor | None = None) -> bool:
    """True where the output should be channels_last; 3-D tensors [N, C, L] have no such format."""
    fmt = _CHANNELS_LAST.get(x.dim())
    if fmt is None:
        return False
    if x.is_contiguous():
        if not x.is_contiguous(memory_format=fmt):
            return False
        return weight is not None and not weight.is_contiguous() and weight.is_contiguous(memory_format=fmt)
    return x.is_contiguous(memory_format=fmt) or x.stride(1) == 1


def memory_format(dim: int, channels_last: bool) -> torch.memory_format:
    return _CHANNELS_LAST[dim] if channels_last else torch.contiguous_format


def dense(x: Tensor, channels_last: bool) -> Tensor:
    """x in the named format, copied only if it is not so already."""
    return x.contiguous(memory_format=memory_format(x.dim(), channels_last))


def dense_weight(weight: Tensor) -> Tensor:
    """weight in contiguous or channels_last memory, whichever it has; else a contiguous copy."""
    fmt = _CHANNELS_LAST.get(weight.dim())
    if weight.is_contiguous() or (fmt is not None and weight.is_contiguous(memory_format=fmt)):
        return weight
    return weight.contiguous()
