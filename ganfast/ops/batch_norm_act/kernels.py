"""Registration of the passes: one signature for every backend, picked by the last argument."""

import torch

from ganfast import _native
from ganfast._layout import memory_format
from ganfast.ops.batch_norm_act import reference, torch_backend

_STATS = "(Tensor x, bool channels_last{}) -> (Tensor, Tensor)"
_FWD = (
    "(Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, Tensor? alpha, str act, float alpha_value,"
    " bool channels_last{}) -> Tensor"
)
_BWD = (
    "(Tensor gy, Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, Tensor? alpha, str act, float alpha_value,"
    " bool training, bool channels_last{}) -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKEND = ", str backend"

# The whole forward in one call, for a CPU's small tensors: gives (y, mean, invstd). No op of its own: what traces sees the passes.
_native.define(
    "batch_norm_act_all_native(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor? weight, Tensor? bias, Tensor? alpha,"
    " Tensor? partials, bool training, float momentum, float eps, str act, float alpha_value, bool channels_last)"
    " -> (Tensor, Tensor, Tensor)"
)
_native.define("batch_norm_act_stats_native" + _STATS.format(""))
_native.define("batch_norm_act_fwd_native" + _FWD.format(""))
_native.define("batch_norm_act_bwd_native" + _BWD.format(""))


def _stats(x, channels_last, backend):
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.batch_norm_act_stats_native(x, channels_last)
    if backend == "triton":
        from ganfast.ops.batch_norm_act import triton

        return triton.batch_norm_act_stats_triton(x, channels_last)
    return reference.batch_norm_act_stats_reference(x, channels_last)


def _stats_fake(x, channels_last, backend):
    acc = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape[1], dtype=acc), x.new_empty(x.shape[1], dtype=acc)


def _vectors(backend, mean, *vectors):
    """weight, bias and alpha as the kernels read them: contiguous, in the accumulation dtype. `cpu` does that itself."""
    return vectors if backend == "cpu" else tuple(None if v is None else v.to(mean.dtype).contiguous() for v in vectors)


def _fwd(x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last, backend):
    weight, bias, alpha = _vectors(backend, mean, weight, bias, alpha)
    args = (x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.batch_norm_act_fwd_native(*args)
    if backend == "triton":
        from ganfast.ops.batch_norm_act import triton

        return triton.batch_norm_act_fwd_triton(*args)
    run = torch_backend.batch_norm_act_fwd_torch if backend == "torch" else reference.batch_norm_act_fwd_reference
    return run(*args).contiguous(memory_format=memory_format(x.dim(), channels_last))


def _fwd_fake(x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last, backend):
    return torch.empty_like(x).contiguous(memory_format=memory_format(x.dim(), channels_last))


def _bwd(gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last, backend):
    weight, bias, alpha = _vectors(backend, mean, weight, bias, alpha)
    args = (gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.batch_norm_act_bwd_native(*args)
    if backend == "triton":
        from ganfast.ops.batch_norm_act import triton

        return triton.batch_norm_act_bwd_triton(*args)
    run = torch_backend.batch_norm_act_bwd_torch if backend == "torch" else reference.batch_norm_act_bwd_reference
    gx, gweight, gbias, galpha = run(*args)
    return gx.contiguous(memory_format=memory_format(x.dim(), channels_last)), gweight, gbias, galpha


def _bwd_fake(gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last, backend):
    gx = torch.empty_like(x).contiguous(memory_format=memory_format(x.dim(), channels_last))
    empty = torch.empty_like
    return gx, empty(mean), empty(mean), empty(mean) if alpha is not None else mean.new_empty(0)


stats = _native.register("batch_norm_act_stats" + _STATS.format(_BACKEND), _stats, _stats_fake)
fwd = _native.register("batch_norm_act_fwd" + _FWD.format(_BACKEND), _fwd, _fwd_fake)
bwd = _native.register("batch_norm_act_bwd" + _BWD.format(_BACKEND), _bwd, _bwd_fake)
