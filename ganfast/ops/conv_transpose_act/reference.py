"""Transposed convolution + bias + activation by its definition, in plain torch.

Zero insertion and an ordinary convolution with the flipped weight: nothing here touches torch's own transposed
convolution, whose 3-D backward on the CPU writes out of bounds for some paddings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast._activations import act_fwd, signs_of
from ganfast._autograd import no_autocast
from ganfast._statistics import partials_of

CONV = (None, F.conv1d, F.conv2d, F.conv3d)


def zero_insert(x: Tensor, weight: Tensor, stride, padding, output_padding, dilation, groups) -> tuple[Tensor, Tensor]:
    """(x with stride - 1 zeros between pixels and its border, weight as an ordinary convolution's): their convolution
    with `dilation` and `groups` is the transposed convolution. x [N, Cin, *in], weight [Cin, Cout/groups, *k]."""
    dims = weight.dim() - 2
    n, c_in, *size = x.shape
    if any(s != 1 for s in stride):
        up = x.new_zeros(n, c_in, *[(length - 1) * s + 1 for length, s in zip(size, stride)])
        up[(..., *[slice(None, None, s) for s in stride])] = x
        x = up
    border = []
    for k, p, op, d in zip(reversed(weight.shape[2:]), reversed(padding), reversed(output_padding), reversed(dilation)):
        border += [d * (k - 1) - p, d * (k - 1) - p + op]
    c_group = weight.shape[1]
    flipped = weight.unflatten(0, (groups, c_in // groups)).transpose(1, 2).reshape(groups * c_group, c_in // groups, *weight.shape[2:])
    return F.pad(x, border), flipped.flip(list(range(2, 2 + dims)))


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, output_padding, dilation, groups) -> Tensor:
    """[N, Cin, *in] -> [N, Cout, *out]; differentiable to any order."""
    up, flipped = zero_insert(x, weight, stride, padding, output_padding, dilation, groups)
    return CONV[weight.dim() - 2](up, flipped, bias, 1, 0, dilation, groups)


def conv_transpose_act(x, weight, bias, stride, padding, output_padding, dilation, groups, act, alpha, alpha_value) -> Tensor:
    """The whole op as one differentiable formula: the oracle of every backend and of every gradient."""
    z = conv_transpose(x, weight, bias, stride, padding, output_padding, dilation, groups)
    return act_fwd(z, act, alpha, alpha_value)


def _finished(z, dtype, act, alpha, alpha_value, save_z, residual, residual_first, factor, keep_signs) -> tuple[Tensor, Tensor]:
    """(y, z or its signs or an empty tensor), in the accumulation dtype until the end."""
    z = z + residual if residual_first else z
    acted = act_fwd(z, act, alpha, alpha_value)
    y = acted + residual if residual is not None and not residual_first else acted
    kept = signs_of(acted.to(dtype), act) if keep_signs else z.to(dtype, copy=True) if save_z else z.new_empty(0, dtype=dtype)
    return (y if factor == 1 else y * factor).to(dtype), kept


def conv_transpose_act_fwd_reference(
    x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials,
    residual, residual_first, factor, keep_signs,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    acc = torch.promote_types(x.dtype, torch.float32)
    with no_autocast(x):  # which would cast them back
        z = conv_transpose(x.to(acc), weight.to(acc), bias, stride, padding, output_padding, dilation, groups)
    y, kept = _finished(z, x.dtype, act, alpha, alpha_value, save_z, residual, residual_first, factor, keep_signs)
    return y, kept, (partials_of(y) if partials else x.new_empty(0, dtype=acc))


def conv_act_fwd_reference(
    x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, save_z, residual, residual_first, factor, keep_signs
) -> tuple[Tensor, Tensor]:
    acc = torch.promote_types(x.dtype, torch.float32)
    bias = None if bias is None else bias.to(acc)
    with no_autocast(x):
        z = CONV[weight.dim() - 2](x.to(acc), weight.to(acc), bias, stride, padding, dilation, groups)
    return _finished(z, x.dtype, act, alpha, alpha_value, save_z, residual, residual_first, factor, keep_signs)
