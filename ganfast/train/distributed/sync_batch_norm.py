"""Synchronised batch norm: its statistics are of the whole batch, over all processes; on every device, with gradients of any order.

torch's SyncBatchNorm takes no CPU tensors, has no second derivative, and no activation in the same pass.
"""

import copyreg
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from ganfast import _checks
from ganfast._activations import PIECEWISE_LINEAR, act_alpha_bwd, act_bwd
from ganfast._autograd import differentiates, kept, no_autocast, reaching
from ganfast._layout import dense, is_channels_last
from ganfast._statistics import merge_partials
from ganfast.nn.norms import _BatchNormAct, count_batch
from ganfast.ops.batch_norm_act import kernels, modulated_op
from ganfast.ops.batch_norm_act.autograd import Spec
from ganfast.ops.batch_norm_act.op import choose
from ganfast.ops.batch_norm_act.reference import column, reduced_dims
from ganfast.train.distributed.world import summed

_FORWARDS = (_BatchNorm.forward, _BatchNormAct.forward)


def synchronise(module: nn.Module) -> None:
    """Every batch norm in `module`, torch's and ganfast's, changes its class in place: parameters, buffers, state_dict and hooks stay.
    In train mode it then takes the statistics of all processes, so all have to run it; in eval mode nothing changes. Copies and
    pickles are of the plain class.

    Raises: ValueError for a batch norm with a forward of its own.
    """
    # Accelerated networks: dynamo makes other calls of an all-reduce. Here, as it costs the import of dynamo.
    _Synchronised.outside_graphs = staticmethod(torch.compiler.disable(synchronised_batch_norm_act))
    for name, norm in module.named_modules():
        if isinstance(norm, _BatchNorm):
            plain = getattr(type(norm), "_ganfast_class", type(norm))  # of ganfast.accelerate
            if not issubclass(plain, _Synchronised):
                if plain.forward not in _FORWARDS:
                    kind = type(norm).__name__
                    raise ValueError(f"train: sync_batch_norm got a {kind} at {name!r}, wants torch's or ganfast's batch norms.")
                norm.__class__ = _class_for(plain)


@functools.cache
def _class_for(plain: type) -> type:
    return type(plain.__name__, (_Synchronised, plain), {"_plain": plain})


