"""Layers that follow each other, run as one where the arithmetic allows it."""

import math

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.nn.layers import _BatchNormAct, _ConvTransposeAct
from ganfast.ops.conv_transpose_act.op import conv_transpose_act


def conv_transpose_batch_norm_act(conv: _ConvTransposeAct, norm: _BatchNormAct, x: Tensor) -> Tensor:
    """``norm(conv(x))`` with what the two can share: in train mode the convolution's statistics spare the norm a reading of its
    input; in eval mode the norm becomes a factor of the weight and a bias, where that is less work than a pass over the output.

    Shapes: x [N, conv.in_channels, *in] -> [N, conv.out_channels, *out]; conv's act is linear, its channels are norm's.
    Dtypes, Layout: as the two layers. The fold is made in float32 and rounded to the weight's dtype; no parameter changes.
    Grads: x and every parameter, to any order, in both modes.
    Raises: ValueError where conv has an activation of its own.
    Source: Jacob et al. 2018, section 3.2 (folding batch norm).
    """
    if conv.act != "linear":
        _checks.fail("conv_transpose_batch_norm_act", f"conv has act={conv.act!r}, wants linear", "The activation belongs to the norm")
    if norm.training or norm.running_mean is None:
        z, partials = conv(x, return_partials=True)
        return norm(z, partials=partials)
    # Hooks want the modules called: users' own, and those that make a weight anew (weight_norm, spectral_norm).
    hooked = any(hooks for module in (conv, norm) for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
                                                                module._backward_pre_hooks))  # fmt: skip
    if hooked or x.dim() != conv.weight.dim():
        return norm(conv(x))
    outputs = x.shape[0] * math.prod(x.shape[2:]) * math.prod(conv.stride) * conv.out_channels
    if outputs < conv.weight.numel():
        return norm(conv(x))
    acc = torch.promote_types(conv.weight.dtype, torch.float32)
    scale = torch.rsqrt(norm.running_var.to(acc) + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.to(acc)
    mean = norm.running_mean.to(acc) if conv.bias is None else norm.running_mean.to(acc) - conv.bias.to(acc)
    shift = -mean * scale if norm.bias is None else norm.bias.to(acc) - mean * scale
    per_group = scale.view(conv.groups, 1, -1, *[1] * len(conv.stride))
    weight = (conv.weight.unflatten(0, (conv.groups, -1)) * per_group).flatten(0, 1).to(conv.weight.dtype)
    return conv_transpose_act(
        x, weight, shift.to(weight.dtype), stride=conv.stride, padding=conv.padding, output_padding=conv.output_padding,
        groups=conv.groups, dilation=conv.dilation, act=norm.act, alpha=norm.alpha,
    )  # fmt: skip
