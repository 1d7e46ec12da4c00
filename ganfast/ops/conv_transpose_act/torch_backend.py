"""The `torch` backend: torch's own convolutions, then the activation in place; and the two linear gradients every
backend can fall back on by name. No path here reaches the backward of torch's transposed convolution."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast._activations import activate, activate_
from ganfast._autograd import no_autocast
from ganfast._layout import memory_format
from ganfast._statistics import partials_of
from ganfast.ops.conv_transpose_act import grouped, torch_faults
from ganfast.ops.conv_transpose_act.reference import CONV

_CONV_TRANSPOSE = (None, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def _in_layout(layout: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors copied to "nchw" or "nhwc"; as they are for ""."""
    layout = grouped.laid_out(tensors[0], layout)
    if not layout:
        return tensors
    return tuple(t.contiguous(memory_format=memory_format(t.dim(), layout == "nhwc")) for t in tensors)


def _wide(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """In float32: what torch computes wrong or slowly in 16 bits (torch_faults.py)."""
    return tuple(None if t is None else t.float() for t in tensors)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int, layout: str = "") -> Tensor:
    """torch's convolution, in x's dtype."""
    x, weight = _in_layout(layout, x, weight)
    if not torch_faults.in_float32(x, layout == "float32" or torch_faults.conv(x, weight, stride, padding, dilation, groups)):
        return CONV[weight.dim() - 2](x, weight, bias, stride, padding, dilation, groups)
    with no_autocast(x):
        return CONV[weight.dim() - 2](*_wide(x, weight, bias), stride, padding, dilation, groups).to(x.dtype)


def can_shuffle(x_size, kernel, stride, padding, output_padding, dilation, groups: int) -> bool:
    """Whether `shuffled` computes this: 2-D, one stride of 2 or more, whose multiple of the input the output is."""
    if len(x_size) != 2 or groups != 1 or stride[0] != stride[1] or stride[0] < 2 or tuple(dilation) != (1, 1):
        return False
    return all(k - s == 2 * p - op for k, s, p, op in zip(kernel, stride, padding, output_padding))