class _Synchronised:
    """Mixed into a batch norm's class."""

    _plain: type
    outside_graphs: Callable[..., Tensor]  # synchronised_batch_norm_act, as `synchronise` sets it

    def __reduce_ex__(self, protocol):
        make, args, *rest = super().__reduce_ex__(protocol)
        return (make, (self._plain,), *rest) if make is copyreg.__newobj__ else (make, args, *rest)

    def forward(
        self, x: Tensor, partials: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """partials and all after it: of ganfast's layers, where scale, shift and residual here are passes of their own."""
        if not self.training or not torch.distributed.is_initialized():
            beside = {"partials": partials, "scale": scale, "shift": shift, "residual": residual}
            return super().forward(x, **{name: t for name, t in beside.items() if t is not None})
        self._check_input_dim(x)
        momentum = count_batch(self)
        running = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        act, alpha = getattr(self, "act", "linear"), getattr(self, "alpha", None)
        first, factor = getattr(self, "residual_first", False), getattr(self, "factor", 1.0)
        if modulated_op.check("batch_norm_act", x, scale, shift, residual, first, factor):
            z = self.outside_graphs(x, *running, self.weight, self.bias, momentum, self.eps, "linear", None, partials)
            return self._finished(self._modulated(z, scale, shift), x.dim() - 2, residual)
        return self.outside_graphs(x, *running, self.weight, self.bias, momentum, self.eps, act, alpha, partials)


def synchronised_batch_norm_act(x, running_mean, running_var, weight, bias, momentum, eps, act, alpha, partials=None) -> Tensor:
    """ganfast.functional.batch_norm_act in train mode, over the batches of all processes; its arguments."""
    if x.dim() == 2:
        return synchronised_batch_norm_act(
            x.unsqueeze(-1), running_mean, running_var, weight, bias, momentum, eps, act, alpha, partials
        ).squeeze(-1)  # fmt: skip
    channels, values = x.shape[1], x.numel() // x.shape[1]
    alpha, alpha_value = _checks.check_activation("batch_norm_act", act, alpha, channels, x)
    spec = Spec(act, alpha_value, True, eps, is_channels_last(x), choose("batch_norm_act", None, x))
    with torch.no_grad():
        if partials is None:
            mean, var = kernels.stats(dense(x.detach(), spec.channels_last), False, spec.channels_last, spec.backend)
        else:
            merged = merge_partials(partials.to(torch.promote_types(x.dtype, torch.float32)))[0]
            mean, var = merged[1], merged[2] / values
        count, mean, var = _over_all(mean, var, values)
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return _BatchNormActOverAll.apply(x, weight, kept(bias), alpha, mean, torch.rsqrt(var + eps), count, spec)


def _over_all(mean: Tensor, var: Tensor, values: int) -> tuple[Tensor, Tensor, Tensor]:
    """(values per channel, mean, biased variance) of all processes, from this one's. Differentiable. One all-reduce: in float64 a mean
    far from zero costs the variance nothing."""
    wide, c = mean.double(), len(mean)
    local = torch.cat([wide.new_ones(1), wide, var.double() + wide.square()]) * values
    total = _Sum.apply(local)
    count, center = total[0], total[1 : c + 1] / total[0]
    spread = (total[c + 1 :] / count - center.square()).clamp_min(0)
    return count.to(mean.dtype), center.to(mean.dtype), spread.to(mean.dtype)


class _Sum(Function):
    """The sum over the processes. What is differentiated is the sum of all processes' losses, so the gradient is summed too."""

    @staticmethod
    def forward(ctx, x):
        return summed(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, g):
        return _Sum.apply(g)


class _BatchNormActOverAll(Function):
    """ganfast's passes with an all-reduce between them; the same formulas in torch where a graph of the backward is asked for."""

    reaches_back = True  # see _autograd.reached

    @staticmethod
    def forward(ctx, x, weight, bias, alpha, mean, invstd, count, spec):
        y = kernels.fwd(
            dense(x, spec.channels_last), mean, invstd, weight, bias, alpha, spec.act, spec.alpha_value, spec.channels_last, spec.backend
        )
        ctx.save_for_backward(x, weight, bias, alpha, mean, invstd, count)
        ctx.spec = spec
        return y

    @staticmethod
    def backward(ctx, gy):
        x, weight, bias, alpha, mean, invstd, count = ctx.saved_tensors
        with no_autocast(gy):
            wide = gy.to(mean.dtype), x.to(mean.dtype)
            if differentiates():
                if ctx.spec.act in PIECEWISE_LINEAR:
                    wide = reaching(wide[0], weight, bias, alpha), wide[1]
                grads = _gradients(*wide, weight, bias, alpha, ctx.spec)
            else:
                grads = _passes(*wide, weight, bias, alpha, mean, invstd, count, ctx.spec)
            grads = (g.to(t.dtype) if need else None for g, t, need in zip(grads, (x, weight, bias, alpha), ctx.needs_input_grad))
            return *grads, None, None, None, None


def _passes(gy, x, weight, bias, alpha, mean, invstd, count, spec):
    """(gx, gweight, gbias, galpha). Gradients of parameters are this process's share, averaged later like all others."""
    last = spec.channels_last
    gx, gweight, gbias, galpha = kernels.bwd(  # as if the statistics were constants
        dense(gy, last), dense(x, last), mean, invstd, weight, bias, alpha, spec.act, spec.alpha_value, False, last, spec.backend
    )
    of_xhat, of_ones = (summed(torch.cat([gweight, gbias])) / count).chunk(2)
    scale = invstd if weight is None else invstd * weight.to(invstd.dtype)
    through_statistics = torch.addcmul(column(scale * of_ones, x), x - column(mean, x), column(scale * invstd * of_xhat, x))
    return gx.sub_(through_statistics), gweight, gbias, galpha


def _gradients(gy, x, weight, bias, alpha, spec):
    """The same by differentiable operations, with the statistics computed from x again."""
    dims = reduced_dims(x)
    var, mean = torch.var_mean(x, dims, correction=0)
    count, mean, var = _over_all(mean, var, x.numel() // x.shape[1])
    invstd = torch.rsqrt(var + spec.eps)
    weight, bias = (None if v is None else v.to(x.dtype) for v in (weight, bias))
    xhat = (x - column(mean, x)) * column(invstd, x)
    z = xhat if weight is None else xhat * column(weight, x)
    z = z if bias is None else z + column(bias, x)
    g = act_bwd(gy, z, spec.act, alpha, spec.alpha_value, False)
    gbias, gweight = g.sum(dims), (g * xhat).sum(dims)
    of_xhat, of_ones = (_Sum.apply(torch.cat([gweight, gbias])) / count).chunk(2)
    scale = invstd if weight is None else invstd * weight
    gx = (g - column(of_ones, x) - xhat * column(of_xhat, x)) * column(scale, x)
    galpha = None if alpha is None else act_alpha_bwd(gy, z, spec.act, alpha).sum(dims)
    return gx, gweight, gbias, galpha
