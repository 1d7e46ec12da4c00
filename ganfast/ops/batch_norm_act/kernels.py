"""Registration of the passes: one signature for every backend, picked by the last argument."""

import torch

from ganfast import _backends, _native
from ganfast._layout import memory_format
from ganfast.ops.batch_norm_act import reference, torch_backend

# Statistics per channel [C], or [N * C] with per_image; mean's length tells the other passes, whose weight, bias and alpha are [C].
_STATS = "(Tensor x, bool per_image, bool channels_last{}) -> (Tensor, Tensor)"
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
    " Tensor? partials, bool training, float momentum, float eps, str act, float alpha_value, bool per_image,"
    " bool channels_last) -> (Tensor, Tensor, Tensor)"
)
_native.define("batch_norm_act_stats_native" + _STATS.format(""))
_native.define("batch_norm_act_fwd_native" + _FWD.format(""))
_native.define("batch_norm_act_bwd_native" + _BWD.format(""))


def _stats(x, per_image, channels_last, backend):
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.batch_norm_act_stats_native(x, per_image, channels_last)
    if backend == "triton":
        from ganfast.ops.batch_norm_act import triton

        return triton.batch_norm_act_stats_triton(x, per_image, channels_last)
    return reference.batch_norm_act_stats_reference(x, per_image, channels_last)


def _stats_fake(x, per_image, channels_last, backend):
    acc, count = torch.promote_types(x.dtype, torch.float32), x.shape[0] * x.shape[1] if per_image else x.shape[1]
    return x.new_empty(count, dtype=acc), x.new_empty(count, dtype=acc)


def _vectors(backend, x, mean, *vectors):
    """weight, bias and alpha as the backend reads them: contiguous, in the accumulation dtype, as long as mean. `cpu` does that
    itself, `reference` wants no repetition."""
    if backend == "cpu":
        return vectors
    images = 1 if backend == "reference" else mean.shape[0] // x.shape[1]
    dense = (None if v is None else v.to(mean.dtype).contiguous() for v in vectors)
    return tuple(v if v is None or images == 1 else v.repeat(images) for v in dense)


def _over_images(sums, c):
    """[N * C] -> [C]."""
    return sums if sums.shape[0] <= c else sums.view(-1, c).sum(0)


def _fwd(x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last, backend):
    _backends.ran["batch_norm_act"] = backend
    weight, bias, alpha = _vectors(backend, x, mean, weight, bias, alpha)
    args = (x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.batch_norm_act_fwd_native(*args)
    if backend == "triton":
        from ganfast.ops.batch_norm_act import triton

        return triton.batch_norm_act_fwd_triton(*args)
    run = torch_backend.batch_norm_act_fwd_torch if backend == "torch" else reference.batch_norm_act_fwd_reference
    return run(*args).view(x.shape).contiguous(memory_format=memory_format(x.dim(), channels_last))


def _fwd_fake(x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last, backend):
    return torch.empty_like(x).contiguous(memory_format=memory_format(x.dim(), channels_last))


def _bwd(gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last, backend):
    weight, bias, alpha = _vectors(backend, x, mean, weight, bias, alpha)
    args = (gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last)
    if backend == "cpu":  # which sums over the images itself
        return torch.ops.ganfast.batch_norm_act_bwd_native(*args)
    if backend == "cuda":
        gx, *sums = torch.ops.ganfast.batch_norm_act_bwd_native(*args)
    elif backend == "triton":
        from ganfast.ops.batch_norm_act import triton

        gx, *sums = triton.batch_norm_act_bwd_triton(*args)
    else:
        run = torch_backend.batch_norm_act_bwd_torch if backend == "torch" else reference.batch_norm_act_bwd_reference
        gx, *sums = run(*args)
        gx = gx.view(x.shape).contiguous(memory_format=memory_format(x.dim(), channels_last))
    return gx, *(_over_images(v, x.shape[1]) for v in sums)


def _bwd_fake(gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last, backend):
    gx = torch.empty_like(x).contiguous(memory_format=memory_format(x.dim(), channels_last))
    gweight, gbias = mean.new_empty(x.shape[1]), mean.new_empty(x.shape[1])
    return gx, gweight, gbias, mean.new_empty(0 if alpha is None else x.shape[1])


stats = _native.register("batch_norm_act_stats" + _STATS.format(_BACKEND), _stats, _stats_fake)
fwd = _native.register("batch_norm_act_fwd" + _FWD.format(_BACKEND), _fwd, _fwd_fake)
bwd = _native.register("batch_norm_act_bwd" + _BWD.format(_BACKEND), _bwd, _bwd_fake)
