"""A Sequential layer by layer, for those that dynamo cannot take whole."""

import functools
import types
from typing import Any

from torch import nn


def runs_in_order(module: nn.Module) -> bool:
    """Whether a module is a Sequential as torch has it, whose own call nobody watches."""
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and "forward" not in module.__dict__
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return plain and type(module).__iter__ is nn.Sequential.__iter__ and not any(hooks)


@functools.cache
def in_order(count: int) -> types.FunctionType:
    """A call of so many layers, one a line. Dynamo goes on after a line that it cannot follow, but not in the middle of Sequential's loop,
    where all layers would run one by one."""
    names = [f"layer_{i}" for i in range(count)]
    lines = ["(x,) = args", f"({''.join(f'{name}, ' for name in names)}) = module._modules.values()", *(f"x = {name}(x)" for name in names)]
    source = "\n    ".join(["def _call_in_order(module, args, kwargs):", *lines, "return x"])
    space: dict[str, Any] = {}
    exec(compile(source, __file__, "exec"), space)
    return space["_call_in_order"]
