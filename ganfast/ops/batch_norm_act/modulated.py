"""Registration of the passes of a norm with an affine from outside and a residual: one signature for every backend, picked by the last
argument. For all norms: their statistics tell them apart."""

import torch
from torch import Tensor

from ganfast import _backends, _native
from ganfast._layout import memory_format
from ganfast.ops.batch_norm_act import modulated_reference as reference
from ganfast.ops.batch_norm_act.modulated_reference import is_full

# Statistics [C], or [N * C]; weight, bias and alpha [C]; scale and shift [N, C] or x's shape, dtype and layout; residual of x's.
_OPERANDS = (
    "Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, Tensor? scale, Tensor? shift, Tensor? residual, Tensor? alpha,"
    " str act, float alpha_value"
)
_FWD = f"({_OPERANDS}, bool residual_first, float factor, bool channels_last{{}}) -> Tensor"
# residual: where it comes before the activation. groups: of an image's channels that are normalised together, 0 where a channel of all
# images is. Gives gx, gweight, gbias, galpha, gscale, gshift, gresidual, empty where there is no such tensor, and gresidual where shift has
# x's shape, as gshift is the same.
_BWD = (
    f"(Tensor gy, {_OPERANDS}, float factor, int groups, bool training, bool channels_last{{}})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_BACKEND = ", str backend"

_native.define("batch_norm_act_modulated_fwd_native" + _FWD.format(""))
_native.define("batch_norm_act_modulated_bwd_native" + _BWD.format(""))


def _dense(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=memory_format(x.dim(), channels_last))


def _columns(backend: str, x: Tensor, mean: Tensor, *vectors: Tensor | None) -> tuple:
    """Vectors as a GPU's kernels read them: contiguous, in the accumulation dtype; what has x's shape as it is. `cpu` does that itself."""
    if backend not in ("cuda", "triton"):
        return vectors
    return tuple(v if v is None or v.dim() == x.dim() else v.to(mean.dtype).contiguous() for v in vectors)


def _fwd(
    x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor, channels_last, backend
):  # fmt: skip
    _backends.ran["batch_norm_act_modulated"] = backend
    weight, bias, scale, shift, alpha = _columns(backend, x, mean, weight, bias, scale, shift, alpha)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.batch_norm_act_modulated_fwd_native(
            x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor, channels_last
        )
    if backend == "triton":
        from ganfast.ops.batch_norm_act import triton_modulated

        return triton_modulated.batch_norm_act_modulated_fwd_triton(
            x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor, channels_last
        )
    xhat = reference.by_statistics(x.to(mean.dtype), mean, invstd)[0]
    y = reference.modulated_norm_act(xhat, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor)
    return _dense(y.to(x.dtype), channels_last)


def _fwd_fake(
    x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor, channels_last, backend
):  # fmt: skip
    return _dense(torch.empty_like(x), channels_last)


def _bwd(
    gy, x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, factor, groups, training, channels_last, backend
):  # fmt: skip
    weight, bias, scale, shift, alpha = _columns(backend, x, mean, weight, bias, scale, shift, alpha)
    args = (gy, x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, factor, groups, training, channels_last)
    if backend in ("cpu", "cuda"):
        found = torch.ops.ganfast.batch_norm_act_modulated_bwd_native(*args)
    elif backend == "triton":
        from ganfast.ops.batch_norm_act import triton_modulated

        found = triton_modulated.batch_norm_act_modulated_bwd_triton(*args)
    else:
        acc = mean.dtype
        found = reference.gradients(gy.to(acc), x.to(acc), *args[2:-1], None)
        gx, *rest, gresidual = found
        full = is_full(x, scale)
        gresidual = None if full else gresidual
        rest[3:] = [_dense(g.to(x.dtype), channels_last) if full else g for g in rest[3:]] if scale is not None else [None, None]
        found = [_dense(gx.to(x.dtype), channels_last), *rest, None if gresidual is None else _dense(gresidual.to(x.dtype), channels_last)]
        found = [mean.new_empty(0) if g is None else g for g in found]
    if scale is not None and not is_full(x, scale):
        found = [g.view(scale.shape) if i in (4, 5) else g for i, g in enumerate(found)]
    return tuple(found)


def _bwd_fake(
    gy, x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, factor, groups, training, channels_last, backend
):  # fmt: skip
    c, full = x.shape[1], is_full(x, scale)
    like = lambda: _dense(torch.empty_like(x), channels_last)
    vectors = [mean.new_empty(size) for size in (c, c, 0 if alpha is None else c)]
    of_scale = [like() if full else mean.new_empty(0 if scale is None else scale.shape) for _ in range(2)]
    return like(), *vectors, *of_scale, mean.new_empty(0) if residual is None or full else like()


fwd = _native.register("batch_norm_act_modulated_fwd" + _FWD.format(_BACKEND), _fwd, _fwd_fake)
bwd = _native.register("batch_norm_act_modulated_bwd" + _BWD.format(_BACKEND), _bwd, _bwd_fake)
