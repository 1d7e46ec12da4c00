"""The `torch` backend: the same chain by torch's kernels, a separable filter along one dimension after the other."""

import torch
from torch import Tensor

from ganfast.ops.upfirdn.reference import bordered, filtered, spread


def upfirdn_fwd_torch(x: Tensor, filter: Tensor, up, down, before, after, flip: bool, gain: float) -> Tensor:
    dims = x.dim() - 2
    filter = (filter.to(torch.promote_types(filter.dtype, x.dtype)) * gain ** (filter.dim() / dims)).to(x.dtype)
    filter = filter if flip else filter.flip(list(range(filter.dim())))
    x = bordered(spread(x, up), before, after)
    if filter.dim() == dims:
        return filtered(x, filter, down)
    for dim in range(dims):
        stride = [down[i] if i == dim else 1 for i in range(dims)]
        x = filtered(x, filter.view([-1 if i == dim else 1 for i in range(dims)]), stride)
    return x
