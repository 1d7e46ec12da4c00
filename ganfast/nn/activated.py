"""What the layers share: the activation, and what torch's older tools see of them.

torch.jit.script and torch.jit.trace get torch's own layer and the activation by torch's functions: nothing of ganfast is in what they
write. A trace of torch.fx keeps the layer as it is, one module in the graph, as it keeps torch's.
"""

import inspect
from types import FunctionType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from ganfast import _checks
from ganfast._activations import ACTIVATIONS, default_alpha, with_number, with_tensor

_trace = torch._C._get_tracing_state


def recording(x: object) -> bool:
    """Whether torch.jit.trace or a symbolic trace of torch.fx records this call."""
    return isinstance(x, Proxy) or _trace() is not None


def refuse_partials(given: bool) -> None:
    if given:
        raise RuntimeError(
            "ganfast.nn: partials pass between ganfast's kernels, but torch.jit.trace and torch.jit.script write torch's layers. "
            "Leave return_partials and partials out there: the results are the same."
        )


def _constructor(torchs: type, own: dict[str, object]) -> FunctionType:
    """torch's own, with its arguments, and the layer's own after them, by name: the activation's, and those of its residual if it has."""
    signature = inspect.signature(torchs.__init__)

    def __init__(self, *args, **kwargs):
        mine = {name: kwargs.pop(name, default) for name, default in own.items()}
        torchs.__init__(self, *args, **kwargs)
        self._check_options()
        given = signature.bind(self, *args, **kwargs).arguments
        self._set_activation(mine.pop("act"), mine.pop("alpha"), given.get("device"), given.get("dtype"))
        if mine:
            self._set_residual(**mine)

    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in own.items()]
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    return __init__


class Activated:
    """Mixed into a layer before torch's class; the mixin's docstring is the template of its layers'. What torch.jit compiles is the layer's
    `_as_torch`, which takes all that forward takes."""

    __jit_unused_properties__: ClassVar = ["itself"]
    _own: ClassVar[dict[str, object]] = {"act": "linear", "alpha": None}

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        torchs = next((base for base in cls.__bases__ if base.__module__.startswith("torch.nn") and base is not nn.Module), None)
        if torchs is None:  # a mixin, or a user's own subclass
            return
        # torch.jit.script compiles methods of self, but no super(), and none under the name of one that it has.
        forward = torchs.forward
        cls._torch_forward = FunctionType(forward.__code__, forward.__globals__, "_torch_forward", forward.__defaults__)
        cls._torch_forward.__annotations__ = forward.__annotations__
        if cls.__init__ is torchs.__init__:
            cls.__init__ = _constructor(torchs, cls._own)
        if not torchs.__name__.endswith("d"):  # for any number of dimensions
            return
        dims = int(torchs.__name__[-2])
        cls._dims, cls.__constants__ = dims, [*torchs.__constants__, "_dims"]  # a constant to torch.jit too
        if cls.__doc__ is None:
            cls.__doc__ = (cls.__bases__[0].__doc__ or "").format(n=dims, sizes=("L", "H, W", "D, H, W")[dims - 1])

    def _check_options(self) -> None:
        """Raises ValueError for what torch's class can do and the layer cannot."""

    def _set_activation(self, act: str, alpha: float | Tensor | None, device, dtype) -> None:
        """A float `alpha` stays a constant; a tensor becomes the parameter `alpha`, which training updates."""
        name = type(self).__name__
        if act not in ACTIVATIONS:
            _checks.nearest(name, "act", act, ACTIVATIONS)
        if alpha is not None and ACTIVATIONS[act].default_alpha is None:
            _checks.fail(name, f"alpha was given, but act={act!r} has no parameter")
        if isinstance(alpha, Tensor):
            alpha = nn.Parameter(alpha.detach().to(device=device, dtype=dtype).clone())
        elif alpha is None and act == "prelu":
            alpha = nn.Parameter(torch.full((1,), 0.25, device=device, dtype=dtype))
        self.act = act
        self.alpha = alpha

    def extra_repr(self) -> str:
        alpha = f"learned {tuple(self.alpha.shape)}" if isinstance(self.alpha, Tensor) else self.alpha
        return f"{super().extra_repr()}, act={self.act}" + ("" if alpha is None else f", alpha={alpha}")

    @property
    def itself(self) -> nn.Module:
        """The layer's name in a graph of torch.fx where it was traced alone, so that no parent has a name for it."""
        return self

    def _recorded(self, x: object, **options: object) -> object:
        """What a call gives while it is recorded."""
        if not isinstance(x, Proxy):
            return self._as_torch(x, **options)
        if self._forward_pre_hooks or self._forward_hooks:
            _checks.fail(
                type(self).__name__, "torch.fx traces its hooks, and the layer in the graph would run them once more",
                "Trace with a torch.fx.Tracer whose is_leaf_module is true for this layer, as it is for torch's", RuntimeError,
            )  # fmt: skip
        given = {name: value for name, value in options.items() if value is not None and value is not False}
        return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self) or "itself", (x,), given)

    def _as_torch(self, x: Tensor) -> Tensor:
        return self._activated(self._torch_forward(x), self._dims)

    def _activated(self, z: Tensor, dims: int) -> Tensor:
        """act(z), z [N, C, *sizes] or [C, *sizes] with `dims` sizes."""
        if self.alpha is None:
            return with_number(z, self.act, default_alpha(self.act))
        elif isinstance(self.alpha, Tensor):
            return with_tensor(z, self.act, self.alpha.to(z.dtype).view([-1] + [1] * dims))
        else:
            return with_number(z, self.act, float(self.alpha))

    def _upsampled(self, x: Tensor) -> Tensor:
        """x [N, C, *sizes] or [C, *sizes], nearest, by a layer's scale_factor."""
        scale: list[float] = []
        if isinstance(self.scale_factor, int):
            scale = [float(self.scale_factor)] * self._dims
        else:
            for factor in self.scale_factor:
                scale.append(float(factor))
            if len(scale) == 1:
                scale = scale * self._dims
        if x.dim() == self._dims + 1:
            return F.interpolate(x.unsqueeze(0), scale_factor=scale).squeeze(0)
        return F.interpolate(x, scale_factor=scale)


class Added(Activated):
    """A layer whose call takes a residual; `residual_first` and `factor` are constants of the layer."""

    _own: ClassVar[dict[str, object]] = Activated._own | {"residual_first": False, "factor": 1.0}
    residual_first: bool = False  # of a layer pickled before there were any
    factor: float = 1.0

    def _set_residual(self, residual_first: bool, factor: float) -> None:
        name = type(self).__name__
        if not isinstance(residual_first, bool):
            _checks.fail(name, f"residual_first is {residual_first!r}, wants a bool", error=TypeError)
        self.residual_first = residual_first
        self.factor = _checks.check_number(name, "factor", factor, "A factor that learns is a multiplication of its own")

    def extra_repr(self) -> str:
        said = super().extra_repr() + (", residual_first=True" if self.residual_first else "")
        return said + ("" if self.factor == 1 else f", factor={self.factor}")

    def _finished(self, z: Tensor, dims: int, residual: Tensor | None) -> Tensor:
        """The layer's end by torch's functions."""
        if residual is None:
            if self.residual_first or self.factor != 1:
                raise ValueError("the layer has a residual_first or a factor, but the call has no residual")
            return self._activated(z, dims)
        if self.residual_first:
            return self._activated(z + residual, dims) * self.factor
        return (self._activated(z, dims) + residual) * self.factor
