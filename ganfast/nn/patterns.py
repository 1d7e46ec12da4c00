"""What a chain is made of: the torch modules and functions that ganfast's ops can stand for, and how to read them."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

CONVS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
CONV_TRANSPOSES = {nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3}
BATCH_NORMS = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
INSTANCE_NORMS = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}
UPSAMPLES = (nn.Upsample, nn.UpsamplingNearest2d)
_DIMS = CONVS | CONV_TRANSPOSES | BATCH_NORMS | INSTANCE_NORMS

# An activation module -> (ganfast's name, alpha), read anew at every call; None where its options have no kernel.
Reading = tuple[str, float | Tensor | None] | None
_ACTIVATIONS: dict[type, Callable[[nn.Module], Reading]] = {
    nn.ReLU: lambda m: ("relu", None),
    nn.LeakyReLU: lambda m: ("leaky_relu", m.negative_slope),
    nn.PReLU: lambda m: ("prelu", m.weight),
    nn.Tanh: lambda m: ("tanh", None),
    nn.Sigmoid: lambda m: ("sigmoid", None),
    nn.ELU: lambda m: ("elu", m.alpha),
    nn.SELU: lambda m: ("selu", None),
    nn.Softplus: lambda m: ("softplus", m.beta) if m.threshold == 20 and m.beta > 0 else None,
    nn.SiLU: lambda m: ("silu", None),
    nn.GELU: lambda m: ("gelu", None) if m.approximate == "none" else None,
}
LAYERS = tuple(_DIMS)
_KINDS = (*_DIMS, *UPSAMPLES, *_ACTIVATIONS)
_METHODS = ("forward", "__call__", "_conv_forward", "_output_padding", "_check_input_dim", "_apply_instance_norm")


def kind(module: nn.Module) -> type | None:
    """The torch class whose arithmetic the module has: its own class, or that of a subclass that changes no method of it (a
    subclass with another __init__, a parametrized one). None for everything else."""
    cls = getattr(type(module), "_ganfast_class", type(module))
    for base in _KINDS:
        if isinstance(module, base):
            same = all(getattr(cls, name, None) is getattr(base, name, None) for name in _METHODS)
            return base if same and "forward" not in module.__dict__ else None
    return None


def hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def makes_weight(module: nn.Module) -> bool:
    """True where the only hooks are torch's older weight_norm and spectral_norm, which set `weight` before each forward."""
    if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    return all(isinstance(hook, (WeightNorm, SpectralNorm)) for hook in module._forward_pre_hooks.values())


class Member(NamedTuple):
    """One place of a chain: a module by its path from the container, or a function that the container's forward calls."""

    role: str  # upsample, conv, norm, act
    label: str  # the path, or the function's name with ()
    path: tuple[str, ...] | None  # None for a function; () for the container itself
    base: type | None  # the torch class whose arithmetic it has
    read: Callable | None = None  # act: module -> Reading; upsample: module or None -> scale factors
    call: Callable | None = None  # a function: (x, *extra) -> y, as the user wrote it
    extra: int = 0  # how many tensors besides x the call takes


def _integer_scale(factor, dims: int) -> tuple[int, ...] | None:
    factors = factor if isinstance(factor, (tuple, list)) else (factor,) * dims
    whole = all(isinstance(f, (int, float)) and not isinstance(f, bool) and f == int(f) and f >= 1 for f in factors)
    return tuple(int(f) for f in factors) if whole and len(factors) == dims else None


def upsample_scale(module: nn.Module, dims: int) -> tuple[int, ...] | None:
    """The factors of a nearest upsampling by whole numbers, for so many spatial dimensions; None for any other."""
    if module.size is not None or module.scale_factor is None or module.mode not in ("nearest", "nearest-exact"):
        return None
    return _integer_scale(module.scale_factor, dims)


def why_not(module: nn.Module) -> str:
    """Why a conv, norm, upsampling or activation of a known class has no kernel as it is set up; empty where it has one."""
    base = kind(module)
    if base is None:
        known = next((b for b in _KINDS if isinstance(module, b)), None)
        if known is not None:
            return f"a {known.__name__} with methods of its own ({type(module).__module__.split('.')[0]}.{type(module).__name__})"
        return f"no kernel for {type(module).__name__}"
    if any(isinstance(p, nn.parameter.UninitializedTensorMixin) for p in module._parameters.values()):
        return "a lazy module that has not seen its first input"
    if base in INSTANCE_NORMS and module.running_mean is not None:
        return "an instance norm that tracks running statistics"
    if base in UPSAMPLES and all(upsample_scale(module, dims) is None for dims in (1, 2, 3)):
        return f"an upsampling that is not nearest by whole factors ({module.extra_repr()})"
    if base in _ACTIVATIONS and _ACTIVATIONS[base](module) is None:
        return f"{base.__name__}({module.extra_repr()}) is not the kernels' {base.__name__}"
    return ""


