"""The `torch` backend: torch's own group norm kernels, then affine and activation as passes of their own."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd
from ganfast.ops.batch_norm_act.modulated_reference import over_image, spread, statistics
from ganfast.ops.batch_norm_act.reference import column, reduced_dims


def _sizes(x: Tensor, groups: int) -> tuple[int, int, int, int]:
    return x.shape[0], x.shape[1], x.numel() // (x.shape[0] * x.shape[1]), groups


def group_norm_act_fwd_torch(x, weight, bias, scale, shift, alpha, groups, eps, act, alpha_value):
    vectors = (None if v is None else v.to(x.dtype) for v in (weight, bias))
    z = torch.native_group_norm(x, *vectors, *_sizes(x, groups), eps)[0]
    if scale is not None:
        z = torch.addcmul(over_image(shift, x), z, over_image(scale, x))
    mean, var = statistics(x, groups)  # torch's come rounded to x's dtype
    return act_fwd(z, act, alpha, alpha_value), mean, torch.rsqrt(var + eps)


def group_norm_act_bwd_torch(gy, x, mean, invstd, weight, bias, scale, shift, alpha, groups, act, alpha_value):
    acc = mean.dtype
    xhat = (x.to(acc) - column(spread(mean, x), x.to(acc))) * column(spread(invstd, x), x.to(acc))
    inner = xhat if weight is None else xhat * column(weight, xhat)
    inner = inner if bias is None else inner + column(bias, xhat)
    z = inner if scale is None else inner * over_image(scale, xhat) + over_image(shift, xhat)
    exact = act_bwd(gy.to(acc), z, act, alpha, alpha_value, False)
    galpha = None if alpha is None else act_alpha_bwd(gy.to(acc), z, act, alpha).sum(reduced_dims(x))
    gscale = gshift = None
    if scale is not None:
        dims = [*range(2, x.dim())]
        gscale, gshift = (exact * inner).sum(dims).view(scale.shape), exact.sum(dims).view(shift.shape)
        exact = exact * over_image(scale, xhat)
    unit = torch.ones(x.shape[1], dtype=acc, device=x.device) if weight is None else weight.to(acc)
    dense = exact.contiguous(), x.to(acc).contiguous(), mean.view(-1, groups), invstd.view(-1, groups)
    gx, gweight, gbias = torch.ops.aten.native_group_norm_backward(*dense, unit, *_sizes(x, groups), [True, True, True])
    return gx.to(x.dtype), gweight, gbias, galpha, gscale, gshift
