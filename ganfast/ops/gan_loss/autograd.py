"""Gradients: the forward pass has already computed the first ones; higher orders differentiate their formula."""

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._autograd import compiles, differentiates
from ganfast.ops.gan_loss import reference
from ganfast.ops.gan_loss.kernels import forward_op


def _like(gradient: Tensor, logits: Tensor) -> Tensor:
    return gradient.to(logits.dtype).reshape(logits.shape)


def _versions(*logits: Tensor | None) -> list[int]:
    return [0 if t is None or t.is_inference() else t._version for t in logits]  # those of inference mode count no changes


class GanLoss(Function):
    """(loss, stats). The gradients are kept in the loss's dtype: 1/N and a confident sigmoid underflow in float16 before
    the incoming gradient, which carries a loss scale, has multiplied them."""

    @staticmethod
    def forward(ctx, real, fake, kind, generator, smoothing, backend):
        loss, greal, gfake, stats = forward_op(real, fake, kind, generator, smoothing, backend)
        # Of the logits a first backward reads shape and dtype alone: in place changes of them, for a log, are none of its business.
        tracing = compiles()
        ctx.save_for_backward(greal, gfake, *((real, fake) if tracing else ()))
        ctx.logits = None if tracing else (real, fake, _versions(real, fake))
        ctx.formula = (kind, generator, smoothing)
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return loss, stats

    @staticmethod
    def backward(ctx, gloss, _):
        if gloss is None:
            return None, None, None, None, None, None
        greal, gfake, *logits = ctx.saved_tensors
        real, fake = logits or ctx.logits[:2]
        kind, generator, _ = ctx.formula
        if differentiates():
            if _versions(real, fake) != ctx.logits[2]:
                raise RuntimeError(
                    f"gan_loss: the logits of kind={kind!r} were changed in place after the loss, a second derivative wants them as they "
                    "were. Change a copy, logits.detach().clone()."
                )
            flat_real = None if real is None else real.reshape(-1).to(gloss.dtype)
            greal, gfake = reference.gan_loss_grads(flat_real, fake.reshape(-1).to(gloss.dtype), *ctx.formula)
        needs_real, needs_fake, *_ = ctx.needs_input_grad
        selects = kind == "hinge" and not generator
        greal = _like(_times(greal, gloss, selects), real) if needs_real else None
        return greal, _like(_times(gfake, gloss, selects), fake) if needs_fake else None, None, None, None, None


def _times(slope: Tensor, gloss: Tensor, selects: bool) -> Tensor:
    """slope * gloss. Where the hinge is off the result is 0 whatever arrives, as in torch: a product would make NaN of an infinite loss
    scale."""
    return torch.where(slope == 0, slope, slope * gloss) if selects else slope * gloss
