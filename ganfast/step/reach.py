"""What a step can get at from its closure, its object's attributes and the globals that its code names: networks, optimizers,
random generators, and the plain Python values whose change a graph would not notice."""

import functools
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# What is written there holds no state of a step; objects made from their classes are not looked into.
_LIBRARIES = frozenset(sys.stdlib_module_names) - {"__main__"} | {"torch", "numpy", "tqdm"}
_OURS = ("ganfast.ops", "ganfast.nn", "ganfast._")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_MOST = 1000  # items of a list or dict that are looked at
MISSING = object()


class Slot(NamedTuple):
    """A place that holds a value: a dict's or list's item, an object's attribute, a closure's variable."""

    holder: Any
    key: Any
    name: str

    def place(self) -> tuple:
        return id(self.holder), self.key

    def get(self) -> Any:
        if isinstance(self.holder, types.CellType):
            return _cell(self.holder)
        try:
            return self.holder[self.key]
        except (KeyError, IndexError):
            return MISSING

    def set(self, value: Any) -> None:
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        else:
            self.holder[self.key] = value


def same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b)


class Reached:
    """Fields: modules, optimizers, scalers, generators, each once and all levels of modules; slots: where plain values, tensors and
    children lie; lists: containers whose length is looked at."""

    def __init__(self, *roots: Any) -> None:
        self.modules: list[nn.Module] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.scalers: list[torch.amp.GradScaler] = []
        self.generators: list[torch.Generator] = []
        self.slots: list[Slot] = []
        self.lists: list[tuple[Any, str]] = []
        self._names: set[str] = set()  # every name that a code reached so far mentions
        self._objects: list[tuple[Any, str]] = []  # looked at again whenever names were added
        self._seen: dict[int, Any] = {}
        for root in roots:
            self._visit(root, getattr(root, "__name__", type(root).__name__))
        known = -1
        while known < len(self._names) + len(self._seen):
            known = len(self._names) + len(self._seen)
            for value, name in list(self._objects):
                self._attributes(value, name)

    def parameters(self) -> list[nn.Parameter]:
        """Of the modules, and those only optimizers know."""
        own = [p for m in self.modules for p in m._parameters.values() if p is not None]
        return list({id(p): p for p in (*own, *(p for o in self.optimizers for g in o.param_groups for p in g["params"]))}.values())

    def buffers(self) -> list[Tensor]:
        return list({id(b): b for m in self.modules for b in m._buffers.values() if b is not None}.values())

    def optimizer_tensors(self) -> list[Tensor]:
        states = [state for o in self.optimizers for state in o.state.values() if isinstance(state, dict)]
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    def _visit(self, value: Any, name: str, slot: Slot | None = None) -> None:
        if isinstance(value, (*_PLAIN, Tensor)):
            if slot is not None:
                self.slots.append(slot)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            self._module(value, name)
        elif isinstance(value, torch.optim.Optimizer):
            self.optimizers.append(value)
        elif isinstance(value, torch.amp.GradScaler):
            self.scalers.append(value)
        elif isinstance(value, torch.Generator):
            self.generators.append(value)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(part, name)
        elif isinstance(value, types.MethodType):
            self._visit(value.__func__, name)
            self._visit(value.__self__, "self")
        elif isinstance(value, types.FunctionType):
            self._function(value, name)
        elif hasattr(type(value), "reached_through"):  # another captured step
            self._visit(value.reached_through(), name)
        elif isinstance(value, (dict, list)):
            if len(value) <= _MOST:
                self.lists.append((value, name))
                for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                    self._visit(item, f"{name}[{key!r}]", Slot(value, key, f"{name}[{key!r}]"))
        elif isinstance(value, (tuple, set, frozenset)):
            for i, item in enumerate(value if len(value) <= _MOST else ()):
                self._visit(item, f"{name}[{i}]")
        elif not isinstance(value, type) and _is_theirs(value if isinstance(value, types.ModuleType) else type(value)):
            self._objects.append((value, name))
            if not isinstance(value, types.ModuleType):
                self._method(value, "__call__", name)

    def _module(self, module: nn.Module, name: str) -> None:
        self.modules.append(module)
        for kind in ("_parameters", "_buffers", "_modules"):
            for key, value in getattr(module, kind).items():
                slot = Slot(getattr(module, kind), key, f"{name}.{key}")
                self.slots.append(slot)
                if isinstance(value, nn.Module):
                    self._visit(value, slot.name)
        self.slots.append(Slot(module.__dict__, "training", f"{name}.training"))
        if _is_theirs(type(module)):  # torch's own layers keep to their options
            for key, value in list(module.__dict__.items()):
                if not key.startswith("_") and key != "training":
                    self._visit(value, f"{name}.{key}", Slot(module.__dict__, key, f"{name}.{key}"))

    def _function(self, function: types.FunctionType, name: str) -> None:
        for cell_name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if (value := _cell(cell)) is not MISSING:
                self._visit(value, cell_name, Slot(cell, None, cell_name))
        self._visit(function.__defaults__, name)
        self._visit(function.__kwdefaults__, name)
        self._visit(getattr(function, "__wrapped__", None), name)
        if not _is_theirs(function):
            return
        for code in _codes(function.__code__):
            self._names.update(code.co_names)
            for key in code.co_names:
                if (value := function.__globals__.get(key, MISSING)) is not MISSING:
                    self._visit(value, key, Slot(function.__globals__, key, key))

    def _attributes(self, value: Any, name: str) -> None:
        """What the code names of the object; other attributes may change as they like."""
        held = vars(value) if hasattr(value, "__dict__") else {}
        names = frozenset(self._names)
        for key in names & held.keys():
            if (id(held), key) not in self._seen:
                self._seen[id(held), key] = held
                self._visit(held[key], f"{name}.{key}", Slot(held, key, f"{name}.{key}"))
        if not isinstance(value, types.ModuleType):
            for key in names:
                self._method(value, key, name)

    def _method(self, value: Any, key: str, name: str) -> None:
        for cls in type(value).__mro__:
            found = vars(cls).get(key)
            found = found.fget if isinstance(found, property) else found
            if isinstance(found, types.FunctionType):
                return self._visit(found, f"{name}.{key}")


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is set later
        return MISSING


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_theirs(value: Any) -> bool:
    """Whether a class, function or Python module is a user's own (or ganfast's loop)."""
    home = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None) or ""
    return home.partition(".")[0] not in _LIBRARIES and not home.startswith(_OURS)
