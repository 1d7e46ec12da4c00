"""Registration of the passes: one signature for every backend, picked by the last argument. Other ops may use these: the one place
where an op does, as this is the pointwise end of every layer."""

import functools
import math

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast import _backends, _native
from ganfast._activations import SNAKE_BETA
from ganfast._autograd import differentiates
from ganfast._layout import dense, memory_format
from ganfast.ops.bias_act import reference, torch_backend

_NUMBERS = "Tensor? bias, Tensor? alpha, str act, float alpha_value, float gain"
_RESIDUAL = ", Tensor? residual=None, bool residual_first=False, float factor=1.0, bool keep_signs=False"
_FWD = f"(Tensor x, {_NUMBERS}, float? clamp, bool channels_last{{}}{_RESIDUAL}) -> (Tensor, Tensor)"
_FWD_ = f"(Tensor(a!) x, {_NUMBERS}, float? clamp, bool channels_last{{}}{_RESIDUAL}) -> Tensor"
_BWD = f"(Tensor gy, Tensor saved, {_NUMBERS}, float? %s, bool from_y, bool channels_last{{}}) -> (Tensor, Tensor, Tensor)"
_BACKEND = ", str backend"

_native.define("bias_act_fwd_native" + _FWD.format(""))
_native.define("bias_act_fwd_native_" + _FWD_.format(""))
_native.define("bias_act_bwd_native" + (_BWD % "limit").format(""))


def automatic(x: Tensor, act: str) -> str:
    """What `auto` runs: the fused pass; the CUDA kernels have no snake_beta."""
    backend = _backends.first_fused(x)
    return "torch" if backend == "cuda" and act == SNAKE_BETA else backend


def _vectors(backend, x, *vectors):
    """bias and alpha as the kernels read them: contiguous, in the accumulation dtype. `cpu` does that itself."""
    if backend == "cpu":
        return vectors
    acc = torch.promote_types(x.dtype, torch.float32)
    return tuple(None if v is None else v.to(acc).contiguous() for v in vectors)


@functools.lru_cache(maxsize=256)
def limit(clamp: float | None, from_y: bool, dtype: torch.dtype) -> float | None:
    """From which |y| on a backward takes an element as clamped: where y was saved, the bound as y's dtype rounds it, else the first
    number of the kernels' own past it, as torch.clamp lets the bound itself pass."""
    if clamp is None:
        return None
    if from_y:
        return torch.tensor(clamp, dtype=dtype).item()
    bound = torch.tensor(clamp, dtype=torch.promote_types(dtype, torch.float32))
    return torch.nextafter(bound, torch.full_like(bound, math.inf)).item()


def _no_signs(x: Tensor, clamp: float | None) -> Tensor:
    return x.new_empty(0, dtype=torch.bool if clamp is None else torch.uint8)


def _signs(args: tuple) -> Tensor:
    """Of a forward's arguments, by torch's kernels: those of y as it is without what is added after the activation."""
    x, _, _, act, _, _, clamp, _, residual, residual_first, _ = args
    y = torch_backend.bias_act_fwd_torch(*args[:8], residual if residual_first else None, residual_first and residual is not None, 1.0)
    return reference.signs(y, act, limit(clamp, True, x.dtype))


