"""What stands around the convolution, as Functions: the input times the styles, the weight as the convolution takes it with the sums
of its squares, and all that follows the convolution. Each backward is one fused pass, or, when grad mode is on in it, the same formulas in
torch, which autograd differentiates again. The convolution between them is `conv_transpose_act`'s three bilinear maps, the filter upfirdn's
own adjoint: both differentiable to any order."""

from typing import NamedTuple

import torch
from torch.autograd import Function

from ganfast._activations import PIECEWISE_LINEAR
from ganfast._autograd import before, differentiates, no_autocast, reaching, savable, wanted_gradients
from ganfast._layout import dense
from ganfast.ops.modulated_conv import kernels, reference


class Spec(NamedTuple):
    """The constants of one call's passes."""

    act: str
    alpha_value: float
    gain: float
    clamp: float | None
    channels_last: bool
    backend: str


class Scale(Function):
    """x [N, C, H, W], dense, times style [N, C] of the accumulation dtype."""

    @staticmethod
    def forward(ctx, x, style, spec):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, style)
        ctx.spec, ctx.dtype = spec, x.dtype
        return kernels.scale_fwd(x, style, spec.channels_last, spec.backend)

    @staticmethod
    def backward(ctx, g):
        x, style = ctx.saved_tensors
        needs_x, needs_style, _ = wanted_gradients(ctx)
        gx = gstyle = None
        with no_autocast(g):
            if differentiates():
                acc = style.dtype
                gx = (g.to(acc) * reference.per_image(style)).to(ctx.dtype) if needs_x else None
                gstyle = (g.to(acc) * x.to(acc)).sum((2, 3)) if needs_style else None
            elif needs_style:
                gx, gstyle = kernels.scale_bwd(dense(g, ctx.spec.channels_last), x, style, ctx.spec.channels_last, ctx.spec.backend)
            elif needs_x:
                gx = kernels.scale_fwd(dense(g, ctx.spec.channels_last), style, ctx.spec.channels_last, ctx.spec.backend)
        return gx if needs_x else None, gstyle, None


class Few(Function):
    """x [N, C, H, W], dense, times w [N, O, C] of the accumulation dtype, a matrix of each image's own."""

    @staticmethod
    def forward(ctx, x, w, channels_last):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        ctx.channels_last, ctx.dtype = channels_last, x.dtype
        return kernels.few_fwd(x, w, channels_last)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        needs_x, needs_w, _ = wanted_gradients(ctx)
        with no_autocast(g):
            if not differentiates():
                gx, gw = kernels.few_bwd(dense(g, ctx.channels_last), x if needs_w else None, w, ctx.channels_last)
                return gx if needs_x else None, gw if needs_w else None, None
            g = g.to(w.dtype)
            gx = torch.einsum("nohw,noc->nchw", g, w).to(ctx.dtype) if needs_x else None
            return gx, torch.einsum("nohw,nchw->noc", g, x.to(w.dtype)) if needs_w else None, None


class Prepare(Function):
    """(the weight as the convolution takes it, the sums of its squares over the taps); `scale` [Cout] is a constant. In one node, so that
    the weight's two gradients are added up where they are read."""

    @staticmethod
    def forward(ctx, weight, scale, transposed, turn, dtype, backend):
        w, q = kernels.prepare_fwd(weight, scale, transposed, turn, dtype, backend)
        ctx.save_for_backward(weight, scale)
        ctx.how = (transposed, turn, backend)
        ctx.set_materialize_grads(False)
        return w if w.numel() else weight.view_as(weight), q

    @staticmethod
    def backward(ctx, gw, gq):
        weight, scale = ctx.saved_tensors
        transposed, turn, backend = ctx.how
        nothing = None, None, None, None, None, None
        if not wanted_gradients(ctx, weights=(0,))[0] or (gw is None and gq is None):
            return nothing
        known = next(g for g in (gw, gq) if g is not None)
        with no_autocast(known):
            if not differentiates():
                return kernels.prepare_bwd(weight, gw, gq, scale, transposed, turn, backend), *nothing[1:]
            acc = torch.promote_types(weight.dtype, torch.float32)
            gw = None if gw is None else gw.to(acc)
            return reference.prepare_gradient(gw, gq, weight.to(acc), scale, transposed, turn).to(weight.dtype), *nothing[1:]


class Finish(Function):
    """t [N, C, H, W], dense; d [N, C] and noise [N, 1, H, W] of the accumulation dtype; bias and alpha [C], the bias as `kept` gives it."""

    reaches_back = True  # see _autograd._unreached

    @staticmethod
    def forward(ctx, t, d, noise, bias, alpha, spec):
        y = kernels.finish_fwd(t, d, noise, bias, alpha, *spec)
        linear = spec.act == "linear" and spec.clamp is None
        ctx.save_for_backward(None if linear and d is None else t, d, savable(noise), bias, alpha)
        ctx.spec = spec
        return y

    @staticmethod
    def backward(ctx, gy):
        t, d, noise, bias, alpha = ctx.saved_tensors
        spec, needs = ctx.spec, wanted_gradients(ctx, weights=(3, 4))
        with no_autocast(gy):
            if differentiates():
                found = _differentiable(ctx, gy, t, d, noise, bias, alpha)
            else:
                gy = dense(gy, spec.channels_last)
                found = kernels.finish_bwd(gy, gy if t is None else t, d, noise, bias, alpha, *spec)
        dtypes = [None if v is None else v.dtype for v in (None, d, noise, bias, alpha)]
        cast = lambda g, dtype: g if dtype is None else g.to(dtype)
        return *(cast(g, dtype) if need else None for g, dtype, need in zip(found, dtypes, needs)), None


def _differentiable(ctx, gy, t, d, noise, bias, alpha):
    spec, dtype = ctx.spec, gy.dtype
    acc = torch.promote_types(dtype, torch.float32)
    if spec.act in PIECEWISE_LINEAR:
        found, enough = before(ctx, t)
        gy = reaching(gy, *(found if enough else [t]), d, noise, bias, alpha)
    gy, cast = gy.to(acc), [None if v is None else v.to(acc) for v in (noise, bias, alpha)]
    gt, *others = reference.finish_gradients(
        gy, gy if t is None else t.to(acc), d, *cast, spec.act, spec.alpha_value, spec.gain, spec.clamp
    )
    return gt.to(dtype), *others
