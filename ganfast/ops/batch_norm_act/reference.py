"""Batch norm + activation by its definition, and the passes in plain torch."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd


def reduced_dims(x: Tensor, per_image: bool = False) -> list[int]:
    return [*range(2, x.dim())] if per_image else [0, *range(2, x.dim())]


def is_per_image(mean: Tensor, x: Tensor) -> bool:
    """Statistics are [C], or [N * C] where each image has its own."""
    return mean.shape[0] > x.shape[1]


def column(vector: Tensor | None, x: Tensor) -> Tensor | None:
    """[C] -> [1, C, 1, ...], [N * C] -> [N, C, 1, ...], in x's dtype."""
    return None if vector is None else vector.to(x.dtype).view(-1, x.shape[1], *[1] * (x.dim() - 2))


def normalised(x: Tensor, eps: float, dims: list[int]) -> tuple[Tensor, Tensor]:
    """(xhat, invstd [1 or N, C, ...]) of x's own statistics over `dims`, differentiable."""
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    invstd = torch.rsqrt(var + eps)
    return (x - mean) * invstd, invstd


def batch_norm_act(x, mean, invstd, weight, bias, act, alpha, alpha_value, eps) -> Tensor:
    """The whole op as one differentiable formula; `mean` None means train mode (x's own statistics)."""
    xhat = normalised(x, eps, reduced_dims(x))[0] if mean is None else (x - column(mean, x)) * column(invstd, x)
    z = xhat if weight is None else xhat * column(weight, x)
    z = z if bias is None else z + column(bias, x)
    return act_fwd(z, act, alpha, alpha_value)


def gradients(gy, x, mean, invstd, weight, bias, act, alpha, alpha_value, training, eps):
    """(gx, gweight, gbias, galpha or None) in x's dtype, every step differentiable. In train mode the statistics are
    recomputed from x: as constants they would drop their share of the second order."""
    per_image = is_per_image(mean, x)
    dims = reduced_dims(x, per_image)
    if training and eps is not None:
        xhat, scale = normalised(x, eps, dims)
    else:
        scale = column(invstd, x)
        xhat = (x - column(mean, x)) * scale
    z = xhat if weight is None else xhat * column(weight, x)
    z = z if bias is None else z + column(bias, x)
    g = act_bwd(gy, z, act, alpha, alpha_value, False)
    gbias, gweight = g.sum(dims).flatten(), (g * xhat).sum(dims).flatten()
    centred = g
    if training:
        count = x.numel() // mean.shape[0]
        centred = g - (column(gbias, x) + xhat * column(gweight, x)) / count
    gx = centred * scale if weight is None else centred * scale * column(weight, x)
    if per_image:
        gbias, gweight = gbias.view(x.shape[:2]).sum(0), gweight.view(x.shape[:2]).sum(0)
    galpha = None if alpha is None else act_alpha_bwd(gy, z, act, alpha).sum(reduced_dims(x))
    return gx, gweight, gbias, galpha


def batch_norm_act_stats_reference(x, per_image, channels_last) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), reduced_dims(x, per_image), correction=0)
    return mean.flatten(), var.flatten()


def batch_norm_act_fwd_reference(x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last) -> Tensor:
    return batch_norm_act(x.to(mean.dtype), mean, invstd, weight, bias, act, alpha, alpha_value, None).to(x.dtype)


def batch_norm_act_bwd_reference(gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last):
    acc = mean.dtype
    gx, gweight, gbias, galpha = gradients(gy.to(acc), x.to(acc), mean, invstd, weight, bias, act, alpha, alpha_value, training, None)
    return gx.to(x.dtype), gweight, gbias, mean.new_empty(0) if galpha is None else galpha
