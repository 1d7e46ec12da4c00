"""Gradients: two fused passes when nothing will differentiate them, the same formulas in torch when grad mode is on."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast import _backends
from ganfast._activations import PIECEWISE_LINEAR
from ganfast._autograd import before, differentiates, no_autocast, owned, reaching
from ganfast._layout import dense
from ganfast.ops.batch_norm_act import kernels
from ganfast.ops.batch_norm_act.reference import gradients


class Spec(NamedTuple):
    """The constants of one call."""

    act: str
    alpha_value: float
    training: bool
    eps: float
    channels_last: bool
    backend: str
    per_image: bool = False  # instance norm: each image's statistics are its own


class Together(NamedTuple):
    """What the `cpu` backend needs to do statistics, running statistics and y in one call, where nothing traces."""

    running_mean: Tensor | None
    running_var: Tensor | None
    partials: Tensor | None
    momentum: float


def forward_op(x, weight, bias, alpha, mean, invstd, spec, together: Together | None) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, invstd)"""
    if together is not None:
        running_mean, running_var, partials, momentum = together
        _backends.ran["batch_norm_act"] = spec.backend
        return torch.ops.ganfast.batch_norm_act_all_native(
            x, running_mean, running_var, weight, bias, alpha, partials, spec.training, momentum, spec.eps, spec.act, spec.alpha_value,
            spec.per_image, spec.channels_last,
        )  # fmt: skip
    y = kernels.fwd(x, mean, invstd, weight, bias, alpha, spec.act, spec.alpha_value, spec.channels_last, spec.backend)
    return y, mean, invstd


class BatchNormAct(Function):
    """Saves x and its statistics; never the running statistics, which the next forward overwrites. The bias arrives as `kept` gives it."""

    reaches_back = True  # see _autograd._unreached

    @staticmethod
    def forward(ctx, x, weight, bias, alpha, mean, invstd, spec, together):
        y, mean, invstd = forward_op(dense(x, spec.channels_last), weight, bias, alpha, mean, invstd, spec, together)
        ctx.save_for_backward(x, weight, bias, alpha, mean, invstd)
        ctx.spec = spec
        return owned(y)

    @staticmethod
    def backward(ctx, gy):
        x, weight, bias, alpha, mean, invstd = ctx.saved_tensors
        spec, needs = ctx.spec, ctx.needs_input_grad
        acc = mean.dtype
        with no_autocast(gy):
            if differentiates():
                vectors = (None if v is None else v.to(acc) for v in (weight, bias))
                gy = gy.to(acc)
                if spec.act in PIECEWISE_LINEAR:  # in train mode the statistics lead to x
                    gy = reaching(gy, *([] if spec.training else before(ctx, x)[0]), weight, bias, alpha)
                gx, gweight, gbias, galpha = gradients(
                    gy, x.to(acc), mean, invstd, *vectors, spec.act, alpha, spec.alpha_value, spec.training, spec.eps
                )
                gx = gx.to(x.dtype)
            else:
                gx, gweight, gbias, galpha = kernels.bwd(
                    dense(gy, spec.channels_last), dense(x, spec.channels_last), mean, invstd, weight, bias, alpha, spec.act,
                    spec.alpha_value, spec.training, spec.channels_last, spec.backend,
                )  # fmt: skip
        return (
            gx if needs[0] else None,
            gweight.to(weight.dtype) if needs[1] else None,
            gbias.to(bias.dtype) if needs[2] else None,
            galpha.to(alpha.dtype) if needs[3] else None,
            None,
            None,
            None,
            None,
        )


def rebuild(node) -> Tensor:
    """The output of a BatchNormAct node anew, from what it saved; differentiable where a backward of a backward asks."""
    x, weight, bias, alpha, mean, invstd = node.saved_tensors
    if differentiates():
        return BatchNormAct.apply(x, weight, bias, alpha, mean, invstd, node.spec, None)
    return forward_op(dense(x, node.spec.channels_last), weight, bias, alpha, mean, invstd, node.spec, None)[0]
