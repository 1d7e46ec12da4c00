"""Registration of the passes: one signature for every backend, picked by the last argument. On a GPU a group that a block can hold is
one block's; larger ones, and few of them, go through batch norm's passes, with a merge of the channels' statistics between."""

import torch
from torch import Tensor

from ganfast import _backends, _native
from ganfast._layout import memory_format
from ganfast.ops.batch_norm_act import kernels as batch_norm
from ganfast.ops.batch_norm_act import modulated
from ganfast.ops.batch_norm_act.modulated_reference import spread
from ganfast.ops.group_norm_act import reference, torch_backend
from ganfast.ops.group_norm_act.regime import regime

# Statistics [N * groups]; weight, bias and alpha [C]; scale and shift [N, C], together or not at all.
_VECTORS = "Tensor? weight, Tensor? bias, Tensor? scale, Tensor? shift, Tensor? alpha, int groups"
_STATS = "(Tensor x, int groups, float eps, bool channels_last{}) -> (Tensor, Tensor, Tensor, Tensor)"
_BACKWARD = _VECTORS.replace("int groups", "Tensor? slope, int groups")
# Gives y, the statistics, and with_slope the activation's slope f'(z), where the backend would rather read it than make it again (`cpu`,
# for what an exponential leads to); else an empty tensor.
_FWD = (
    f"(Tensor x, {_VECTORS}, float eps, str act, float alpha_value, bool channels_last, bool with_slope{{}})"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
# Gives gx, gweight, gbias, galpha, gscale, gshift, empty where there is no such tensor.
_BWD = (
    f"(Tensor gy, Tensor x, Tensor mean, Tensor invstd, {_BACKWARD}, str act, float alpha_value, bool channels_last{{}})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_BACKEND = ", str backend"

_native.define("group_norm_act_stats_native" + _STATS.format(""))
_native.define("group_norm_act_fwd_native" + _FWD.format(""))
_native.define("group_norm_act_bwd_native" + _BWD.format(""))


def _stats(x, groups, eps, channels_last, backend):
    """(mean, invstd [N * groups], the same as [N * C]) from those of every image's channels: Chan's rule over equal counts."""
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.group_norm_act_stats_native(x, groups, eps, channels_last)
    if backend == "triton":
        from ganfast.ops.group_norm_act import triton

        return triton.group_norm_act_stats_triton(x, groups, eps, channels_last)
    mean, var = (v.view(x.shape[0], groups, -1) for v in batch_norm.stats(x, True, channels_last, backend))
    center = mean.mean(2, keepdim=True)
    invstd = torch.rsqrt((var + (mean - center).square()).mean(2).flatten() + eps)
    center = center.flatten()
    return center, invstd, spread(center, x), spread(invstd, x)


def _stats_fake(x, groups, eps, channels_last, backend):
    acc, n = torch.promote_types(x.dtype, torch.float32), x.shape[0]
    return tuple(x.new_empty(count, dtype=acc) for count in (n * groups, n * groups, n * x.shape[1], n * x.shape[1]))


def _floats(x: Tensor, *vectors: Tensor | None) -> tuple:
    """Vectors as a GPU's kernels read them; `cpu` does that itself."""
    return tuple(None if v is None else v.to(torch.promote_types(x.dtype, torch.float32)).contiguous() for v in vectors)


def _dense(y: Tensor, channels_last: bool) -> Tensor:
    return y.contiguous(memory_format=memory_format(y.dim(), channels_last))


def _fwd(x, weight, bias, scale, shift, alpha, groups, eps, act, alpha_value, channels_last, with_slope, backend):
    _backends.ran["group_norm_act"] = backend
    vectors = (weight, bias, scale, shift, alpha)
    if backend == "cpu":
        return torch.ops.ganfast.group_norm_act_fwd_native(x, *vectors, groups, eps, act, alpha_value, channels_last, with_slope)
    if backend in ("cuda", "triton"):
        if regime(x, groups, channels_last, backend) == "block":
            args = (x, *_floats(x, *vectors), groups, eps, act, alpha_value, channels_last)
            if backend == "cuda":
                return torch.ops.ganfast.group_norm_act_fwd_native(*args, False)
            from ganfast.ops.group_norm_act import triton

            return *triton.group_norm_act_fwd_triton(*args), x.new_empty(0)
        mean, invstd, *columns = _stats(x, groups, eps, channels_last, backend)
        y = modulated.fwd(x, *columns, weight, bias, scale, shift, None, alpha, act, alpha_value, False, 1.0, channels_last, backend)
        return y, mean, invstd, x.new_empty(0)
    run = torch_backend.group_norm_act_fwd_torch if backend == "torch" else reference.group_norm_act_fwd_reference
    y, mean, invstd = run(x, *vectors, groups, eps, act, alpha_value)
    return _dense(y, channels_last), mean, invstd, x.new_empty(0)


def _fwd_fake(x, weight, bias, scale, shift, alpha, groups, eps, act, alpha_value, channels_last, with_slope, backend):
    slope = _dense(torch.empty_like(x), channels_last) if with_slope and backend == "cpu" and x.itemsize == 2 else x.new_empty(0)
    mean = x.new_empty(x.shape[0] * groups, dtype=torch.promote_types(x.dtype, torch.float32))
    return _dense(torch.empty_like(x), channels_last), mean, torch.empty_like(mean), slope


def _bwd(gy, x, mean, invstd, weight, bias, scale, shift, alpha, slope, groups, act, alpha_value, channels_last, backend):
    vectors = (weight, bias, scale, shift, alpha)
    if backend == "cpu":
        found = torch.ops.ganfast.group_norm_act_bwd_native(gy, x, mean, invstd, *vectors, slope, groups, act, alpha_value, channels_last)
    elif backend in ("cuda", "triton") and regime(x, groups, channels_last, backend, True) == "chunks":
        columns = (spread(mean, x), spread(invstd, x))
        found = modulated.bwd(
            gy, x, *columns, *vectors[:4], None, alpha, act, alpha_value, 1.0, groups, True, channels_last, backend
        )[:6]  # fmt: skip
    elif backend in ("cuda", "triton"):
        operands, options = (gy, x, mean, invstd, *_floats(x, *vectors)), (groups, act, alpha_value, channels_last)
        if backend == "cuda":
            found = torch.ops.ganfast.group_norm_act_bwd_native(*operands, None, *options)
        else:
            from ganfast.ops.group_norm_act import triton

            found = triton.group_norm_act_bwd_triton(*operands, *options)
    else:
        run = torch_backend.group_norm_act_bwd_torch if backend == "torch" else reference.group_norm_act_bwd_reference
        gx, *rest = run(gy, x, mean, invstd, *vectors, groups, act, alpha_value)
        found = _dense(gx, channels_last), *(mean.new_empty(0) if g is None else g for g in rest)
    return found if scale is None else (*found[:4], found[4].view(scale.shape), found[5].view(scale.shape))


def _bwd_fake(gy, x, mean, invstd, weight, bias, scale, shift, alpha, slope, groups, act, alpha_value, channels_last, backend):
    c, of_scale = x.shape[1], (0,) if scale is None else scale.shape
    sizes = (c, c, 0 if alpha is None else c, of_scale, of_scale)
    return _dense(torch.empty_like(x), channels_last), *(mean.new_empty(size) for size in sizes)


stats = _native.register("group_norm_act_stats" + _STATS.format(_BACKEND), _stats, _stats_fake)
fwd = _native.register("group_norm_act_fwd" + _FWD.format(_BACKEND), _fwd, _fwd_fake)
bwd = _native.register("group_norm_act_bwd" + _BWD.format(_BACKEND), _bwd, _bwd_fake)
