"""`torch_utils.ops.bias_act`: the published interface on `ganfast.functional.bias_act`."""

import math

from torch import Tensor

from ganfast import _checks, functional
from ganfast._activations import with_number
from ganfast.stylegan._impl import backend, number

__all__ = ["activation_funcs", "bias_act"]


class _Entry(dict):
    """A dictionary whose keys are attributes too, as the published table's entries are."""

    __getattr__ = dict.__getitem__


def _entry(act: str, index: int, ref: str, second: bool, alpha: float = 0.0, gain: float = 1.0) -> _Entry:
    """act: ganfast's name; ref: which tensor gives the slope, "x" or "y"; second: whether the second derivative is not zero."""
    formula = lambda x, alpha=alpha, **_: with_number(x, act, alpha if act == "leaky_relu" else 1.0)
    return _Entry(func=formula, def_alpha=alpha, def_gain=gain, cuda_idx=index, ref=ref, has_2nd_grad=second, ganfast=act)


activation_funcs = {
    "linear": _entry("linear", 1, "", False),
    "relu": _entry("relu", 2, "y", False, gain=math.sqrt(2)),
    "lrelu": _entry("leaky_relu", 3, "y", False, alpha=0.2, gain=math.sqrt(2)),
    "tanh": _entry("tanh", 4, "y", True),
    "sigmoid": _entry("sigmoid", 5, "y", True),
    "elu": _entry("elu", 6, "y", True),
    "selu": _entry("selu", 7, "y", True),
    "softplus": _entry("softplus", 8, "y", True),
    "swish": _entry("silu", 9, "x", True, gain=math.sqrt(2)),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    """act(x + b) * gain, limited to [-clamp, clamp]; alpha, which only lrelu reads, and gain are the activation's own unless given."""
    _checks.check_tensor("bias_act", "x", x)
    spec = (activation_funcs.get(act) if isinstance(act, str) else None) or _checks.nearest("bias_act", "act", act, activation_funcs)
    return functional.bias_act(
        x,
        b,
        dim=0 if b is None and x.dim() == 1 else dim,  # without a bias nothing is along dim
        act=spec.ganfast,
        alpha=number("bias_act", "alpha", spec.def_alpha if alpha is None else alpha) if act == "lrelu" else None,
        gain=number("bias_act", "gain", spec.def_gain if gain is None else gain),
        clamp=None if clamp is None else number("bias_act", "clamp", clamp),
        backend=backend("bias_act", impl),
        open_output=act == "linear",  # networks add to it in place, as the official one keeps nothing of it
    )