def _fwd(
    x, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend, residual=None, residual_first=False, factor=1.0, keep_signs=False
):
    _backends.ran["bias_act"] = backend
    bias, alpha = _vectors(backend, x, bias, alpha)
    args = (x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.bias_act_fwd_native(*args, keep_signs)
    if backend == "triton":
        from ganfast.ops.bias_act import triton

        return triton.bias_act_fwd_triton(*args, keep_signs)
    run = torch_backend.bias_act_fwd_torch if backend == "torch" else reference.bias_act_fwd_reference
    fmt = memory_format(x.dim(), channels_last)
    signs = _signs(args).contiguous(memory_format=fmt) if keep_signs else _no_signs(x, clamp)
    return run(*args).contiguous(memory_format=fmt), signs


def _fwd_fake(
    x, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend, residual=None, residual_first=False, factor=1.0, keep_signs=False
):
    y = torch.empty_like(x).contiguous(memory_format=memory_format(x.dim(), channels_last))
    signs = _no_signs(x, clamp)
    return y, torch.empty_like(y, dtype=signs.dtype) if keep_signs else signs


def _fwd_(
    x, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend, residual=None, residual_first=False, factor=1.0, keep_signs=False
):
    bias, alpha = _vectors(backend, x, bias, alpha)
    args = (x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor)
    if backend in ("torch", "reference"):
        signs = _signs(args) if keep_signs else _no_signs(x, clamp)
        if backend == "torch":
            torch_backend.bias_act_fwd_torch_(*args)
        else:
            x.copy_(reference.bias_act_fwd_reference(*args))
        return signs
    if backend == "triton":
        from ganfast.ops.bias_act import triton

        signs = triton.bias_act_fwd_triton_(*args, keep_signs)
    else:
        signs = torch.ops.ganfast.bias_act_fwd_native_(*args, keep_signs)
    if not x.is_inference():
        torch.autograd.graph.increment_version(x)  # whoever saved the old values has to hear of it
    return signs


def _fwd_fake_(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend, *residual):
    keep_signs = len(residual) == 4 and residual[3]
    signs = _no_signs(x, clamp)
    return torch.empty_like(x, dtype=signs.dtype) if keep_signs else signs


def _bwd(gy, saved, bias, alpha, act, alpha_value, gain, clamp, from_y, channels_last, backend):
    bias, alpha = _vectors(backend, gy, bias, alpha)
    bound = limit(clamp, from_y, gy.dtype)
    if not saved.is_floating_point():  # signs, in place of y
        bound = None if clamp is None else float(reference.CLAMPED)
        if backend in ("torch", "reference") or (backend == "triton" and clamp is not None):  # whose bytes with a clamp would take a stack
            saved = saved.to(gy.dtype)
    args = (gy, saved, bias, alpha, act, alpha_value, gain, bound, from_y, channels_last)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.bias_act_bwd_native(*args)
    if backend == "triton":
        from ganfast.ops.bias_act import triton

        return triton.bias_act_bwd_triton(*args)
    run = torch_backend.bias_act_bwd_torch if backend == "torch" else reference.bias_act_bwd_reference
    gx, gbias, galpha = run(*args)
    return gx.contiguous(memory_format=memory_format(gx.dim(), channels_last)), gbias, galpha


def _bwd_fake(gy, saved, bias, alpha, act, alpha_value, gain, clamp, from_y, channels_last, backend):
    acc = torch.promote_types(gy.dtype, torch.float32)
    channels = gy.shape[1]
    gx = torch.empty_like(gy).contiguous(memory_format=memory_format(gy.dim(), channels_last))
    return gx, gy.new_empty(channels, dtype=acc), gy.new_empty(0 if alpha is None else alpha.shape, dtype=acc)


fwd = _native.register("bias_act_fwd" + _FWD.format(_BACKEND), _fwd, _fwd_fake)
_overwrite = _native.register("bias_act_fwd_" + _FWD_.format(_BACKEND), _fwd_, _fwd_fake_)
bwd = _native.register("bias_act_bwd" + (_BWD % "clamp").format(_BACKEND), _bwd, _bwd_fake)


def fwd_(x: Tensor, *args) -> tuple[Tensor, Tensor]:
    """`fwd` that overwrites x and gives it back: for fresh results of another op that no backward saved."""
    return x, _overwrite(x, *args)


class _Slopes(Function):
    @staticmethod
    def forward(ctx, gy, saved, bias, constants):
        ctx.save_for_backward(saved, bias)
        ctx.constants, ctx.dtype = constants, gy.dtype
        ctx.set_materialize_grads(False)
        return bwd(gy, saved, bias, None, *constants)[:2]

    @staticmethod
    def backward(ctx, u, usum):
        saved, bias = ctx.saved_tensors
        if usum is not None:
            column = usum.view(1, -1, *[1] * (saved.dim() - 2))
            u = (column.expand_as(saved) if u is None else u + column).to(ctx.dtype)
        return (None if u is None else slopes(u, saved, bias, *ctx.constants)[0]), None, None, None


def slopes(gy: Tensor, saved: Tensor, bias: Tensor | None, *constants) -> tuple[Tensor, Tensor]:
    """(gx, gbias) as `bwd` gives them, from `act` on its arguments but alpha, differentiable to any order by the same pass: for activations
    whose slope is piecewise constant, linear in gy."""
    gy, saved, bias = dense(gy, constants[-2]), saved.detach(), None if bias is None else bias.detach()
    if differentiates() and gy.requires_grad:
        return _Slopes.apply(gy, saved, bias, constants)
    return bwd(gy, saved, bias, None, *constants)[:2]
