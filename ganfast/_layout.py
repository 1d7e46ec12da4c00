"""Memory formats: channels_last in, channels_last out; a channels_last weight makes its output so, as torch's convolutions do."""

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: Tensor, weight: Tensor | None = None) -> bool:
    """True where the output should be channels_last: where x or a convolution's weight is, as torch has it; 3-D tensors [N, C, L]
    have no such format."""
    fmt = _CHANNELS_LAST.get(x.dim())
    if fmt is None:
        return False
    if weight is not None and _strides_are_channels_last(weight):
        return True
    return not x.is_contiguous() and _strides_are_channels_last(x)


def _strides_are_channels_last(t: Tensor) -> bool:
    """torch's own test, which tells formats apart by strides alone: a 1x1 kernel is contiguous in both."""
    if t.stride(1) == 0 or t.numel() == 0:
        return False
    least = 0
    for d in (1, *range(t.dim() - 1, 1, -1), 0):
        if t.stride(d) < least or (d == 0 and least == t.stride(1)):
            return False
        least = t.stride(d) * max(t.shape[d], 1)
    return True


def memory_format(dim: int, channels_last: bool) -> torch.memory_format:
    return _CHANNELS_LAST[dim] if channels_last else torch.contiguous_format


def dense(x: Tensor, channels_last: bool) -> Tensor:
    """x in the named format, copied only if it is not so already."""
    return x.contiguous(memory_format=memory_format(x.dim(), channels_last))


def dense_weight(weight: Tensor) -> Tensor:
    """weight in contiguous or channels_last memory, whichever it has; else a contiguous copy."""
    return weight if is_dense(weight) else weight.contiguous()


def is_dense(t: Tensor) -> bool:
    """Whether t lies in contiguous or channels_last memory."""
    fmt = _CHANNELS_LAST.get(t.dim())
    return t.is_contiguous() or (fmt is not None and t.is_contiguous(memory_format=fmt))