@functools.lru_cache(maxsize=256)
def _shuffle_taps(kernel: int, stride: int, padding: int, device: torch.device) -> tuple[Tensor, int]:
    """(tap of each phase and window position [stride * window], `kernel` where there is none; the window's reach to either side)."""
    reach = max((stride - 1 + padding) // stride, (kernel - 1 - padding) // stride)
    taps = [r + padding - stride * (d - reach) for r in range(stride) for d in range(2 * reach + 1)]
    return torch.tensor([k if 0 <= k < kernel else kernel for k in taps], device=device), reach


def shuffled(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding) -> Tensor:
    """The transposed convolution as an ordinary one with stride^2 times the channels, a phase each, and a pixel shuffle: more
    multiplications, by zeros, but with a few output channels (images) torch's ordinary convolution more than makes up for them."""
    (taps_h, reach_h), (taps_w, reach_w) = (
        _shuffle_taps(k, s, p, x.device) for k, s, p in zip(weight.shape[2:], stride, padding)
    )  # fmt: skip
    s, (c_in, c_out) = stride[0], weight.shape[:2]
    phases = F.pad(weight, (0, 1, 0, 1)).index_select(2, taps_h).index_select(3, taps_w)
    phases = phases.view(c_in, c_out, s, 2 * reach_h + 1, s, 2 * reach_w + 1).permute(1, 2, 4, 0, 3, 5).flatten(0, 2)
    bias = None if bias is None else bias.repeat_interleave(s * s)
    return F.pixel_shuffle(_convolved(x, phases, bias, (1, 1), (reach_h, reach_w), (1, 1), 1), s)


def conv_transpose_act_fwd_torch(
    x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials, layout=""
) -> tuple[Tensor, Tensor, Tensor]:
    bias = None if bias is None else bias.to(x.dtype)
    if layout == "shuffle":
        z = shuffled(x, weight, bias, stride, padding)
    elif layout == "flip":
        weight, padding = grouped.flipped(weight, groups, padding, dilation)
        z = _convolved(x, weight, bias, stride, padding, dilation, groups, layout)
    else:
        weight, groups = grouped.merge(weight, groups, layout)
        x, weight = _in_layout(layout, x, weight)
        convolve, geometry = _CONV_TRANSPOSE[weight.dim() - 2], (stride, padding, output_padding, groups, dilation)
        if torch_faults.in_float32(x, layout == "float32" or torch_faults.conv_transpose(x)):
            with no_autocast(x):
                z = convolve(*_wide(x, weight, bias), *geometry).to(x.dtype)
        else:
            z = convolve(x, weight, bias, *geometry)
    y = activate(z, act, alpha, alpha_value) if save_z else activate_(z, act, alpha, alpha_value)
    acc = torch.promote_types(x.dtype, torch.float32)
    return y, (z if save_z else x.new_empty(0)), (partials_of(y) if partials else x.new_empty(0, dtype=acc))


def conv_torch(x, weight, bias, stride, padding, dilation, groups, layout="") -> Tensor:
    weight, groups = grouped.merge(weight, groups, layout)
    return _convolved(x, weight, None if bias is None else bias.to(x.dtype), stride, padding, dilation, groups, layout)


def finish_conv(z: Tensor, act: str, alpha: Tensor | None, alpha_value: float, save_z: bool) -> tuple[Tensor, Tensor]:
    """(y, z or an empty tensor) of a fresh convolution z, which y overwrites unless z is saved."""
    if save_z:
        return activate(z, act, alpha, alpha_value), z
    return activate_(z, act, alpha, alpha_value), z.new_empty(0)


def data_grad_torch(gz: Tensor, weight: Tensor, stride, padding, dilation, groups, input_size, layout: str = "") -> Tensor:
    """[N, Cout, *out] -> [N, Cin, *input_size]: an ordinary convolution. Where output_padding reaches the stride (the
    dilation allows it) the convolution sees positions past the input, which are cut off."""
    weight, groups = grouped.merge(weight, groups, layout)
    gx = _convolved(gz, weight, None, stride, padding, dilation, groups, layout)
    for d, size in enumerate(input_size):
        if gx.shape[2 + d] != size:
            gx = gx.narrow(2 + d, 0, size)
    return gx


def both_grads_torch(gz, x, weight, stride, padding, dilation, groups, with_bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(gx, gweight, gbias or None) of an ordinary convolution x -> gz by one call: torch prepares gz once for all, and oneDNN adds it up
    for the bias as it reads it. For calls that `torch_faults.layer` trusts."""
    mask, zeros = [True, True, with_bias], [0] * len(stride)
    gx, gweight, gbias = torch.ops.aten.convolution_backward(
        gz, x, weight, [weight.shape[0]] if with_bias else None, stride, padding, dilation, False, zeros, groups, mask
    )
    return gx, gweight, gbias


def weight_grad_torch(gz: Tensor, x: Tensor, weight_like: Tensor, stride, padding, dilation, groups, layout: str = "") -> Tensor:
    """The weight gradient [Cin, Cout/groups, *k] of the ordinary convolution gz -> x; `weight_like` gives shape and strides."""
    groups_of_weight = groups
    if layout not in ("", "float32"):
        weight_like, groups = grouped.merged_like(weight_like, groups, layout, x)
        gz, x = _in_layout(layout, gz, x)
    border = []
    for d in reversed(range(len(stride))):
        out = (gz.shape[2 + d] + 2 * padding[d] - dilation[d] * (weight_like.shape[2 + d] - 1) - 1) // stride[d] + 1
        border += [0, out - x.shape[2 + d]]
    if any(border):
        x = F.pad(x, border)
    gz, stride, padding = torch_faults.safe_weight_grad(gz, weight_like.shape[2:], stride, padding, dilation)
    zeros, dtype = [0] * len(stride), gz.dtype
    if torch_faults.in_float32(gz, layout == "float32" or torch_faults.weight_grad(gz, x.shape[-1], stride)):
        gz, x, weight_like = _wide(gz, x, weight_like)
    gweight = torch.ops.aten.convolution_backward(
        x, gz, weight_like, None, stride, padding, dilation, False, zeros, groups, [False, True, False]
    )[1]
    return grouped.blocks(gweight, groups_of_weight, groups).to(dtype)
