"""Gradients of every order, from three bilinear maps that are each other's derivatives.

With T(x, w) the transposed convolution, D(gz, w) its data gradient and W(gz, x) its weight gradient:

    z  = T(x, w):   gx  = D(gz, w)   gw = W(gz, x)
    gx = D(gz, w):  ggz = T(u, w)    gw = W(gz, u)     u the cotangent of gx
    gw = W(gz, x):  ggz = T(x, v)    gx = D(gz, v)     v the cotangent of gw

so a double backward runs the same kernels as a backward, and never torch's own backward of a transposed convolution.
An ordinary convolution is the same three maps in other roles: with its weight [Cout, Cin/groups, *k] read as a transposed
one's, z = D(x, w), gx = T(gz, w), gw = W(x, gz).
The activation's derivative is the fused pass when nothing will differentiate it, and where it is piecewise constant; else, when grad mode
is on, plain torch formulas.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._activations import PIECEWISE_LINEAR, act_alpha_bwd, act_bwd, has_one_kernel, signs_of
from ganfast._autograd import before, differentiates, handle, handle_of, no_autocast, reaching, wanted_gradients
from ganfast._layout import dense, dense_weight
from ganfast.ops.bias_act import kernels as bias_act
from ganfast.ops.conv_transpose_act import choice, kernels
from ganfast.ops.conv_transpose_act.choice import Spec


def forward_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor | None, spec: Spec, residual: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, what else the activation's backward reads, see kernels.py, partials)"""
    return kernels.fwd(
        x, weight, bias, alpha, spec.stride, spec.padding, spec.output_padding, spec.dilation, spec.groups,
        spec.act, spec.alpha_value, spec.channels_last, spec.save_z, spec.partials, spec.backend, *_residual(residual, spec),
    )  # fmt: skip


def conv_act_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor | None, spec: Spec, way: str, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return kernels.conv(
        x, weight, bias, alpha, spec.stride, spec.padding, spec.dilation, spec.groups,
        spec.act, spec.alpha_value, spec.channels_last, spec.save_z, way, *_residual(residual, spec),
    )  # fmt: skip


def _residual(residual: Tensor | None, spec: Spec) -> tuple:
    return () if residual is None else (residual, spec.residual == "first", spec.factor, spec.keep_signs)


def conv_transpose(x: Tensor, weight: Tensor, spec: Spec) -> Tensor:
    x, weight = dense(x, spec.channels_last), dense_weight(weight)  # a cotangent of the weight comes as it is
    if spec.backend == "auto":  # the data gradient of a convolution, first wanted here
        spec = spec._replace(backend=choice.conv_transpose(x, weight, spec))
    if differentiates() and (x.requires_grad or weight.requires_grad):
        return ConvTransposeAct.apply(x, weight, None, None, None, spec)[0]
    return forward_op(x, weight, None, None, spec)[0]


def data_grad(gz: Tensor, weight: Tensor, input_size, spec: Spec) -> Tensor:
    if differentiates() and (gz.requires_grad or weight.requires_grad):
        return DataGrad.apply(gz, weight, input_size, spec)
    gz, weight = dense(gz, spec.channels_last), dense_weight(weight)
    backend = choice.data_grad(gz, weight, input_size, spec) if spec.grad_backend == "auto" else spec.grad_backend
    return kernels.data_grad(gz, weight, spec.stride, spec.padding, spec.dilation, spec.groups, input_size, spec.channels_last, backend)


def weight_grad(gz: Tensor, x: Tensor, weight: Tensor, spec: Spec) -> Tensor:
    """`weight` lends shape and strides alone."""
    if differentiates() and (gz.requires_grad or x.requires_grad):
        return WeightGrad.apply(gz, x, weight.detach(), spec)
    gz, x, weight = dense(gz, spec.channels_last), dense(x, spec.channels_last), weight.detach()
    backend = choice.weight_grad(gz, x, weight, spec) if spec.grad_backend == "auto" else spec.grad_backend
    return kernels.weight_grad(gz, x, weight, spec.stride, spec.padding, spec.dilation, spec.groups, spec.channels_last, backend)


class DataGrad(Function):
    @staticmethod
    def forward(ctx, gz, weight, input_size, spec):
        ctx.save_for_backward(gz, weight)
        ctx.spec = spec
        return data_grad(gz, weight, input_size, spec)

    @staticmethod
    def backward(ctx, u):
        gz, weight = ctx.saved_tensors
        linear = ctx.spec.linear()
        needs_gz, needs_weight, *_ = wanted_gradients(ctx, weights=(1,))
        with no_autocast(u):
            u = dense(u, linear.channels_last)
            ggz = conv_transpose(u, weight, linear) if needs_gz else None
            gweight = weight_grad(gz, u, weight, linear) if needs_weight else None
        return ggz, gweight, None, None


