"""What a forward may read from outside its arguments: values that can be compared at the next call, and functions that leave a trace."""

import functools
import re
import types

import torch
import torch.nn.functional as F
import torch.overrides
from torch import Tensor, nn

from ganfast.nn import patterns

_CONSTANTS = (int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.memory_format, torch.Size)
MISSING = "missing"
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList, nn.ParameterDict)
_LOOKS_INSIDE = ("__iter__", "__getitem__", "__len__", "__bool__", "__contains__", "keys", "values", "items", "children")


class NotStraight(Exception):
    """Why a forward may not be replaced by its trace; the text goes into `explain`."""


def is_constant(value: object) -> bool:
    return isinstance(value, _CONSTANTS)


def is_fixed(value: object) -> bool:
    """A constant, or a tuple of nothing else."""
    return is_constant(value) or (type(value) is tuple and all(map(is_fixed, value)))


def holds_constants(value: object) -> bool:
    """Whether all that a loop over it, or a subscript, can give is a constant or a tensor."""
    if isinstance(value, (nn.ParameterList, nn.ParameterDict)):
        return True
    return isinstance(value, (list, tuple, dict)) and all(map(is_fixed, value.values() if isinstance(value, dict) else value))


def constant_key(value: object) -> tuple:
    """Tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    return (type(value), value or repr(value))


def fingerprint(value: object) -> object:
    """What must be equal at the next call; raises NotStraight for what cannot be compared."""
    if isinstance(value, nn.Module):
        return _layers(value)
    if isinstance(value, Tensor):
        return "tensor"
    if is_constant(value):
        return constant_key(value)
    if is_function(value):
        return value
    for base in (list, tuple, dict):
        if isinstance(value, base) and all(getattr(type(value), n, None) is getattr(base, n, None) for n in _LOOKS_INSIDE):
            parts = [part for pair in value.items() for part in pair] if base is dict else value
            return (type(value), tuple(_inner(part) for part in parts))
    raise NotStraight(f"it reads a {type(value).__name__}, which may change")


def check_functions(value: object) -> None:
    """Functions out of a list are called by no name that their source could be found under, so they must be torch's."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        if is_function(part) and part not in traceable():
            raise NotStraight(f"it reads the function {part.__name__} from a container")
        check_functions(part)


def _inner(value: object) -> object:
    if isinstance(value, (nn.Module, Tensor)):
        raise NotStraight(f"it reads a {type(value).__name__} from a container that torch does not know")
    return fingerprint(value)


_KNOWN: dict[type, type | None] = {}  # torch.compile warns of functools.cache


def _container(cls: type) -> type | None:
    """Which of torch's containers the class loops over its layers as, nn.Module for none; None where it has a way of its own."""
    base = next((base for base in CONTAINERS if issubclass(cls, base)), nn.Module)
    own = any(getattr(cls, name, None) is not getattr(base, name, None) for name in _LOOKS_INSIDE)
    return None if own else base


def _layers(module: nn.Module) -> object:
    """A layer that may be looped over or looked into: by the names in it, as deep as torch's containers go."""
    cls = type(module)
    if cls not in _KNOWN:
        _KNOWN[cls] = _container(cls)
    base = _KNOWN[cls]
    if base is None:
        raise NotStraight(f"it reads a {type(module).__name__}, a container of its own kind")
    if base is nn.Module:
        return "module"
    if base in (nn.ParameterList, nn.ParameterDict):
        names = range(len(module)) if base is nn.ParameterList else module.keys()
        values = module.values() if base is nn.ParameterDict else module
        if not all(isinstance(value, Tensor) for value in values):
            raise NotStraight(f"it reads a {type(module).__name__} with more than tensors in it")
        return (base, tuple(names))
    return (base, tuple((name, None if layer is None else _layers(layer)) for name, layer in module._modules.items()))


@functools.cache
def traceable() -> frozenset:
    """torch's functions that a stand-in for a tensor can follow; no factory, no query of a global mode is among them."""
    found = {f for functions in torch.overrides.get_overridable_functions().values() for f in functions}
    found |= {getattr(torch._C._VariableFunctions, name) for name in dir(torch._C._VariableFunctions) if name.endswith("_like")}
    return frozenset(found | {getattr(F, name) for name in patterns.FUNCTIONS if hasattr(F, name)})


def is_function(value: object) -> bool:
    """A function, and no method of an object."""
    builtin = isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, (types.ModuleType, type, type(None)))
    return builtin or isinstance(value, types.FunctionType)


def named_layers(module: nn.Module, pattern: str) -> tuple[tuple[str, object], ...]:
    """The layers whose names match, with what is in them; raises NotStraight where something else of the module's does."""
    names = {*module.__dict__, *module._parameters, *module._buffers, *dir(type(module))}
    if any(re.fullmatch(pattern, name) for name in names):
        raise NotStraight(f"a name like {pattern} may be another attribute's")
    found = ((name, layer) for name, layer in module._modules.items() if layer is not None and re.fullmatch(pattern, name))
    return tuple((name, _layers(layer)) for name, layer in found)
