"""Bias + activation + gain + clamp by its definition, and the passes in plain torch."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd, signs_of

CLAMPED = 2  # of the signs


def reduced_dims(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def column(vector: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...], in x's dtype."""
    return vector.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))


def bias_act(x, bias, alpha, act, alpha_value, gain, clamp, residual=None, residual_first=False, factor=1.0) -> Tensor:
    """The whole op as one differentiable formula; x and the residual [N, C, ...]."""
    z = x if bias is None else x + column(bias, x)
    z = z + residual if residual is not None and residual_first else z
    y = act_fwd(z, act, alpha, alpha_value) * gain
    y = y if clamp is None else y.clamp(-clamp, clamp)
    y = y + residual if residual is not None and not residual_first else y
    return y if factor == 1 else y * factor


def signs(y: Tensor, act: str, limit: float | None) -> Tensor:
    """A byte an element that the backward reads as it would y: 1 where the activation's slope is 1, else 0; CLAMPED where |y| >= limit."""
    found = signs_of(y, act)
    if limit is None:
        return found
    limit = torch.full((), limit, dtype=y.dtype, device=y.device)
    return found.to(torch.uint8).masked_fill_((y >= limit).logical_or_(y <= -limit), CLAMPED)


def gradients(gy, saved, bias, alpha, act, alpha_value, gain, limit, from_y):
    """(gx, gbias, galpha or None) in gy's dtype, every step differentiable. saved is y where `from_y`, else x; |y| >= limit counts
    as clamped."""
    if from_y:
        z = saved / gain
    else:
        z = saved if bias is None else saved + column(bias, saved)
    g = gy * gain
    if limit is not None:
        y = saved if from_y else act_fwd(z, act, alpha, alpha_value) * gain
        g = torch.where(y.detach().abs() >= limit, torch.zeros_like(g), g)
    gx = act_bwd(g, z, act, alpha, alpha_value, from_y)
    galpha = None if alpha is None else act_alpha_bwd(g, z, act, alpha).sum([d - gy.dim() for d in reduced_dims(gy)])
    return gx, gx.sum(reduced_dims(gy)), galpha


def bias_act_fwd_reference(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor) -> Tensor:
    acc = torch.promote_types(x.dtype, torch.float32)
    residual = None if residual is None else residual.to(acc)
    return bias_act(x.to(acc), bias, alpha, act, alpha_value, gain, clamp, residual, residual_first, factor).to(x.dtype)


def bias_act_bwd_reference(gy, saved, bias, alpha, act, alpha_value, gain, limit, from_y, channels_last):
    acc = torch.promote_types(gy.dtype, torch.float32)
    gx, gbias, galpha = gradients(gy.to(acc), saved.to(acc), bias, alpha, act, alpha_value, gain, limit, from_y)
    return gx.to(gy.dtype), gbias, gy.new_empty(0, dtype=acc) if galpha is None else galpha
