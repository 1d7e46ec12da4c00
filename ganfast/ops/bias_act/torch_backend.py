"""The `torch` backend: torch's own kernels one after the other, in place from the second on."""

import torch
from torch import Tensor

from ganfast._activations import act_bwd, activate, activate_, has_one_kernel
from ganfast.ops.bias_act.reference import bias_act_bwd_reference, column, reduced_dims


def _scaled_(y: Tensor, gain: float, clamp: float | None) -> Tensor:
    y = y if gain == 1 else y.mul_(gain)
    return y if clamp is None else y.clamp_(-clamp, clamp)


def bias_act_fwd_torch(x, bias, alpha, act, alpha_value, gain, clamp, channels_last) -> Tensor:
    if bias is not None:
        y = activate_(x + column(bias, x), act, alpha, alpha_value)
    else:
        y = x.clone() if act == "linear" else activate(x, act, alpha, alpha_value)
    return _scaled_(x.clone() if y is x else y, gain, clamp)  # snake of a zero frequency is x itself


def bias_act_fwd_torch_(x, bias, alpha, act, alpha_value, gain, clamp, channels_last) -> None:
    z = x if bias is None else x.add_(column(bias, x))
    y = _scaled_(activate_(z, act, alpha, alpha_value), gain, clamp)
    if y is not x:
        x.copy_(y)


def bias_act_bwd_torch(gy, saved, bias, alpha, act, alpha_value, gain, limit, from_y, channels_last):
    one_kernel = act == "linear" or has_one_kernel(act, from_y)
    if limit is not None or gain != 1 or alpha is not None or not (from_y or bias is None) or not one_kernel:
        return bias_act_bwd_reference(gy, saved, bias, alpha, act, alpha_value, gain, limit, from_y, channels_last)
    gx = gy.clone() if act == "linear" else act_bwd(gy, saved, act, None, alpha_value, from_y)
    acc = torch.promote_types(gy.dtype, torch.float32)
    return gx, gx.sum(reduced_dims(gy), dtype=acc), gy.new_empty(0, dtype=acc)