def member(module: nn.Module, path: tuple[str, ...], snake: Callable | None = None) -> Member | None:
    """The module as a part of a chain, or None. `snake`: how to read alpha, for a module found to compute snake."""
    label = ".".join(path)
    if snake is not None:
        return Member("act", label, path, None, snake)
    base = kind(module)
    if base is None or why_not(module):
        return None
    if base in _DIMS:
        return Member("norm" if base in BATCH_NORMS or base in INSTANCE_NORMS else "conv", label, path, base)
    if base in _ACTIVATIONS:
        return Member("act", label, path, base, _ACTIVATIONS[base])
    return Member("upsample", label, path, base, upsample_scale)


def dims(member: Member) -> int | None:
    return _DIMS.get(member.base)


def upsamples_into(up: nn.Module | tuple[int, ...], conv: nn.Module) -> bool:
    """Whether upsample_conv_act computes conv(up(x)); `up` a module or the factors."""
    base = kind(conv)
    if base not in CONVS or padding(conv) is None or any(v != 1 for v in (*conv.stride, *conv.dilation)):
        return False
    scale = up if isinstance(up, tuple) else upsample_scale(up, CONVS[base])
    return scale is not None and len(scale) == CONVS[base] and all(p < k for p, k in zip(padding(conv), conv.kernel_size))


def padding(conv: nn.Module) -> tuple[int, ...] | None:
    """A convolution's zeros on either side, as numbers; None where they are not zeros, or more on one side."""
    if conv.padding_mode != "zeros":
        return None
    if conv.padding == "valid":
        return (0,) * len(conv.kernel_size)
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
        return None if any(t % 2 for t in total) else tuple(t // 2 for t in total)
    return conv.padding


# torch's activations whose backward uses their output; the others keep their input unless they work in place.
_OUTPUT_SAVED = (nn.ReLU, nn.Tanh, nn.Sigmoid)
SAVE_THEIR_OUTPUT = ("relu()", "relu_()", "tanh()", "tanh_()", "sigmoid()", "sigmoid_()", "leaky_relu_()", "elu_()", "selu_()")


def keeps_its_input(activation: nn.Module) -> bool:
    return not isinstance(activation, _OUTPUT_SAVED) and not getattr(activation, "inplace", False)


# Functions and methods that are activations: name -> (ganfast's name, the argument that is alpha, its default).
FUNCTIONS = {
    "relu": ("relu", None, None),
    "relu_": ("relu", None, None),
    "leaky_relu": ("leaky_relu", "negative_slope", 0.01),
    "leaky_relu_": ("leaky_relu", "negative_slope", 0.01),
    "prelu": ("prelu", "weight", None),
    "tanh": ("tanh", None, None),
    "tanh_": ("tanh", None, None),
    "sigmoid": ("sigmoid", None, None),
    "sigmoid_": ("sigmoid", None, None),
    "elu": ("elu", "alpha", 1.0),
    "elu_": ("elu", "alpha", 1.0),
    "selu": ("selu", None, None),
    "selu_": ("selu", None, None),
    "softplus": ("softplus", "beta", 1.0),
    "silu": ("silu", None, None),
    "gelu": ("gelu", None, None),
}
_ORDER = {  # what may come after x by position
    "relu": ("inplace",),
    "leaky_relu": ("negative_slope", "inplace"),
    "leaky_relu_": ("negative_slope",),
    "prelu": ("weight",),
    "elu": ("alpha", "inplace"),
    "elu_": ("alpha",),
    "selu": ("inplace",),
    "softplus": ("beta", "threshold"),
    "silu": ("inplace",),
}
_HOMES = (torch, F, torch.special, torch._C._nn)


def _function_name(target) -> str | None:
    name = getattr(target, "__name__", "")
    return name if any(getattr(home, name, None) is target for home in _HOMES) else None


def function_activation(target, args: tuple, kwargs: dict) -> tuple[str, str, object] | None:
    """(function's name, ganfast's name, alpha) for a call of an activation on `args[0]`, a method's name or a function as `target`;
    alpha a number, or whatever stands for a tensor in the arguments. None for anything else."""
    name = target if isinstance(target, str) else _function_name(target)
    if name not in FUNCTIONS:
        return None
    act, alpha_name, default = FUNCTIONS[name]
    given = dict(zip(_ORDER.get(name, ()), args[1:])) | kwargs
    given.pop("inplace", None)  # nobody else sees the value that would be overwritten
    if len(args) - 1 > len(_ORDER.get(name, ())):
        return None
    alpha = given.pop(alpha_name, default) if alpha_name else None
    if given.pop("threshold", 20) != 20 or given.pop("approximate", "none") != "none" or given:
        return None
    if act == "prelu":
        return (name, act, alpha) if alpha is not None and not isinstance(alpha, (int, float)) else None
    if alpha_name and (isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or (act == "softplus" and alpha <= 0)):
        return None
    return name, act, alpha


def function_scale(target, args: tuple, kwargs: dict) -> Callable[[int], tuple[int, ...] | None] | None:
    """For a call of F.interpolate that is a nearest upsampling: dims -> its factors. None for anything else."""
    if target is not F.interpolate:
        return None
    bound = inspect.signature(F.interpolate).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    factor = given["scale_factor"]
    if given["size"] is not None or given["mode"] not in ("nearest", "nearest-exact") or not isinstance(factor, (int, float, tuple, list)):
        return None
    return lambda dims: _integer_scale(factor, dims)
