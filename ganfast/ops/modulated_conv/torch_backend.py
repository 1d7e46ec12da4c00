"""The `torch` backend: the passes around the convolution by torch's own kernels, in place where nothing is kept."""

import torch
from torch import Tensor

from ganfast._activations import activate_
from ganfast.ops.modulated_conv.reference import finish_gradients, per_channel, per_image


def finish_fwd_torch(t, d, noise, bias, alpha, act: str, alpha_value: float, gain: float, clamp: float | None) -> Tensor:
    """In the accumulation dtype from the first step on, rounded once."""
    acc = torch.promote_types(t.dtype, torch.float32)
    z = t.to(acc, copy=True) if d is None else t * per_image(d)
    z = z if noise is None else z.add_(noise)
    z = z if bias is None else z.add_(per_channel(bias))
    y = activate_(z, act, alpha, alpha_value)
    y = y if gain == 1 else y.mul_(gain)
    y = y if clamp is None else y.clamp_(-clamp, clamp)
    return y.to(t.dtype)


def finish_bwd_torch(gy, t, d, noise, bias, alpha, act: str, alpha_value: float, gain: float, clamp: float | None):
    acc = torch.promote_types(gy.dtype, torch.float32)
    gt, *others = finish_gradients(gy.to(acc), t.to(acc), d, noise, bias, alpha, act, alpha_value, gain, clamp)
    return gt.to(gy.dtype), *others
