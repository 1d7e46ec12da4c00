"""Gradients: fused passes when nothing will differentiate them, the same formulas in torch when grad mode is on."""

from typing import NamedTuple

from torch.autograd import Function

from ganfast._activations import PIECEWISE_LINEAR
from ganfast._autograd import differentiates, no_autocast, owned, reaching
from ganfast._layout import dense
from ganfast.ops.batch_norm_act.modulated_reference import gradients
from ganfast.ops.group_norm_act import kernels


class Spec(NamedTuple):
    """The constants of one call."""

    act: str
    alpha_value: float
    groups: int
    eps: float
    channels_last: bool
    backend: str


def forward_op(x, weight, bias, scale, shift, alpha, spec: Spec, with_slope: bool = False):
    """(y, mean, invstd [N * groups], the activation's slope or an empty tensor)"""
    return kernels.fwd(
        x, weight, bias, scale, shift, alpha, spec.groups, spec.eps, spec.act, spec.alpha_value, spec.channels_last, with_slope,
        spec.backend,
    )  # fmt: skip


class GroupNormAct(Function):
    """x arrives dense, bias and shift as `kept` gives them. Saves x, its statistics and, of a half
    type on the CPU, the slope of an activation that an exponential leads to: its forward has it, and to make it again takes longer than to
    read it. Of float32 it does not, whose passes wait for memory."""

    reaches_back = True  # see _autograd.reached

    @staticmethod
    def forward(ctx, x, weight, bias, scale, shift, alpha, spec):
        curved = spec.backend == "cpu" and spec.act not in ("linear", *PIECEWISE_LINEAR)
        y, mean, invstd, slope = forward_op(x, weight, bias, scale, shift, alpha, spec, curved)
        ctx.save_for_backward(x, weight, bias, scale, shift, alpha, mean, invstd, slope if slope.numel() else None)
        ctx.spec = spec
        return owned(y)

    @staticmethod
    def backward(ctx, gy):
        x, weight, bias, scale, shift, alpha, mean, invstd, slope = ctx.saved_tensors
        spec, needs, acc = ctx.spec, ctx.needs_input_grad, mean.dtype
        with no_autocast(gy):
            if differentiates():
                gy = gy.to(acc)
                if spec.act in PIECEWISE_LINEAR:
                    gy = reaching(gy, weight, bias, scale, shift, alpha)  # the statistics lead to x
                cast = (None if v is None else v.to(acc) for v in (weight, bias, scale, shift))
                gx, *rest, _ = gradients(
                    gy, x.to(acc), None, None, *cast, None, alpha, spec.act, spec.alpha_value, 1.0, spec.groups, True, spec.eps
                )
                gx = gx.to(x.dtype)
            else:
                gx, *rest = kernels.bwd(
                    dense(gy, spec.channels_last), x, mean, invstd, weight, bias, scale, shift, alpha, slope, spec.groups, spec.act,
                    spec.alpha_value, spec.channels_last, spec.backend,
                )  # fmt: skip
        gweight, gbias, galpha, gscale, gshift = rest
        return (
            gx if needs[0] else None,
            gweight.to(weight.dtype) if needs[1] else None,
            gbias.to(bias.dtype) if needs[2] else None,
            gscale.to(scale.dtype) if needs[3] else None,
            gshift.to(shift.dtype) if needs[4] else None,
            galpha.to(alpha.dtype) if needs[5] else None,
            None,
        )
