"""Norms whose affine comes from outside, and with a residual: the formula and its gradients in plain torch, every step differentiable.

z = (xhat * weight + bias) * scale + shift, scale and shift [N, C] or of x's shape; y = (act(z) + residual) * factor, or
act(z + residual) * factor.
"""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd
from ganfast.ops.batch_norm_act.reference import column, reduced_dims


def is_full(x: Tensor, scale: Tensor | None) -> bool:
    """Whether scale and shift are read element by element."""
    return scale is not None and scale.dim() == x.dim()


def over_image(v: Tensor | None, x: Tensor) -> Tensor | None:
    """[N, C] -> [N, C, 1, ...], in x's dtype; what has x's shape as it is."""
    if v is None:
        return None
    return v.to(x.dtype).view(*v.shape, *[1] * (x.dim() - v.dim()))


def _sets(x: Tensor, groups: int) -> tuple[Tensor, list[int]]:
    """x, and the dims that are normalised together: a channel of all images, or a group of an image's channels."""
    if groups == 0:
        return x, reduced_dims(x)
    x = x.unflatten(1, (groups, -1))
    return x, [*range(2, x.dim())]


def over_sets(values: Tensor, groups: int) -> Tensor:
    """The mean of each set, broadcast to the shape of values."""
    of, dims = _sets(values, groups)
    mean = of.mean(dims, keepdim=True)
    return mean if groups == 0 else mean.expand_as(of).flatten(1, 2)


def normalised(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """(xhat, invstd broadcast to x's shape) of x's own statistics."""
    of, dims = _sets(x, groups)
    var, mean = torch.var_mean(of, dims, correction=0, keepdim=True)
    invstd = torch.rsqrt(var + eps).expand_as(of)
    xhat = (of - mean) * invstd
    return (xhat, invstd) if groups == 0 else (xhat.flatten(1, 2), invstd.flatten(1, 2))


def statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(mean, biased variance) of each set in the accumulation dtype, [C] or [N * groups]."""
    of, dims = _sets(x.to(torch.promote_types(x.dtype, torch.float32)), groups)
    var, mean = torch.var_mean(of, dims, correction=0)
    return mean.flatten(), var.flatten()


def by_statistics(x: Tensor, mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """(xhat, invstd) by given statistics [C] or [N * C]."""
    scale = column(invstd, x)
    return (x - column(mean, x)) * scale, scale


def spread(v: Tensor, x: Tensor) -> Tensor:
    """A number for each group of each image, [N * groups], as one for each channel, [N * C]."""
    return v.repeat_interleave(x.shape[0] * x.shape[1] // v.shape[0])


def affine(xhat: Tensor, weight, bias, scale, shift) -> tuple[Tensor, Tensor]:
    """(xhat * weight + bias, z), the vectors as columns."""
    inner = xhat if weight is None else xhat * weight
    inner = inner if bias is None else inner + bias
    return inner, (inner if scale is None else inner * scale + shift)


def modulated_norm_act(xhat, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor) -> Tensor:
    """The op from xhat on."""
    weight, bias = column(weight, xhat), column(bias, xhat)
    z = affine(xhat, weight, bias, over_image(scale, xhat), over_image(shift, xhat))[1]
    if residual is not None and residual_first:
        z = z + residual.to(z.dtype)
    y = act_fwd(z, act, alpha, alpha_value)
    if residual is not None and not residual_first:
        y = y + residual.to(y.dtype)
    return y if factor == 1 else y * factor


def gradients(gy, x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, factor, groups, training, eps):
    """(gx, gweight, gbias, galpha, gscale, gshift, gresidual), None where there is no such tensor, in x's dtype. residual is given where it
    comes before the activation. With `training` and eps the statistics are made from x again: as constants they would drop their share of
    the second order."""
    xhat, inverse = normalised(x, groups, eps) if training and eps is not None else by_statistics(x, mean, invstd)
    w, b, by, more = column(weight, x), column(bias, x), over_image(scale, x), over_image(shift, x)
    inner, z = affine(xhat, w, b, by, more)
    z = z if residual is None else z + residual.to(z.dtype)
    gy = gy if factor == 1 else gy * factor
    g = act_bwd(gy, z, act, alpha, alpha_value, False)
    galpha = None if alpha is None else act_alpha_bwd(gy, z, act, alpha).sum(reduced_dims(x))
    gscale = gshift = None
    h = g
    if scale is not None:
        gscale, gshift = ((g * inner).sum_to_size(by.shape).view(scale.shape), g.sum_to_size(more.shape).view(shift.shape))
        h = g * by
    dims = reduced_dims(x)
    gbias, gweight = h.sum(dims), (h * xhat).sum(dims)
    h = h if w is None else h * w
    if training:
        h = h - over_sets(h, groups) - xhat * over_sets(h * xhat, groups)
    return h * inverse, gweight, gbias, galpha, gscale, gshift, None if residual is None else g
