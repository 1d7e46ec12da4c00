"""Bias + activation + gain + clamp by its definition, and the passes in plain torch."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd


def reduced_dims(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def column(vector: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...], in x's dtype."""
    return vector.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))


def bias_act(x, bias, alpha, act, alpha_value, gain, clamp) -> Tensor:
    """The whole op as one differentiable formula; x [N, C, ...]."""
    z = x if bias is None else x + column(bias, x)
    y = act_fwd(z, act, alpha, alpha_value) * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


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
    galpha = None if alpha is None else act_alpha_bwd(g, z, act, alpha).sum(reduced_dims(gy))
    return gx, gx.sum(reduced_dims(gy)), galpha


def bias_act_fwd_reference(x, bias, alpha, act, alpha_value, gain, clamp, channels_last) -> Tensor:
    y = bias_act(x.to(torch.promote_types(x.dtype, torch.float32)), bias, alpha, act, alpha_value, gain, clamp)
    return y.to(x.dtype)


def bias_act_bwd_reference(gy, saved, bias, alpha, act, alpha_value, gain, limit, from_y, channels_last):
    acc = torch.promote_types(gy.dtype, torch.float32)
    gx, gbias, galpha = gradients(gy.to(acc), saved.to(acc), bias, alpha, act, alpha_value, gain, limit, from_y)
    return gx.to(gy.dtype), gbias, gy.new_empty(0, dtype=acc) if galpha is None else galpha
