"""Registration of the passes: one signature for every backend, picked by the last argument, "name" or "name/configuration".

Configurations: Triton's tiles (triton.py lists them); "torch/nchw" and "torch/nhwc", torch's kernels on tensors copied to that
layout first; "torch/float32", on float32 ones; "torch/shuffle", the forward as an ordinary convolution and a pixel shuffle; "torch/wide32",
groups merged to 32 channels or more, and "torch/flip", a transposed convolution of stride 1 as an ordinary one (grouped.py).
"""

import torch

from ganfast import _backends, _native
from ganfast._layout import memory_format
from ganfast._statistics import merge_partials, partials_of
from ganfast.ops.bias_act import kernels as bias_act
from ganfast.ops.conv_transpose_act import minimal, reference, torch_backend

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
    " str act, float alpha_value, bool channels_last, bool save_z{}) -> (Tensor, Tensor)"
)
_BACKEND = ", str backend"
# The second result is what the activation's backward reads, if not y: z, where save_z; signs, where keep_signs, which want a residual.
_RESIDUAL = ", Tensor? residual=None, bool residual_first=False, float factor=1.0, bool keep_signs=False"

_native.define("conv_transpose_act_fwd_native" + _FWD.format(_RESIDUAL))
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
    x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials, backend,
    residual=None, residual_first=False, factor=1.0, keep_signs=False,
):  # fmt: skip
    if residual is not None and backend.partition("/")[0] not in ("reference", "cuda", "triton"):
        geometry = (stride, padding, output_padding, dilation, groups)
        z, *_, stats = _fwd(x, weight, bias, None, *geometry, "linear", 0.0, channels_last, False, False, backend)
        return *_added(z, None, alpha, act, alpha_value, channels_last, save_z, residual, residual_first, factor, keep_signs), stats
    _backends.ran["conv_transpose_act"] = backend
    backend, _, config = backend.partition("/")
    acc = torch.promote_types(x.dtype, torch.float32)
    bias = bias if bias is None or backend == "torch" else bias.to(acc).contiguous()
    alpha = None if alpha is None else alpha.to(acc).contiguous()
    args = (x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials)
    if backend == "cpu" and minimal.refusal(x, weight, stride, padding, dilation, groups) is None:
        size = output_size(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
        y, z = minimal.run(x, weight, bias, alpha, act, alpha_value, True, size, channels_last, save_z)
        stats = partials_of(y) if partials else x.new_empty(0)
    elif backend in ("cpu", "cuda"):
        y, z, stats = torch.ops.ganfast.conv_transpose_act_fwd_native(*args, residual, residual_first, factor, keep_signs)
    elif backend == "triton":
        from ganfast.ops.conv_transpose_act import triton

        y, z, stats = triton.conv_transpose_act_fwd_triton(*args, config, None, residual, residual_first, factor, keep_signs)
    else:
        if backend == "torch":
            y, z, stats = torch_backend.conv_transpose_act_fwd_torch(*args, config)
        else:
            y, z, stats = reference.conv_transpose_act_fwd_reference(*args, residual, residual_first, factor, keep_signs)
        fmt = memory_format(y.dim(), channels_last)
        y = y.contiguous(memory_format=fmt)
        z = z.contiguous(memory_format=fmt) if z.numel() else z
    return y, z, merge_partials(stats) if partials else stats


def _added(z, bias, alpha, act, alpha_value, channels_last, save_z, residual, residual_first, factor, keep_signs):
    """(y, z or its signs or an empty tensor) of a fresh convolution z and a residual: one pass, in place where z is not kept. A bias that
    is still to be added comes where z is not kept."""
    if act == "linear" and bias is None and factor == 1 and not keep_signs:
        return z.add_(residual), z.new_empty(0)
    args = (alpha, act, alpha_value, 1.0, None, channels_last, bias_act.automatic(z, act), residual, residual_first, factor, keep_signs)
    if not save_z:
        y, signs = bias_act.fwd_(z, bias, *args)
        return y, signs if keep_signs else z.new_empty(0)
    y, _ = bias_act.fwd(z, None, *args)
    return y, z.add_(residual) if residual_first else z


def _kept_fake(y, save_z, keep_signs):
    return torch.empty_like(y, dtype=torch.bool) if keep_signs else torch.empty_like(y) if save_z else y.new_empty(0)


def _fwd_fake(
    x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, save_z, partials, backend,
    residual=None, residual_first=False, factor=1.0, keep_signs=False,
):  # fmt: skip
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    y = x.new_empty(x.shape[0], weight.shape[1] * groups, *size).contiguous(memory_format=memory_format(x.dim(), channels_last))
    acc = torch.promote_types(x.dtype, torch.float32)
    stats = x.new_empty((1, 3, y.shape[1]) if partials else (0,), dtype=acc)
    return y, _kept_fake(y, save_z, keep_signs), stats


def _data_grad(gz, weight, stride, padding, dilation, groups, input_size, channels_last, backend):
    if backend == "cpu":
        if minimal.refusal(gz, weight, stride, padding, dilation, groups) is None:
            return minimal.run(gz, weight, None, None, "linear", 0.0, False, input_size, channels_last, False)[0]
        return torch.ops.ganfast.conv_transpose_act_data_grad_native(
            gz, weight, stride, padding, dilation, groups, input_size, channels_last
        )
    layout, dtype = backend.partition("/")[2], gz.dtype
    if backend == "reference":
        gz, weight = (t.to(torch.promote_types(dtype, torch.float32)) for t in (gz, weight))
    gx = torch_backend.data_grad_torch(gz, weight, stride, padding, dilation, groups, input_size, layout).to(dtype)
    return gx.contiguous(memory_format=memory_format(gx.dim(), channels_last))


def _data_grad_fake(gz, weight, stride, padding, dilation, groups, input_size, channels_last, backend):
    gx = gz.new_empty(gz.shape[0], weight.shape[0], *input_size)
    return gx.contiguous(memory_format=memory_format(gx.dim(), channels_last))


def _weight_grad(gz, x, weight_like, stride, padding, dilation, groups, channels_last, backend):
    if backend == "cpu":
        return torch.ops.ganfast.conv_transpose_act_weight_grad_native(gz, x, weight_like, stride, padding, dilation, groups, channels_last)
    layout = backend.partition("/")[2]
    if backend == "reference":
        gz, x, like = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (gz, x, weight_like))
        gweight = torch_backend.weight_grad_torch(gz, x, like, stride, padding, dilation, groups).to(weight_like.dtype)
    else:
        gweight = torch_backend.weight_grad_torch(gz, x, weight_like, stride, padding, dilation, groups, layout)
    if gweight.stride() == weight_like.stride():
        return gweight
    return torch.empty_like(weight_like).copy_(gweight)


