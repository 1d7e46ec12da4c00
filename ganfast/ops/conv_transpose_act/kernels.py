"""Registration of the passes: one signature for every backend, picked by the last argument, "name" or "name/configuration".

Configurations: Triton's tiles (triton.py lists them); "torch/nchw" and "torch/nhwc", torch's kernels on tensors copied to that
layout first; "torch/shuffle", the forward as an ordinary convolution and a pixel shuffle.
"""

import torch

from ganfast import _backends, _native
from ganfast._layout import memory_format
from ganfast._statistics import merge_partials
from ganfast.ops.conv_transpose_act import reference, torch_backend

_FWD = (
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? alpha, int[] stride, int[] padding, int[] output_padding, int[] dilation,"
    " int groups, str act, float alpha_value, bool channels_last, bool save_z, bool partials{}) -> (Tensor, Tensor, Tensor)"
)
_DATA = (
    "(Tensor gz, Tensor weight, int[] stride, int[] padding, int[] dilation, int groups, SymInt[] input_size,"
    " bool channels_last{}) -> Tensor"
)
_WEIGHT = (
    "(Tensor gz, Tensor x, Tensor weight_like, int[] stride, int[] padding, int[] dilation, int groups, bool channels_last{}) -> Tensor"
)
_CONV = (
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? alpha, int[] stride, int[] padding, int[] dilation, int groups,"
    " str act, float alpha_value, bool channels_last, bool save_z, str backend) -> (Tensor, Tensor)"
)
_BACKEND = ", str backend"

_native.define("conv_transpose_act_fwd_native" + _FWD.format(""))
_native.define("conv_transpose_act_data_grad_native" + _DATA.replace("SymInt", "int").format(""))
_native.define("conv_transpose_act_weight_grad_native" + _WEIGHT.format(""))


def output_size(input_size, kernel, stride, padding, output_padding, dilation) -> list[int]:
    return [
        (i - 1) * s - 2 * p + d * (k - 1) + op + 1
        for i, k, s, p, op, d in zip(input_size, kernel, stride, padding, output_padding, dilation)
    ]


def conv_output_size(input_size, kernel, stride, padding, dilation) -> list[int]:
    return [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in zip(input_size, kernel, stride, padding, dilation)]


def _fwd(
    x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials, backend
):
    _backends.ran["conv_transpose_act"] = backend
    backend, _, config = backend.partition("/")
    acc = torch.promote_types(x.dtype, torch.float32)
    bias = bias if bias is None or backend == "torch" else bias.to(acc).contiguous()
    alpha = None if alpha is None else alpha.to(acc).contiguous()
    args = (x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials)
    if backend in ("cpu", "cuda"):
        y, z, stats = torch.ops.ganfast.conv_transpose_act_fwd_native(*args)
    elif backend == "triton":
        from ganfast.ops.conv_transpose_act import triton

        y, z, stats = triton.conv_transpose_act_fwd_triton(*args, config)
    else:
        if backend == "torch":
            y, z, stats = torch_backend.conv_transpose_act_fwd_torch(*args, config)
        else:
            y, z, stats = reference.conv_transpose_act_fwd_reference(*args)
        fmt = memory_format(y.dim(), channels_last)
        y = y.contiguous(memory_format=fmt)
        z = z.contiguous(memory_format=fmt) if save_z else z
    return y, z, merge_partials(stats) if partials else stats


def _fwd_fake(
    x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials, backend
):
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    y = x.new_empty(x.shape[0], weight.shape[1] * groups, *size).contiguous(memory_format=memory_format(x.dim(), channels_last))
    acc = torch.promote_types(x.dtype, torch.float32)
    stats = x.new_empty((1, 3, y.shape[1]) if partials else (0,), dtype=acc)
    return y, (torch.empty_like(y) if save_z else x.new_empty(0)), stats


def _data_grad(gz, weight, stride, padding, dilation, groups, input_size, channels_last, backend):
    if backend == "cpu":
        return torch.ops.ganfast.conv_transpose_act_data_grad_native(
            gz, weight, stride, padding, dilation, groups, input_size, channels_last
        )
    layout = backend.partition("/")[2]
    gx = torch_backend.data_grad_torch(gz, weight, stride, padding, dilation, groups, input_size, layout)
    return gx.contiguous(memory_format=memory_format(gx.dim(), channels_last))


def _data_grad_fake(gz, weight, stride, padding, dilation, groups, input_size, channels_last, backend):
    gx = gz.new_empty(gz.shape[0], weight.shape[0], *input_size)
    return gx.contiguous(memory_format=memory_format(gx.dim(), channels_last))


def _weight_grad(gz, x, weight_like, stride, padding, dilation, groups, channels_last, backend):
    if backend == "cpu":
        return torch.ops.ganfast.conv_transpose_act_weight_grad_native(gz, x, weight_like, stride, padding, dilation, groups, channels_last)
    layout = backend.partition("/")[2]
    gweight = torch_backend.weight_grad_torch(gz, x, weight_like, stride, padding, dilation, groups, layout)
    if gweight.stride() == weight_like.stride():
        return gweight
    return torch.empty_like(weight_like).copy_(gweight)


def _weight_grad_fake(gz, x, weight_like, stride, padding, dilation, groups, channels_last, backend):
    return torch.empty_like(weight_like)


def _conv(x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, channels_last, save_z, backend):
    """The ordinary convolution: torch's own but on `cpu`, whose GEMM over patches is the data gradient of a transposed one."""
    _backends.ran["conv_act"] = backend
    backend, _, layout = backend.partition("/")
    alpha = None if alpha is None else alpha.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    if backend == "cpu":
        size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
        z = torch.ops.ganfast.conv_transpose_act_data_grad_native(x, weight, stride, padding, dilation, groups, size, channels_last)
        z = z if bias is None else z.add_(bias.to(z.dtype).view(-1, *[1] * len(size)))
        y, z = torch_backend.finish_conv(z, act, alpha, alpha_value, save_z)
    elif backend == "reference":
        y, z = reference.conv_act_fwd_reference(x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, save_z)
    else:
        y, z = torch_backend.conv_act_fwd_torch(
            x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, save_z, layout
        )  # fmt: skip
    fmt = memory_format(y.dim(), channels_last)
    return y.contiguous(memory_format=fmt), z.contiguous(memory_format=fmt) if save_z else z


def _conv_fake(x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, channels_last, save_z, backend):
    size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = x.new_empty(x.shape[0], weight.shape[0], *size).contiguous(memory_format=memory_format(x.dim(), channels_last))
    return y, (torch.empty_like(y) if save_z else x.new_empty(0))


fwd = _native.register("conv_transpose_act_fwd" + _FWD.format(_BACKEND), _fwd, _fwd_fake)
data_grad = _native.register("conv_transpose_act_data_grad" + _DATA.format(_BACKEND), _data_grad, _data_grad_fake)
weight_grad = _native.register("conv_transpose_act_weight_grad" + _WEIGHT.format(_BACKEND), _weight_grad, _weight_grad_fake)
conv = _native.register("conv_transpose_act_conv" + _CONV, _conv, _conv_fake)
