"""Gradients: two fused passes when nothing will differentiate them, the same formulas in torch when grad mode is on."""

from typing import NamedTuple

import torch
from torch.autograd import Function

from ganfast._autograd import differentiates, no_autocast
from ganfast._layout import dense
from ganfast.ops.batch_norm_act.reference import gradients


class Spec(NamedTuple):
    """The constants of one call."""

    act: str
    alpha_value: float
    training: bool
    eps: float
    channels_last: bool
    backend: str


def forward_op(x, weight, bias, alpha, mean, invstd, spec):
    weight, bias, alpha = (None if v is None else v.detach().to(mean.dtype).contiguous() for v in (weight, bias, alpha))
    return torch.ops.ganfast.batch_norm_act_fwd(
        x, mean, invstd, weight, bias, alpha, spec.act, spec.alpha_value, spec.channels_last, spec.backend
    )


class BatchNormAct(Function):
    """Saves x and two vectors per channel; never the running statistics, which the next forward overwrites."""

    @staticmethod
    def forward(ctx, x, weight, bias, alpha, mean, invstd, spec):
        ctx.save_for_backward(x, weight, bias, alpha, mean, invstd)
        ctx.spec = spec
        return forward_op(dense(x, spec.channels_last), weight, bias, alpha, mean, invstd, spec)

    @staticmethod
    def backward(ctx, gy):
        x, weight, bias, alpha, mean, invstd = ctx.saved_tensors
        spec, needs = ctx.spec, ctx.needs_input_grad
        acc = mean.dtype
        with no_autocast(gy):
            if differentiates():
                vectors = (None if v is None else v.to(acc) for v in (weight, bias))
                gx, gweight, gbias, galpha = gradients(
                    gy.to(acc), x.to(acc), mean, invstd, *vectors, spec.act, alpha, spec.alpha_value, spec.training, spec.eps
                )
                gx = gx.to(x.dtype)
            else:
                vectors = (None if v is None else v.to(acc).contiguous() for v in (weight, bias, alpha))
                gx, gweight, gbias, galpha = torch.ops.ganfast.batch_norm_act_bwd(
                    dense(gy, spec.channels_last), dense(x, spec.channels_last), mean, invstd, *vectors, spec.act, spec.alpha_value,
                    spec.training, spec.channels_last, spec.backend,
                )  # fmt: skip
        return (
            gx if needs[0] else None,
            gweight.to(weight.dtype) if needs[1] else None,
            gbias.to(bias.dtype) if needs[2] else None,
            galpha.to(alpha.dtype) if needs[3] else None,
            None,
            None,
            None,
        )