class WeightGrad(Function):
    @staticmethod
    def forward(ctx, gz, x, weight, spec):
        ctx.save_for_backward(gz, x)
        ctx.spec = spec
        return weight_grad(gz, x, weight, spec)

    @staticmethod
    def backward(ctx, v):
        gz, x = ctx.saved_tensors
        linear = ctx.spec.linear()
        needs_gz, needs_x, *_ = wanted_gradients(ctx)
        with no_autocast(v):
            ggz = conv_transpose(x, v, linear) if needs_gz else None
            gx = data_grad(gz, v, x.shape[2:], linear) if needs_x else None
        return ggz, gx, None, None


class ConvTransposeAct(Function):
    """(y, z, partials); z is an output so that a double backward can differentiate through it, empty where y suffices.
    x arrives dense: a copy made in here would be saved without a graph, and the second order would lose its paths through x.
    """

    reaches_back = True  # see _autograd._unreached
    weight, residual = 1, 4  # their places among the inputs

    @staticmethod
    def forward(ctx, x, weight, bias, alpha, residual, spec):
        spec = _less_for_the_residual(ctx, spec)
        y, z, partials = forward_op(x, weight, bias, alpha, spec, residual)
        ctx.spec, ctx.bias_dtype = spec, None if bias is None else bias.dtype
        kept = (x, weight) if any(ctx.needs_input_grad[:3]) else (None, None)  # not for alpha alone
        z, *of_output = _of_the_output(y, z, spec)
        ctx.save_for_backward(*kept, alpha, *of_output, handle(bias))
        ctx.mark_non_differentiable(partials)
        ctx.set_materialize_grads(False)
        return y, z, partials

    @staticmethod
    def backward(ctx, gy, gz_direct, _):
        x, weight, alpha, saved, node, bias = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_alpha, needs_residual, _ = wanted_gradients(ctx, weights=(1, 2, 3))
        gy = None if gy is None else dense(gy, ctx.spec.channels_last)  # once, for all that read it, the residual's branch too
        upstream = gy if gy is not None else gz_direct
        gresidual = _beside(gy, ctx.spec) if needs_residual else None
        if upstream is None or not (needs_x or needs_weight or needs_bias or needs_alpha or ctx.spec.residual != "last"):
            return None, None, None, None, gresidual, None
        with no_autocast(upstream):
            if gy is not None and ctx.spec.act in PIECEWISE_LINEAR and differentiates():
                gy = _reaching(ctx, gy, x, None if needs_x else weight, bias, alpha, saved if node is None else node)
            gz, gbias, galpha = _before_activation(gy, gz_direct, saved, alpha, ctx.spec, ctx.bias_dtype if needs_bias else None)
            linear = ctx.spec.linear()
            gx = data_grad(gz, weight, x.shape[2:], linear) if needs_x else None
            gweight = weight_grad(gz, x, weight, linear) if needs_weight else None
        gresidual = gz if needs_residual and ctx.spec.residual == "first" else gresidual
        return gx, gweight, gbias, galpha if needs_alpha else None, gresidual, None


class ConvAct(Function):
    """(y, z) of an ordinary convolution, z as in ConvTransposeAct. `way`: the forward's backend; the spec is that of the
    transposed convolution whose D it is."""

    reaches_back = True  # see _autograd._unreached
    weight, residual = 1, 4  # their places among the inputs

    @staticmethod
    def forward(ctx, x, weight, bias, alpha, residual, spec, way):
        spec = _less_for_the_residual(ctx, spec)
        y, z = conv_act_op(x, weight, bias, alpha, spec, way, residual)
        ctx.spec, ctx.bias_dtype = spec, None if bias is None else bias.dtype
        # x is for the weight's gradient alone: a frozen discriminator keeps no images.
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        kept = x if needs_weight else None, weight if needs_x or needs_weight or needs_bias else None
        z, *of_output = _of_the_output(y, z, spec)
        ctx.save_for_backward(*kept, alpha, *of_output, handle(bias))
        ctx.set_materialize_grads(False)
        return y, z

    @staticmethod
    def backward(ctx, gy, gz_direct):
        x, weight, alpha, saved, node, bias = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_alpha, needs_residual, *_ = wanted_gradients(ctx, weights=(1, 2, 3))
        gy = None if gy is None else dense(gy, ctx.spec.channels_last)  # once, for all that read it, the residual's branch too
        upstream = gy if gy is not None else gz_direct
        gresidual = _beside(gy, ctx.spec) if needs_residual else None
        if upstream is None or not (needs_x or needs_weight or needs_bias or needs_alpha or ctx.spec.residual != "last"):
            return None, None, None, None, gresidual, None, None
        with no_autocast(upstream):
            if gy is not None and ctx.spec.act in PIECEWISE_LINEAR and differentiates():
                gy = _reaching(ctx, gy, x, None if needs_x else weight, bias, alpha, saved if node is None else node)
            linear, of_bias = ctx.spec.linear(), ctx.bias_dtype if needs_bias else None
            both = needs_x and needs_weight and not differentiates() and choice.together(upstream, x, weight, linear)
            with_bias = both and of_bias is not None and (saved is None or gy is None)  # else the activation's pass has the sum
            gz, gbias, galpha = _before_activation(gy, gz_direct, saved, alpha, ctx.spec, None if with_bias else of_bias)
            if both:
                gx, gweight, summed = kernels.both_grads(
                    dense(gz, linear.channels_last), x, dense_weight(weight), linear.stride, linear.padding, linear.dilation, linear.groups,
                    linear.channels_last, with_bias,
                )  # fmt: skip
                gbias = summed.to(of_bias) if with_bias else gbias
            else:
                gx = conv_transpose(gz, weight, linear) if needs_x else None
                gweight = weight_grad(x, gz, weight, linear) if needs_weight else None
        gresidual = gz if needs_residual and ctx.spec.residual == "first" else gresidual
        return gx, gweight, gbias, galpha if needs_alpha else None, gresidual, None, None


