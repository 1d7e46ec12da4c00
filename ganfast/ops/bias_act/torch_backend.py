"""The `torch` backend: torch's own kernels one after the other, in place from the second on."""

import torch
from torch import Tensor

from ganfast._activations import act_bwd, activate, activate_, has_one_kernel
from ganfast.ops.bias_act.reference import bias_act_bwd_reference, bias_act_fwd_reference, column, reduced_dims


def _scaled_(y: Tensor, gain: float, clamp: float | None, residual: Tensor | None, factor: float) -> Tensor:
    y = y if gain == 1 else y.mul_(gain)
    y = y if clamp is None else y.clamp_(-clamp, clamp)
    y = y if residual is None else y.add_(residual)
    return y if factor == 1 else y.mul_(factor)


def bias_act_fwd_torch(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor) -> Tensor:
    if residual is not None and x.itemsize == 2:  # the sum is rounded once
        return bias_act_fwd_reference(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor)
    if bias is not None or (residual is not None and residual_first):
        z = x + residual if bias is None else x + column(bias, x)
        z = z.add_(residual) if bias is not None and residual_first else z
        y = activate_(z, act, alpha, alpha_value)
    else:
        y = x.clone() if act == "linear" else activate(x, act, alpha, alpha_value)
    y = x.clone() if y is x else y  # snake of a zero frequency is x itself
    return _scaled_(y, gain, clamp, None if residual_first else residual, factor)


def bias_act_fwd_torch_(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor) -> None:
    if residual is not None and x.itemsize == 2:
        x.copy_(bias_act_fwd_torch(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor))
        return
    z = x if bias is None else x.add_(column(bias, x))
    z = z.add_(residual) if residual_first else z
    y = _scaled_(activate_(z, act, alpha, alpha_value), gain, clamp, None if residual_first else residual, factor)
    if y is not x:
        x.copy_(y)


def bias_act_bwd_torch(gy, saved, bias, alpha, act, alpha_value, gain, limit, from_y, channels_last):
    one_kernel = act == "linear" or has_one_kernel(act, from_y)
    if limit is not None or gain != 1 or alpha is not None or not (from_y or bias is None) or not one_kernel:
        return bias_act_bwd_reference(gy, saved, bias, alpha, act, alpha_value, gain, limit, from_y, channels_last)
    gx = gy.clone() if act == "linear" else act_bwd(gy, saved, act, None, alpha_value, from_y)
    acc = torch.promote_types(gy.dtype, torch.float32)
    return gx, gx.sum(reduced_dims(gy), dtype=acc), gy.new_empty(0, dtype=acc)
