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
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class NotStraight(Exception):
    """Why a forward may not be replaced by its trace; the text goes into `explain`."""


def fingerprint(value: object) -> object:
    """What must be equal at the next call; raises NotStraight for what cannot be compared."""
    if isinstance(value, nn.Module):
        return ("layers", tuple(value._modules)) if isinstance(value, CONTAINERS) else "module"
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, _CONSTANTS):
        return (type(value), value)
    if is_function(value):
        return value
    if isinstance(value, (list, tuple)):
        return (type(value), tuple(fingerprint(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, fingerprint(v)) for k, v in value.items())
    raise NotStraight(f"it reads a {type(value).__name__}, which may change")


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


def named_layers(module: nn.Module, pattern: str) -> tuple[str, ...]:
    """The layers whose names match; raises NotStraight where something else of the module's does."""
    names = {*module.__dict__, *module._parameters, *module._buffers, *dir(type(module))}
    if any(re.fullmatch(pattern, name) for name in names):
        raise NotStraight(f"a name like {pattern} may be another attribute's")
    return tuple(name for name, layer in module._modules.items() if layer is not None and re.fullmatch(pattern, name))