def _less_for_the_residual(ctx, spec: Spec) -> Spec:
    """The spec of a forward whose residual, added last, is all that needs a gradient: nothing is kept."""
    if spec.residual == "last" and not any(ctx.needs_input_grad[:4]):
        return spec._replace(save_z=False, keep_signs=False)
    return spec


def _beside(gy: Tensor | None, spec: Spec) -> Tensor | None:
    """The gradient of a residual that is added last; None for another."""
    if gy is None or spec.residual != "last":
        return None
    return gy if spec.factor == 1 else gy * spec.factor


def _of_the_output(y: Tensor, kept: Tensor, spec: Spec) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(the output z, what the activation's backward reads, what else leads a double backward to this node: the empty z, where signs are
    read) from what the forward gave beside y."""
    if spec.keep_signs:
        signs, z = (kept, y.new_empty(0)) if spec.residual else (signs_of(y, spec.act), kept)
        return z, signs, z
    if spec.act == "linear" or (spec.residual == "last" and not spec.save_z):
        return kept, None, None
    return kept, kept if spec.save_z else y, None


def _reaching(ctx, gy: Tensor, x, weight, bias, alpha, output: Tensor) -> Tensor:
    """gy, whose double backward leads to the others and to what lies before x; through an output of the forward where x was not kept.
    `weight` is None where x's gradient leads to it."""
    found, enough = before(ctx, x)
    others, also = before(ctx, None, ConvAct.residual) if ctx.spec.residual == "first" else ([], True)
    if enough and also:
        return reaching(gy, *found, *others, weight, handle_of(ctx, 2, bias), alpha)
    return reaching(gy, output, alpha)


def _before_activation(gy, gz_direct, saved, alpha, spec, bias_dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(gz, gbias where `bias_dtype` asks for it, galpha or None) from the gradients of y and of z itself."""
    if gy is None and spec.keep_signs:  # zeros for the empty z, from `_reaching`
        gy = torch.zeros_like(saved, dtype=gz_direct.dtype)
    gz, gbias, galpha = _activation_backward(gy, saved, alpha, spec, not spec.save_z)
    if gz_direct is not None and spec.save_z:
        gz = gz_direct if gz is None else gz + gz_direct
        gbias = None
    if bias_dtype is None:
        return gz, None, galpha
    gbias = gz.sum([0, *range(2, gz.dim())]) if gbias is None else gbias
    return gz, gbias.to(bias_dtype), galpha


def _activation_backward(gy, saved, alpha, spec, from_y):
    """(gz, gbias or None, galpha or None)."""
    gain = spec.factor
    if gy is None or saved is None:
        return (gy if gy is None or gain == 1 else gy * gain), None, None
    constants = (spec.act, spec.alpha_value, gain, None, from_y, spec.channels_last, spec.act_backend)
    if not differentiates():
        gz, gbias, galpha = bias_act.bwd(gy, saved, None, alpha, *constants)
        return gz, gbias, None if alpha is None else galpha.to(alpha.dtype)
    if alpha is None and spec.act in PIECEWISE_LINEAR:
        return *bias_act.slopes(gy, saved, None, *constants), None
    if gain == 1 and alpha is None and has_one_kernel(spec.act, from_y):
        return act_bwd(gy, saved, spec.act, None, spec.alpha_value, from_y), None, None
    # fp16 and bf16 products are formed in float32, as in the fused pass; autograd casts back.
    acc = torch.promote_types(gy.dtype, torch.float32)
    gy_acc, saved_acc = gy.to(acc), saved.to(acc)
    if gain != 1:
        gy_acc, saved_acc = gy_acc * gain, saved_acc / gain if from_y else saved_acc
    gz = act_bwd(gy_acc, saved_acc, spec.act, alpha, spec.alpha_value, from_y).to(gy.dtype)
    if alpha is None:
        return gz, None, None
    galpha = act_alpha_bwd(gy_acc, saved_acc, spec.act, alpha).sum([0, *range(2, gy.dim())]).to(alpha.dtype)
    return gz, None, galpha
