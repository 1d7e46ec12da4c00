"""Gradients: a fused pass from the input or, of a piecewise linear activation, from its signs; the second order of the latter by the same
passes, of the former by its pieces."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._autograd import before, differentiates, handle_of, no_autocast, reaching, savable
from ganfast._layout import dense
from ganfast.ops.filtered_act import kernels, reference
from ganfast.ops.filtered_act.maps import Maps, Shape
from ganfast.ops.upfirdn.autograd import Spec as Resampling
from ganfast.ops.upfirdn.autograd import Upfirdn


class Spec(NamedTuple):
    """The constants of one call."""

    shape: Shape
    act: str
    alpha_value: float
    gain: float
    clamp: float | None
    signs: bool  # what is saved: two bits a value of the upsampled x, else x
    channels_last: bool
    backend: str


def forward_op(x: Tensor, bias, alpha, up_filter, down_filter, spec: Spec, keep_signs: bool = False) -> tuple[Tensor, Tensor]:
    numbers = (bias, alpha, spec.act, spec.alpha_value, spec.gain, spec.clamp)
    return kernels.fwd(x, up_filter, down_filter, *spec.shape, *numbers, keep_signs, spec.channels_last, spec.backend)


class FilteredAct(Function):
    """x arrives dense: a copy made in here would be saved without a graph."""

    reaches_back = True  # see _autograd._unreached

    @staticmethod
    def forward(ctx, x, bias, alpha, up_filter, down_filter, spec):
        y, signs = forward_op(x, bias, alpha, up_filter, down_filter, spec, spec.signs)
        ctx.spec, ctx.size, ctx.bias_dtype = spec, tuple(x.shape[2:]), None if bias is None else bias.dtype
        if spec.signs:
            node = y.new_empty(0)  # by this output a double backward finds this node
            ctx.save_for_backward(signs, None, node, up_filter, down_filter)
            return y, node
        ctx.save_for_backward(savable(x), bias, alpha, up_filter, down_filter)
        return y

    @staticmethod
    def backward(ctx, gy, of_node=None):
        saved, bias, alpha, up_filter, down_filter = ctx.saved_tensors
        spec, galpha = ctx.spec, None
        with no_autocast(gy):
            gy = dense(gy, spec.channels_last)
            if spec.signs:
                if differentiates():
                    found, enough = before(ctx)
                    gy = reaching(gy, *found, handle_of(ctx, 1, None)) if enough else reaching(gy, alpha)
                gx = linear(gy, saved, up_filter, down_filter, spec, True, ctx.size)
                acc = torch.promote_types(gy.dtype, torch.float32)
                gbias = gx.sum([0, *range(2, gx.dim())], dtype=acc) if ctx.needs_input_grad[1] else None
            elif differentiates():
                acc = torch.promote_types(gy.dtype, torch.float32)
                numbers = (spec.act, spec.alpha_value, spec.gain, spec.clamp)
                maps = _differentiable(spec, up_filter, down_filter)
                gx, gbias, galpha = reference.gradients(gy.to(acc), saved.to(acc), bias, alpha, maps, *numbers)
                gx = gx.to(gy.dtype)
            else:
                numbers = (bias, alpha, spec.act, spec.alpha_value, spec.gain, spec.clamp)
                gx, gbias, galpha = kernels.bwd(
                    gy, saved, up_filter, down_filter, *spec.shape, *numbers, spec.channels_last, spec.backend
                )  # fmt: skip
        _, needs_bias, needs_alpha, *_ = ctx.needs_input_grad
        return gx, gbias.to(ctx.bias_dtype) if needs_bias else None, galpha.to(alpha.dtype) if needs_alpha else None, None, None, None


def _differentiable(spec: Spec, up_filter: Tensor, down_filter: Tensor) -> Maps:
    def run(x, filter, geometry, gain):
        return Upfirdn.apply(dense(x, spec.channels_last), filter, Resampling(geometry, gain, spec.channels_last, spec.backend))

    return Maps(spec.shape, up_filter, down_filter, run)


class _Linear(Function):
    @staticmethod
    def forward(ctx, v, signs, up_filter, down_filter, spec, transposed, size):
        ctx.save_for_backward(signs, up_filter, down_filter)
        ctx.constants = (spec, not transposed, size)
        numbers = (spec.act, spec.alpha_value, spec.gain)
        return kernels.linear(v, signs, up_filter, down_filter, *spec.shape, *numbers, transposed, size, spec.channels_last, spec.backend)

    @staticmethod
    def backward(ctx, u):
        with no_autocast(u):
            return linear(u, *ctx.saved_tensors, *ctx.constants), None, None, None, None, None, None


def linear(v: Tensor, signs: Tensor, up_filter: Tensor, down_filter: Tensor, spec: Spec, transposed: bool, size: tuple[int, ...]) -> Tensor:
    """The pass between signs, differentiable to any order by itself."""
    v = dense(v, spec.channels_last)
    if differentiates() and v.requires_grad:
        return _Linear.apply(v, signs, up_filter, down_filter, spec, transposed, size)
    numbers = (spec.act, spec.alpha_value, spec.gain)
    return kernels.linear(v, signs, up_filter, down_filter, *spec.shape, *numbers, transposed, size, spec.channels_last, spec.backend)