def both_grads(gz, x, weight, stride, padding, dilation, groups, channels_last, with_bias: bool):
    """(gx, gweight, gbias or None) by torch alone, `choice.together`."""
    gx, gweight, gbias = torch_backend.both_grads_torch(gz, x, weight, stride, padding, dilation, groups, with_bias)
    if gweight.stride() != weight.stride():
        gweight = torch.empty_like(weight).copy_(gweight)
    return gx.contiguous(memory_format=memory_format(gx.dim(), channels_last)), gweight, gbias


def _weight_grad_fake(gz, x, weight_like, stride, padding, dilation, groups, channels_last, backend):
    return torch.empty_like(weight_like)


def _conv(
    x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, channels_last, save_z, backend,
    residual=None, residual_first=False, factor=1.0, keep_signs=False,
):  # fmt: skip
    """The ordinary convolution: torch's own but on `cpu`, whose GEMM over patches is the data gradient of a transposed one. On a GPU
    torch's convolution adds its bias in a pass of its own: there bias and activation are one pass over its fresh output."""
    _backends.ran["conv_act"] = backend
    backend, _, layout = backend.partition("/")
    alpha = None if alpha is None else alpha.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    fmt = memory_format(x.dim(), channels_last)
    if backend == "reference":
        y, z = reference.conv_act_fwd_reference(
            x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, save_z,
            residual, residual_first, factor, keep_signs,
        )  # fmt: skip
        return y.contiguous(memory_format=fmt), z.contiguous(memory_format=fmt) if z.numel() else z
    epilogue = None if save_z or (bias is None and act == "linear") else _epilogue(x)
    if backend == "cpu" and minimal.refusal(x, weight, stride, padding, dilation, groups) is None:
        size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
        bias = None if bias is None else bias.to(x.dtype).contiguous()
        if residual is None:
            return minimal.run(x, weight, bias, alpha, act, alpha_value, False, size, channels_last, save_z)
        z, _ = minimal.run(x, weight, bias, None, "linear", 0.0, False, size, channels_last, False)
    elif backend == "cpu":
        size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
        z = torch.ops.ganfast.conv_transpose_act_data_grad_native(x, weight, stride, padding, dilation, groups, size, channels_last)
        z = z if bias is None else z.add_(bias.to(z.dtype).view(-1, *[1] * len(size)))
    else:
        z = torch_backend.conv_torch(x, weight, None if epilogue else bias, stride, padding, dilation, groups, layout)
    z = z.contiguous(memory_format=fmt)
    if residual is not None:
        bias = bias if epilogue else None
        return _added(z, bias, alpha, act, alpha_value, channels_last, save_z, residual, residual_first, factor, keep_signs)
    if epilogue:
        return bias_act.fwd_(z, bias, alpha, act, alpha_value, 1.0, None, channels_last, epilogue)[0], z.new_empty(0)
    return torch_backend.finish_conv(z, act, alpha, alpha_value, save_z)


def _epilogue(x: torch.Tensor) -> str | None:
    """The backend that adds bias and activates after torch's convolution; None where torch does both."""
    return _backends.first_fused(x) if x.is_cuda and _backends.first_fused(x) != "torch" else None


def _conv_fake(
    x, weight, bias, alpha, stride, padding, dilation, groups, act, alpha_value, channels_last, save_z, backend,
    residual=None, residual_first=False, factor=1.0, keep_signs=False,
):  # fmt: skip
    size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = x.new_empty(x.shape[0], weight.shape[0], *size).contiguous(memory_format=memory_format(x.dim(), channels_last))
    return y, _kept_fake(y, save_z, keep_signs)


fwd = _native.register("conv_transpose_act_fwd" + _FWD.format(_BACKEND + _RESIDUAL), _fwd, _fwd_fake)
data_grad = _native.register("conv_transpose_act_data_grad" + _DATA.format(_BACKEND), _data_grad, _data_grad_fake)
weight_grad = _native.register("conv_transpose_act_weight_grad" + _WEIGHT.format(_BACKEND), _weight_grad, _weight_grad_fake)
conv = _native.register("conv_transpose_act_conv" + _CONV.format(_BACKEND + _RESIDUAL), _conv, _conv_fake)
