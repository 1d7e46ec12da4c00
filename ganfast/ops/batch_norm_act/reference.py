"""Batch norm + activation by its definition, and the passes in plain torch."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_grad, act_fwd, act_grad


def reduced_dims(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def column(vector: Tensor | None, x: Tensor) -> Tensor | None:
    """[C] -> [1, C, 1, ...], in x's dtype."""
    return None if vector is None else vector.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))


def normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(xhat, invstd [1, C, ...]) of x's own batch statistics, differentiable."""
    var, mean = torch.var_mean(x, reduced_dims(x), correction=0, keepdim=True)
    invstd = torch.rsqrt(var + eps)
    return (x - mean) * invstd, invstd


def batch_norm_act(x, mean, invstd, weight, bias, act, alpha, alpha_value, eps) -> Tensor:
    """The whole op as one differentiable formula; `mean` None means train mode (x's own statistics)."""
    xhat = normalised(x, eps)[0] if mean is None else (x - column(mean, x)) * column(invstd, x)
    z = xhat if weight is None else xhat * column(weight, x)
    z = z if bias is None else z + column(bias, x)
    return act_fwd(z, act, alpha, alpha_value)


def gradients(gy, x, mean, invstd, weight, bias, act, alpha, alpha_value, training, eps):
    """(gx, gweight, gbias, galpha or None) in x's dtype, every step differentiable. In train mode the statistics are
    recomputed from x: as constants they would drop their share of the second order."""
    dims = reduced_dims(x)
    if training and eps is not None:
        xhat, scale = normalised(x, eps)
    else:
        scale = column(invstd, x)
        xhat = (x - column(mean, x)) * scale
    z = xhat if weight is None else xhat * column(weight, x)
    z = z if bias is None else z + column(bias, x)
    g = gy * act_grad(z, act, alpha, alpha_value, False)
    gbias, gweight = g.sum(dims), (g * xhat).sum(dims)
    centred = g
    if training:
        count = x.numel() // x.shape[1]
        centred = g - (column(gbias, x) + xhat * column(gweight, x)) / count
    gx = centred * scale if weight is None else centred * scale * column(weight, x)
    galpha = None if alpha is None else (gy * act_alpha_grad(z, act, alpha)).sum(dims)
    return gx, gweight, gbias, galpha


def batch_norm_act_stats_reference(x, channels_last) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), reduced_dims(x), correction=0)
    return mean, var


def batch_norm_act_fwd_reference(x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last) -> Tensor:
    return batch_norm_act(x.to(mean.dtype), mean, invstd, weight, bias, act, alpha, alpha_value, None).to(x.dtype)


def batch_norm_act_bwd_reference(gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last):
    acc = mean.dtype
    gx, gweight, gbias, galpha = gradients(gy.to(acc), x.to(acc), mean, invstd, weight, bias, act, alpha, alpha_value, training, None)
    return gx.to(x.dtype), gweight, gbias, mean.new_empty(0) if galpha is None else galpha
