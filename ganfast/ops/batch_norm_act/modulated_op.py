"""What the norms share for an affine from outside and a residual: checks, the tensors as the passes want them, autograd."""

import torch
from torch import Tensor

from ganfast import _checks
from ganfast._autograd import kept
from ganfast._layout import dense
from ganfast.ops.batch_norm_act.modulated_autograd import ModulatedNormAct, Spec, forward_op


def check(op: str, x: Tensor, scale, shift, residual, residual_first, factor) -> bool:
    """Whether one of them is there. Raises TypeError, ValueError."""
    if (scale is None) != (shift is None):
        missing, there = ("scale", "shift") if scale is None else ("shift", "scale")
        like = "ones" if scale is None else "zeros"
        _checks.fail(op, f"{there} was given without {missing}; they come together", f"For none pass torch.{like}_like({there})")
    for name, t in (("scale", scale), ("shift", shift)):
        if t is not None:
            _check_affine(op, name, t, x)
    if scale is not None and scale.shape != shift.shape:
        _checks.fail(op, f"shift has shape {tuple(shift.shape)}, scale {tuple(scale.shape)}; both must be the same")
    instead = "scale and shift multiply and add to what is normalised"
    _checks.check_residual(op, residual, x.shape, x, residual_first, factor, instead, _checks.CAST_ONE)
    return scale is not None or residual is not None


def _check_affine(op: str, name: str, t: object, x: Tensor) -> None:
    _checks.check_tensor(op, name, t)
    if t.shape not in (x.shape, x.shape[:2]):
        cause = "What belongs to a channel alone is weight and bias" if t.dim() == 1 else ""
        wants = f"{tuple(x.shape[:2])}" + (f" or x's {tuple(x.shape)}" if x.dim() > 2 else "")
        _checks.fail(op, f"{name} has shape {tuple(t.shape)}, wants {wants}", cause)
    _checks.check_floating(op, name, t)
    if t.shape == x.shape and x.dim() > 2:
        _checks.check_like(op, name, t, x, cause=_checks.CAST_ONE)
    else:
        _checks.check_device(op, name, t, x)


def run(spec: Spec, x, weight, bias, scale, shift, residual, alpha, mean, invstd) -> Tensor:
    """x [N, C, *spatial], its statistics [C] or [N * C]; scale, shift [N, C] or of the caller's x's shape."""
    if scale is not None and scale.dim() > 2:
        scale, shift = (dense(t.to(x.dtype), spec.channels_last) for t in (scale, shift))
    residual = None if residual is None else dense(residual.reshape(x.shape), spec.channels_last)
    x = dense(x, spec.channels_last)
    tensors = (x, weight, bias, scale, shift, residual, alpha)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        shift = kept(shift) if shift is not None and shift.dim() == 2 else shift
        return ModulatedNormAct.apply(x, weight, kept(bias), scale, shift, residual, alpha, mean, invstd, spec)
    return forward_op(*tensors, mean, invstd, spec)
