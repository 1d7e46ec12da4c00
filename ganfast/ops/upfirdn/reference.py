"""The published chain in plain torch: zeros between, padding, a convolution of every channel with the filter, every down-th."""

import torch
import torch.nn.functional as F
from torch import Tensor

_CONV = (None, F.conv1d, F.conv2d)


def spread(x: Tensor, up) -> Tensor:
    """[N, C, *size] -> [N, C, *size * up]: zeros after every value."""
    for dim, factor in enumerate(up, 2):
        if factor > 1:
            x = F.pad(x.unsqueeze(dim + 1), [0, 0] * (x.dim() - dim - 1) + [0, factor - 1]).flatten(dim, dim + 1)
    return x


def bordered(x: Tensor, before, after) -> Tensor:
    """Zeros first, then what is cut off, which may be all of x: torch's pad has no answer for that."""
    x = F.pad(x, [max(n, 0) for pair in reversed(list(zip(before, after))) for n in pair])
    return x[(..., *[slice(max(-b, 0), x.shape[dim] - max(-a, 0)) for dim, (b, a) in enumerate(zip(before, after), 2)])]


def filtered(x: Tensor, filter: Tensor, stride) -> Tensor:
    """[N, C, *size], every channel correlated with the filter, which has as many dimensions as the size."""
    channels = x.shape[1]
    weight = filter.expand(channels, 1, *filter.shape)
    return _CONV[filter.dim()](x, weight, stride=tuple(stride), groups=channels)


def upfirdn_fwd_reference(x: Tensor, filter: Tensor, up, down, before, after, flip: bool, gain: float) -> Tensor:
    """filter as `kernels.fwd` takes it. In the accumulation dtype, rounded once."""
    acc = torch.promote_types(x.dtype, torch.float32)
    filter = filter.to(acc)
    dims = x.dim() - 2
    if filter.dim() < dims:
        filter = filter[:, None] * filter
    filter = filter * gain
    filter = filter if flip else filter.flip(list(range(dims)))
    return filtered(bordered(spread(x.to(acc), up), before, after), filter, down).to(x.dtype)
