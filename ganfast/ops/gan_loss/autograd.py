"""Gradients: the forward pass has already computed the first ones; higher orders differentiate their formula."""

from torch import Tensor
from torch.autograd import Function

from ganfast._autograd import differentiates
from ganfast.ops.gan_loss import reference
from ganfast.ops.gan_loss.kernels import forward_op


def _like(gradient: Tensor, logits: Tensor) -> Tensor:
    return gradient.to(logits.dtype).reshape(logits.shape)


class GanLoss(Function):
    """(loss, stats). The gradients are kept in the loss's dtype: 1/N and a confident sigmoid underflow in float16 before
    the incoming gradient, which carries a loss scale, has multiplied them."""

    @staticmethod
    def forward(ctx, real, fake, kind, generator, smoothing, backend):
        loss, greal, gfake, stats = forward_op(real, fake, kind, generator, smoothing, backend)
        ctx.save_for_backward(real, fake, greal, gfake)
        ctx.formula = (kind, generator, smoothing)
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return loss, stats

    @staticmethod
    def backward(ctx, gloss, _):
        if gloss is None:
            return None, None, None, None, None, None
        real, fake, greal, gfake = ctx.saved_tensors
        if differentiates():
            flat_real = None if real is None else real.reshape(-1).to(gloss.dtype)
            greal, gfake = reference.gan_loss_grads(flat_real, fake.reshape(-1).to(gloss.dtype), *ctx.formula)
        needs_real, needs_fake, *_ = ctx.needs_input_grad
        greal = _like(greal * gloss, real) if needs_real else None
        return greal, _like(gfake * gloss, fake) if needs_fake else None, None, None, None, None
