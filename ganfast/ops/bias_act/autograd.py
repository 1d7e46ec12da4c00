"""Gradients: the fused pass when nothing will differentiate it, the same formulas in torch when grad mode is on."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._activations import PIECEWISE_LINEAR, saves_y
from ganfast._autograd import before, differentiates, handle, handle_of, no_autocast, reaching
from ganfast._layout import dense
from ganfast.ops.bias_act import kernels, reference


class Spec(NamedTuple):
    """The constants of one call."""

    act: str
    alpha_value: float
    gain: float
    clamp: float | None
    saves: str  # "nothing", "y" or "x"
    channels_last: bool
    backend: str


def what_is_saved(act: str, alpha: Tensor | None, alpha_value: float, gain: float, clamp: float | None) -> str:
    """The least that gives the derivative. A gain that is zero or negative hides z's sign, one far from 1 its digits: float16 has
    none below 6e-8."""
    if act == "linear" and clamp is None:
        return "nothing"
    return "y" if saves_y(act, alpha, alpha_value) and 1 / 16 <= gain <= 16 else "x"


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
        if spec.saves == "x":
            ctx.save_for_backward(x, bias, alpha)
        else:
            ctx.save_for_backward(y if spec.saves == "y" else None, handle(bias), None)
        return y

    @staticmethod
    def backward(ctx, gy):
        saved, bias, alpha = ctx.saved_tensors
        spec = ctx.spec
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
                    gy = reaching(gy, x, handle_of(ctx, 1, bias), alpha) if enough else reaching(gy, saved)
                gx, gbias, galpha = _differentiable(gy, saved, None if spec.saves == "y" else bias, alpha, spec)
            else:
                gy = dense(gy, spec.channels_last)
                gx, gbias, galpha = kernels.bwd(
                    gy, gy if saved is None else saved, None if spec.saves == "y" else bias, alpha, spec.act, spec.alpha_value, spec.gain,
                    spec.clamp, spec.saves == "y", spec.channels_last, spec.backend,
                )  # fmt: skip
        return (
            gx if needs_x else None,
            gbias.to(ctx.bias_dtype) if needs_bias else None,
            galpha.to(alpha.dtype) if needs_alpha else None,
            None,
        )


def _differentiable(gy, saved, bias, alpha, spec: Spec):
    acc = torch.promote_types(gy.dtype, torch.float32)
    limit = kernels.limit(spec.clamp, spec.saves == "y", gy.dtype)
    gx, gbias, galpha = reference.gradients(
        gy.to(acc), saved.to(acc), bias, alpha, spec.act, spec.alpha_value, spec.gain, limit, spec.saves == "y"
    )
    return gx.to(gy.dtype), gbias, galpha
