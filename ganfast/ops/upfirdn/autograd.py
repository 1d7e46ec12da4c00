"""The gradient is the adjoint, an upfirdn again, and so are those of every order."""

from typing import NamedTuple

from torch import Tensor
from torch.autograd import Function

from ganfast._autograd import differentiates, no_autocast
from ganfast._layout import dense
from ganfast.ops.upfirdn import kernels
from ganfast.ops.upfirdn.geometry import Geometry


class Spec(NamedTuple):
    """The constants of one call."""

    geometry: Geometry
    gain: float
    channels_last: bool
    backend: str


def forward_op(x: Tensor, filter: Tensor, spec: Spec) -> Tensor:
    g = spec.geometry
    return kernels.fwd(x, filter, g.up, g.down, g.before, g.after, g.flip, spec.gain, spec.channels_last, spec.backend)


class Upfirdn(Function):
    """Saves the filter alone."""

    @staticmethod
    def forward(ctx, x, filter, spec):
        ctx.save_for_backward(filter)
        ctx.spec, ctx.size = spec, tuple(x.shape[2:])
        return forward_op(x, filter, spec)

    @staticmethod
    def backward(ctx, gy):
        (filter,) = ctx.saved_tensors
        spec = ctx.spec._replace(geometry=ctx.spec.geometry.adjoint(ctx.size))
        with no_autocast(gy):
            gy = dense(gy, spec.channels_last)
            again = differentiates() and gy.requires_grad
            return Upfirdn.apply(gy, filter, spec) if again else forward_op(gy, filter, spec), None, None
