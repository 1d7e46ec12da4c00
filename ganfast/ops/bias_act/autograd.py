"""Gradients: the fused pass when nothing will differentiate it, and where the slope is piecewise constant; else, when grad mode is on, the
same formulas in torch."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._activations import PIECEWISE_LINEAR, saves_y
from ganfast._autograd import before, differentiates, handle, handle_of, no_autocast, reaching, savable, wanted_gradients
from ganfast._layout import dense
from ganfast.ops.bias_act import kernels, reference


class Spec(NamedTuple):
    """The constants of one call. Where the residual is added first, gain and clamp hold the factor."""

    act: str
    alpha_value: float
    gain: float
    clamp: float | None
    saves: str  # "nothing", "y", "signs" or "x"
    channels_last: bool
    backend: str
    residual: str = ""  # where it is added: "first" or "last"
    factor: float = 1.0

    @property
    def slope(self) -> tuple[float, float | None]:
        """(gain, clamp) of a y without the residual: what the backward is told of the forward."""
        return self.gain * self.factor, None if self.clamp is None else self.clamp * abs(self.factor)


def what_is_saved(
    act: str, alpha: Tensor | None, alpha_value: float, gain: float, clamp: float | None, open_output: bool, residual: str = "",
    factor: float = 1.0,
) -> str:  # fmt: skip
    """The least that gives the derivative. A gain that is zero or negative hides z's sign, one far from 1 its digits: float16 has
    none below 6e-8. `open_output`: others may change y before the backward. A sum with a residual hides all of z."""
    if act == "linear" and clamp is None:
        return "nothing"
    if not saves_y(act, alpha, alpha_value) or not (1 / 16 <= gain <= 16 and 1 / 16 <= gain * factor <= 16):
        return "x"
    if not open_output and residual != "last":
        return "y"
    return "signs" if act in ("linear", *PIECEWISE_LINEAR) else "x"


def forward_op(x: Tensor, bias: Tensor | None, alpha: Tensor | None, residual: Tensor | None, spec: Spec) -> tuple[Tensor, Tensor]:
    """(y, signs where they are kept)"""
    return kernels.fwd(
        x, bias, alpha, spec.act, spec.alpha_value, spec.gain, spec.clamp, spec.channels_last, spec.backend,
        residual, spec.residual == "first", spec.factor, spec.saves == "signs",
    )  # fmt: skip


class BiasAct(Function):
    """x arrives dense: a copy made in here would be saved without a graph, and the second order would lose its paths through x. The bias
    arrives as `kept` gives it where its numbers are needed."""

    reaches_back = True  # see _autograd._unreached
    residual = 3  # its place among the inputs

    @staticmethod
    def forward(ctx, x, bias, alpha, residual, spec):
        if spec.residual == "last" and not any(ctx.needs_input_grad[:3]):
            spec = spec._replace(saves="nothing")
        y, signs = forward_op(x, bias, alpha, residual, spec)
        ctx.spec = spec
        ctx.bias_dtype = None if bias is None else bias.dtype
        if spec.saves == "signs":
            node = y.new_empty(0)  # by this output a double backward finds this node, as it else does by y
            ctx.save_for_backward(signs, handle(bias), None, node, None)
            ctx.set_materialize_grads(False)
            return y, node
        if spec.saves == "x":
            ctx.save_for_backward(savable(x), bias, alpha, None, savable(residual) if spec.residual == "first" else None)
        else:
            ctx.save_for_backward(y if spec.saves == "y" else None, handle(bias), None, None, None)
        return y

    @staticmethod
    def backward(ctx, gy, of_node=None):
        saved, bias, alpha, node, residual = ctx.saved_tensors
        spec = ctx.spec
        if gy is None and of_node is None:
            return None, None, None, None, None
        needs_x, needs_bias, needs_alpha, needs_residual, _ = wanted_gradients(ctx) if spec.residual else ctx.needs_input_grad
        gresidual = None
        if spec.residual == "last":
            if needs_residual and gy is not None:
                gresidual = gy if spec.factor == 1 else gy * spec.factor
            if not (needs_x or needs_bias or needs_alpha):
                return None, None, None, gresidual, None
        if gy is None:
            gy = torch.zeros_like(saved, dtype=of_node.dtype)
        gain, clamp = spec.slope
        from_y = spec.saves in ("y", "signs")
        with no_autocast(gy):
            if saved is None and (gain == 1 or differentiates()):
                gx = gy if gain == 1 else gy * gain
                acc = torch.promote_types(gy.dtype, torch.float32)
                gbias = gx.sum(reference.reduced_dims(gx), dtype=acc) if needs_bias else None
                galpha = None
            elif differentiates():
                if spec.act in PIECEWISE_LINEAR:
                    found, enough = before(ctx, saved if spec.saves == "x" else None)
                    others, also = before(ctx, residual, BiasAct.residual) if spec.residual == "first" else ([], True)
                    found += [*others, handle_of(ctx, 1, bias), alpha]
                    gy = reaching(gy, *found) if enough and also else reaching(gy, saved if node is None else node)
                z = saved if residual is None else saved + residual
                z_bias, galpha = None if from_y else bias, None
                if alpha is None and spec.act in ("linear", *PIECEWISE_LINEAR):
                    constants = (spec.act, spec.alpha_value, gain, clamp, from_y, spec.channels_last, spec.backend)
                    gx, gbias = kernels.slopes(gy, z, z_bias, *constants)
                else:
                    gx, gbias, galpha = _differentiable(gy, z, z_bias, alpha, spec, from_y)
            else:
                gy = dense(gy, spec.channels_last)
                z = gy if saved is None else saved if residual is None else saved + residual
                gx, gbias, galpha = kernels.bwd(
                    gy, z, None if from_y else bias, alpha, spec.act, spec.alpha_value, gain, clamp, from_y, spec.channels_last,
                    spec.backend,
                )  # fmt: skip
        return (
            gx if needs_x else None,
            gbias.to(ctx.bias_dtype) if needs_bias else None,
            galpha.to(alpha.dtype) if needs_alpha else None,
            gresidual if spec.residual != "first" else gx if needs_residual else None,
            None,
        )


def _differentiable(gy, saved, bias, alpha, spec: Spec, from_y: bool):
    acc = torch.promote_types(gy.dtype, torch.float32)
    gain, clamp = spec.slope
    limit = float(reference.CLAMPED) if clamp is not None and spec.saves == "signs" else kernels.limit(clamp, from_y, gy.dtype)
    gx, gbias, galpha = reference.gradients(gy.to(acc), saved.to(acc), bias, alpha, spec.act, spec.alpha_value, gain, limit, from_y)
    return gx.to(gy.dtype), gbias, galpha
