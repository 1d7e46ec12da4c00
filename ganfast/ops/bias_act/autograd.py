"""Gradients: the fused pass when nothing will differentiate it, the same formulas in torch when grad mode is on."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._activations import PIECEWISE_LINEAR, saves_y, signs_of
from ganfast._autograd import before, differentiates, handle, handle_of, no_autocast, reaching
from ganfast._layout import dense
from ganfast.ops.bias_act import kernels, reference


class Spec(NamedTuple):
    """The constants of one call."""

    act: str
    alpha_value: float
    gain: float
    clamp: float | None
    saves: str  # "nothing", "y", "signs" or "x"
    channels_last: bool
    backend: str


def what_is_saved(act: str, alpha: Tensor | None, alpha_value: float, gain: float, clamp: float | None, open_output: bool) -> str:
    """The least that gives the derivative. A gain that is zero or negative hides z's sign, one far from 1 its digits: float16 has
    none below 6e-8. `open_output`: others may change y before the backward."""
    if act == "linear" and clamp is None:
        return "nothing"
    if not saves_y(act, alpha, alpha_value) or not 1 / 16 <= gain <= 16:
        return "x"
    if not open_output:
        return "y"
    return "signs" if act in ("linear", *PIECEWISE_LINEAR) else "x"


_CLAMPED = 2


def signs(y: Tensor, spec: Spec) -> Tensor:
    """A byte an element that the backward reads as it would y: 1 where the activation's slope is 1, else 0; _CLAMPED where y is."""
    found = signs_of(y, spec.act)
    if spec.clamp is None:
        return found
    limit = torch.full((), spec.clamp, dtype=y.dtype, device=y.device)
    return found.to(torch.uint8).masked_fill_((y >= limit).logical_or_(y <= -limit), _CLAMPED)


def forward_op(x: Tensor, bias: Tensor | None, alpha: Tensor | None, spec: Spec) -> Tensor:
    return kernels.fwd(x, bias, alpha, spec.act, spec.alpha_value, spec.gain, spec.clamp, spec.channels_last, spec.backend)


class BiasAct(Function):
    """x arrives dense: a copy made in here would be saved without a graph, and the second order would lose its paths through x. The bias
    arrives as `kept` gives it where its numbers are needed."""

    reaches_back = True  # see _autograd.reached

    @staticmethod
    def forward(ctx, x, bias, alpha, spec):
        y = forward_op(x, bias, alpha, spec)
        ctx.spec = spec
        ctx.bias_dtype = None if bias is None else bias.dtype
        if spec.saves == "signs":
            node = y.new_empty(0)  # by this output a double backward finds this node, as it else does by y
            ctx.save_for_backward(signs(y, spec), handle(bias), None, node)
            ctx.set_materialize_grads(False)
            return y, node
        if spec.saves == "x":
            ctx.save_for_backward(x, bias, alpha, None)
        else:
            ctx.save_for_backward(y if spec.saves == "y" else None, handle(bias), None, None)
        return y

    @staticmethod
    def backward(ctx, gy, of_node=None):
        saved, bias, alpha, node = ctx.saved_tensors
        spec = ctx.spec
        if gy is None:
            if of_node is None:
                return None, None, None, None
            gy = torch.zeros_like(saved, dtype=of_node.dtype)
        if spec.saves == "signs" and spec.clamp is not None:
            spec = spec._replace(clamp=float(_CLAMPED))
        from_y = spec.saves in ("y", "signs")
        needs_x, needs_bias, needs_alpha, _ = ctx.needs_input_grad
        with no_autocast(gy):
            if saved is None and (spec.gain == 1 or differentiates()):
                gx = gy if spec.gain == 1 else gy * spec.gain
                acc = torch.promote_types(gy.dtype, torch.float32)
                gbias = gx.sum(reference.reduced_dims(gx), dtype=acc) if needs_bias else None
                galpha = None
            elif differentiates():
                if spec.act in PIECEWISE_LINEAR:
                    x, enough = before(ctx, saved if spec.saves == "x" else None)
                    gy = reaching(gy, x, handle_of(ctx, 1, bias), alpha) if enough else reaching(gy, saved if node is None else node)
                gx, gbias, galpha = _differentiable(gy, saved, None if from_y else bias, alpha, spec, from_y)
            else:
                gy = dense(gy, spec.channels_last)
                gx, gbias, galpha = kernels.bwd(
                    gy, gy if saved is None else saved, None if from_y else bias, alpha, spec.act, spec.alpha_value, spec.gain,
                    spec.clamp, from_y, spec.channels_last, spec.backend,
                )  # fmt: skip
        return (
            gx if needs_x else None,
            gbias.to(ctx.bias_dtype) if needs_bias else None,
            galpha.to(alpha.dtype) if needs_alpha else None,
            None,
        )


def _differentiable(gy, saved, bias, alpha, spec: Spec, from_y: bool):
    acc = torch.promote_types(gy.dtype, torch.float32)
    limit = kernels.limit(spec.clamp, from_y, gy.dtype)
    gx, gbias, galpha = reference.gradients(gy.to(acc), saved.to(acc), bias, alpha, spec.act, spec.alpha_value, spec.gain, limit, from_y)
    return gx.to(gy.dtype), gbias, galpha
