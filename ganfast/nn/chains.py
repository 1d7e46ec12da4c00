"""Layers that follow each other, run as one where the arithmetic allows it. Works on torch's own modules, whose parameters and
options it reads at every call, as on ganfast's layers."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.nn.layers import run_batch_norm
from ganfast.nn.patterns import BATCH_NORMS, CONV_TRANSPOSES, padding
from ganfast.ops.batch_norm_act.autograd import BatchNormAct, rebuild
from ganfast.ops.batch_norm_act.instance import instance_norm_act
from ganfast.ops.conv_act.op import conv_act
from ganfast.ops.conv_transpose_act.op import conv_transpose_act
from ganfast.ops.upsample_conv_act.op import upsample_conv_act

Alpha = float | Tensor | None
_FOLDING = 2**18  # values that a norm's pass takes in the time of the fold's operations on vectors
_TRANSPOSED = tuple(CONV_TRANSPOSES)
_BATCH = tuple(BATCH_NORMS)


def convolve(
    conv: nn.Module,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    act: str = "linear",
    alpha: Alpha = None,
    *,
    scale: tuple[int, ...] | None = None,
    output_size=None,
    return_partials: bool = False,
    recompute: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """act(conv(x)) with conv's options and the given weight; after a nearest upsampling by `scale` where that is given.
    `recompute`: see `rebuilt`."""
    if recompute:
        with rebuilt(x):
            return convolve(
                conv, x, weight, bias, act, alpha, scale=scale, output_size=output_size, return_partials=return_partials
            )  # fmt: skip
    if isinstance(conv, _TRANSPOSED):
        output_padding = conv.output_padding
        if output_size is not None:
            output_padding = tuple(
                conv._output_padding(x, output_size, conv.stride, conv.padding, conv.kernel_size, len(conv.stride), conv.dilation)
            )
        return conv_transpose_act(
            x, weight, bias, stride=conv.stride, padding=conv.padding, output_padding=output_padding, groups=conv.groups,
            dilation=conv.dilation, act=act, alpha=alpha, return_partials=return_partials,
        )  # fmt: skip
    if scale is not None:
        return upsample_conv_act(
            x, weight, bias, scale_factor=scale, padding=padding(conv), groups=conv.groups, act=act, alpha=alpha,
            return_partials=return_partials,
        )  # fmt: skip
    pads = padding(conv)
    if pads is None:
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x, pads = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode), 0
    return conv_act(x, weight, bias, stride=conv.stride, padding=pads, groups=conv.groups, dilation=conv.dilation, act=act, alpha=alpha)


def normalise(norm: nn.Module, x: Tensor, act: str, alpha: Alpha, partials: Tensor | None = None) -> Tensor:
    """act(norm(x)) for a batch or instance norm."""
    if isinstance(norm, _BATCH):
        return run_batch_norm(norm, x, act, alpha, partials)
    return instance_norm_act(x, norm.weight, norm.bias, eps=norm.eps, act=act, alpha=alpha)


def conv_norm_act(conv: nn.Module, norm: nn.Module, x: Tensor, act: str, alpha: Alpha, **options) -> Tensor:
    """act(norm(conv(x))) with what the two can share: a batch norm in train mode takes the statistics that a transposed
    convolution's epilogue gathers; in eval mode it becomes a factor of the weight and a bias, where that is less work than a pass
    over the output. The fold is made anew at each call, in float32, and rounded to the weight's dtype; no parameter changes.
    `options` are convolve's.
    Grads: x and every parameter, to any order, in both modes. Source: Jacob et al. 2018, section 3.2 (folding batch norm).
    """
    weight, bias = conv.weight, conv.bias
    transposed, batch = isinstance(conv, _TRANSPOSED), isinstance(norm, _BATCH)
    if batch and not norm.training and norm.running_mean is not None and _folds(conv, x, weight, options.get("scale")):
        folded, shift = _fold(weight, bias, norm, conv.groups if transposed else None)
        return convolve(conv, x, folded, shift, act, alpha, **options)
    if not (batch and transposed and (norm.training or norm.running_mean is None)):
        return normalise(norm, convolve(conv, x, weight, bias, **options), act, alpha)
    z, partials = convolve(conv, x, weight, bias, return_partials=True, **options)
    return normalise(norm, z, act, alpha, partials)


def _folds(conv: nn.Module, x: Tensor, weight: Tensor, scale: tuple[int, ...] | None) -> bool:
    """Whether the fold, a pass over the weight and some ten operations on vectors, is less work than the norm's pass."""
    return _outputs(conv, x, scale) >= weight.numel() + _FOLDING


def _outputs(conv: nn.Module, x: Tensor, scale: tuple[int, ...] | None) -> float:
    """About how many values conv(x) has."""
    strides = math.prod(conv.stride)
    grown = strides if isinstance(conv, _TRANSPOSED) else math.prod(scale or ()) / strides
    return x.shape[0] * math.prod(x.shape[2:]) * grown * conv.out_channels


def _fold(weight: Tensor, bias: Tensor | None, norm: nn.Module, transposed_groups: int | None) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the convolution that is the convolution and the norm by running statistics."""
    acc = torch.promote_types(weight.dtype, torch.float32)
    factor = torch.rsqrt(norm.running_var.to(acc) + norm.eps)
    factor = factor if norm.weight is None else factor * norm.weight.to(acc)
    mean = norm.running_mean.to(acc) if bias is None else norm.running_mean.to(acc) - bias.to(acc)
    shift = -mean * factor if norm.bias is None else norm.bias.to(acc) - mean * factor
    ones = [1] * (weight.dim() - 2)
    if transposed_groups is None:
        folded = weight * factor.view(-1, 1, *ones)
    else:
        folded = (weight.unflatten(0, (transposed_groups, -1)) * factor.view(transposed_groups, 1, -1, *ones)).flatten(0, 1)
    return folded.to(weight.dtype), shift.to(weight.dtype)


def rebuilt(x: Tensor):
    """Inside, an op that saves x, a fused norm's output, keeps what the norm saved instead and normalises again in its backward:
    one pass over memory more, one activation of the layer less in memory. Other tensors go to the user's own hooks, if any."""
    node = x.grad_fn
    if torch.compiler.is_compiling() or not isinstance(node, BatchNormAct._backward_cls) or x._version:
        return contextlib.nullcontext()
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
    # Checkpointing counts what is saved and asked for; and hooks may be forbidden.
    if not torch._C._autograd._saved_tensors_hooks_is_enabled() or (outer and outer[0].__module__ == "torch.utils.checkpoint"):
        return contextlib.nullcontext()
    pointer, shape = x.data_ptr(), x.shape

    def pack(t: Tensor) -> tuple:
        if t.data_ptr() == pointer and t.shape == shape:
            return None, node
        return (outer[1], outer[0](t)) if outer else (None, t)

    def unpack(kept: tuple) -> Tensor:
        unpack_outer, value = kept
        if unpack_outer is not None:
            return unpack_outer(value)
        return rebuild(value) if value is node else value

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
