"""Gradients of a norm with an affine from outside and a residual: fused passes when nothing will differentiate them, the same formulas
in torch when grad mode is on."""

from typing import NamedTuple

from torch import Tensor
from torch.autograd import Function

from ganfast._activations import PIECEWISE_LINEAR
from ganfast._autograd import before, differentiates, no_autocast, owned, reaching, savable
from ganfast._layout import dense
from ganfast.ops.batch_norm_act import modulated
from ganfast.ops.batch_norm_act.modulated_reference import gradients


class Spec(NamedTuple):
    """The constants of one call."""

    act: str
    alpha_value: float
    groups: int  # of an image's channels that are normalised together; 0: a channel of all images
    training: bool  # by x's own statistics
    eps: float
    channels_last: bool
    backend: str
    residual_first: bool = False
    factor: float = 1.0


def forward_op(x, weight, bias, scale, shift, residual, alpha, mean, invstd, spec: Spec) -> Tensor:
    return modulated.fwd(
        x, mean, invstd, weight, bias, scale, shift, residual, alpha, spec.act, spec.alpha_value, spec.residual_first, spec.factor,
        spec.channels_last, spec.backend,
    )  # fmt: skip


class ModulatedNormAct(Function):
    """x, the tensors of its shape and the statistics [C] or [N * C] arrive dense. Bias, and shift [N, C], as `kept` gives them: their
    numbers are needed."""

    @staticmethod
    def forward(ctx, x, weight, bias, scale, shift, residual, alpha, mean, invstd, spec):
        if spec.act == "linear":  # then the residual's place is all one, and added last it is not saved
            spec = spec._replace(residual_first=False)
        y = forward_op(x, weight, bias, scale, shift, residual, alpha, mean, invstd, spec)
        first = residual if spec.residual_first else None
        ctx.save_for_backward(x, weight, bias, scale, savable(shift), savable(first), alpha, mean, invstd)
        ctx.spec = spec
        return owned(y)

    @staticmethod
    def backward(ctx, gy):
        x, weight, bias, scale, shift, first, alpha, mean, invstd = ctx.saved_tensors
        spec, needs = ctx.spec, ctx.needs_input_grad
        after = gy if spec.factor == 1 else gy * spec.factor  # the gradient of a residual that comes after the activation
        if not any((*needs[:5], needs[6])) and first is None:
            return None, None, None, None, None, after if needs[5] else None, None, None, None, None
        with no_autocast(gy):
            if differentiates():
                found = _differentiable(ctx, gy, x, weight, bias, scale, shift, first, alpha, mean, invstd, spec)
            else:
                found = modulated.bwd(
                    dense(gy, spec.channels_last), x, mean, invstd, weight, bias, scale, shift, first, alpha, spec.act, spec.alpha_value,
                    spec.factor, spec.groups, spec.training, spec.channels_last, spec.backend,
                )  # fmt: skip
        gx, gweight, gbias, galpha, gscale, gshift, gfirst = found
        if first is not None and gfirst.numel() == 0:
            gfirst = gshift
        return (
            gx if needs[0] else None,
            gweight.to(weight.dtype) if needs[1] else None,
            gbias.to(bias.dtype) if needs[2] else None,
            gscale.to(scale.dtype) if needs[3] else None,
            gshift.to(shift.dtype) if needs[4] else None,
            (gfirst if spec.residual_first else after) if needs[5] else None,
            galpha.to(alpha.dtype) if needs[6] else None,
            None,
            None,
            None,
        )


def _differentiable(ctx, gy, x, weight, bias, scale, shift, first, alpha, mean, invstd, spec: Spec):
    acc = mean.dtype
    gy = gy.to(acc)
    if spec.act in PIECEWISE_LINEAR:  # in train mode the statistics lead to x
        gy = reaching(gy, *([] if spec.training else before(ctx, x)[0]), weight, bias, scale, shift, first, alpha)
    cast = (None if v is None else v.to(acc) for v in (weight, bias, scale, shift, first))
    found = gradients(
        gy, x.to(acc), mean, invstd, *cast, alpha, spec.act, spec.alpha_value, spec.factor, spec.groups, spec.training, spec.eps
    )
    return found[0].to(x.dtype), *found[1:6], None if first is None else found[6].to(first.dtype)
