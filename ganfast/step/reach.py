"""What a step can get at from its closure, its object's attributes and the globals that its code names: networks, optimizers,
random generators, and the values and objects whose change a graph would not notice.

Read off the bytecode: `self.opt.step()` leads to the object's `opt` and there to `step`, to nothing else of that name. Where the
beginning of such a chain is a local variable, its names are looked up in every object that the code hands around. What is found in
other ways (getattr, registries) shows when the step is tried: `Running`.
"""

import argparse
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ganfast.step.slots import MISSING, PLAIN, Attribute, Slot, chains, of_cell

_LIBRARIES = frozenset(sys.stdlib_module_names) - {"__main__"} | {"torch"}
_OURS = ("ganfast.ops", "ganfast.nn", "ganfast.dropin", "ganfast._")
_MOST = 1000  # items of a list or dict that are looked at
_BY_SYNTAX = ("__call__", "__enter__", "__exit__", "__iter__", "__next__", "__getitem__", "__len__")
_TORCHS = (torch.optim.Optimizer, LRScheduler, torch.amp.GradScaler, torch.Generator)
_RANDOM = (("random", "Random"), ("random", "SystemRandom"), ("numpy", "RandomState"), ("numpy", "Generator"))
_TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Reached:
    """Fields: modules, optimizers, schedulers, scalers, generators, iterators (and generators of
    the host's random numbers), each once and all levels of modules; slots: where values lie; lists: containers whose length matters."""

    def __init__(self, *roots: Any) -> None:
        self.modules: list[nn.Module] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedulers: list[LRScheduler] = []
        self.scalers: list[torch.amp.GradScaler] = []
        self.generators: list[torch.Generator] = []
        self.iterators: list[tuple[Iterator, str]] = []
        self.slots: list[Slot] = []
        self.lists: list[tuple[Any, str]] = []
        self._loose: set[str] = set(_BY_SYNTAX)  # attributes of values whose origin the code does not show
        self._objects: list[tuple[Any, str]] = []  # those are looked up in
        self._seen: dict[Any, Any] = {}
        step = roots[0] if callable(roots[0]) else None
        step = step.func if isinstance(step, functools.partial) else step
        self._home = _root(step if isinstance(step, (types.FunctionType, types.MethodType)) else type(step))  # installed or not
        for root in roots:
            self._visit(root, getattr(root, "__name__", type(root).__name__))
        known = -1
        while known < (known := len(self._loose) + len(self._seen)):
            for value, name in list(self._objects):
                for key in sorted(self._loose):
                    if key in getattr(value, "__dict__", ()) or any(key in vars(cls) for cls in type(value).__mro__):
                        self._follow(value, (key,), name)

    def parameters(self) -> list[nn.Parameter]:
        """Of the modules, and those only optimizers know."""
        own = [p for m in self.modules for p in m._parameters.values() if p is not None]
        return list({id(p): p for p in (*own, *(p for o in self.optimizers for g in o.param_groups for p in g["params"]))}.values())

    def buffers(self) -> list[Tensor]:
        return list({id(b): b for m in self.modules for b in m._buffers.values() if b is not None}.values())

    def _is_theirs(self, value: Any) -> bool:
        """Whether a class, function or Python module is a user's own (or ganfast's loop)."""
        if isinstance(value, type) and issubclass(value, (types.SimpleNamespace, argparse.Namespace)):
            return True
        root = _root(value)
        return root == self._home or not _is_library(root)

    def _first_time(self, key: Any, value: Any) -> bool:
        if key in self._seen:
            return False
        self._seen[key] = value  # alive, so that its id stays its own
        return True

    def _note(self, slot: Slot | None) -> None:
        if slot is not None and self._first_time(("slot", *slot.place()), slot.holder):
            self.slots.append(slot)

    def _visit(self, value: Any, name: str, slot: Slot | None = None) -> None:
        self._note(slot)
        if isinstance(value, (*PLAIN, Tensor)) or value is MISSING or not self._first_time(id(value), value):
            return
        if isinstance(value, nn.Module):
            self._module(value, name)
        elif isinstance(value, _TORCHS):
            kinds = (self.optimizers, self.schedulers, self.scalers, self.generators)
            next(found for kind, found in zip(_TORCHS, kinds) if isinstance(value, kind)).append(value)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(part, name)
        elif isinstance(value, types.MethodType):
            if isinstance(value.__self__, (nn.Module, *_TORCHS)):
                self._visit(value.__self__, name)
            self._function(value.__func__, name, value.__self__)
        elif isinstance(value, types.BuiltinMethodType):
            self._visit(value.__self__, name)
        elif isinstance(value, types.FunctionType):
            self._function(value, name)
        elif hasattr(type(value), "reached_through"):  # another captured step
            self._visit(value.reached_through(), name)
        elif isinstance(value, (dict, list, deque)):
            self.lists.append((value, name))
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value))[:_MOST]:
                self._visit(item, f"{name}[{key!r}]", Slot(value, key, f"{name}[{key!r}]"))
        elif isinstance(value, (tuple, set, frozenset)):
            for i, item in enumerate(value if len(value) <= _MOST else ()):
                self._visit(item, f"{name}[{i}]")
        elif isinstance(value, Iterator) or (type(value).__module__.partition(".")[0], type(value).__name__) in _RANDOM:
            self.iterators.append((value, name))
        elif not isinstance(value, (type, types.ModuleType)) and self._is_theirs(type(value)):
            self._objects.append((value, name))

    def _module(self, module: nn.Module, name: str) -> None:
        self.modules.append(module)
        for kind in _TABLES:
            table = getattr(module, kind)
            self.lists.append((table, f"{name}.{kind}"))
            for key, value in table.items() if kind in _TABLES[:3] else ():
                self._visit(value, f"{name}.{key}", Slot(table, key, f"{name}.{key}"))
        theirs = self._is_theirs(type(module))
        for key, value in list(module.__dict__.items()):  # a layer of torch's reads its options: momentum, p, slope
            if key == "training" or (not theirs and type(value) in (bool, float) and not key.startswith("_")):
                self._note(Slot(module.__dict__, key, f"{name}.{key}"))
        if theirs:
            self._follow(module, ("forward",), name)

    def _function(self, function: Any, name: str, instance: Any = MISSING) -> None:
        """What its code names; `instance`: of whom it is a method."""
        if not isinstance(function, types.FunctionType) or not self._first_time((id(function), id(instance)), (function, instance)):
            return
        self._function(getattr(function, "__wrapped__", None), name, instance)
        code = function.__code__
        cells = {key: (of_cell(cell), Slot(cell, None, key)) for key, cell in zip(code.co_freevars, function.__closure__ or ())}
        if not self._is_theirs(function):
            for value, slot in cells.values():  # a decorator's
                self._visit(value, slot.name)
            return
        arguments = code.co_varnames[: code.co_argcount]
        known = dict(zip(reversed(arguments), reversed(function.__defaults__ or ()))) | (function.__kwdefaults__ or {})
        if instance is not MISSING and arguments:
            known[arguments[0]] = instance
            if "super" in code.co_names and not isinstance(instance, type):  # whose parents' methods the chain does not show
                self._objects.append((instance, arguments[0]))
        self._code(code, {key: (value, None) for key, value in known.items()} | cells, function.__globals__)

    def _code(self, code: types.CodeType, known: dict[str, tuple[Any, Slot | None]], names: dict[str, Any]) -> None:
        """`known`: values of its variables, with their places; `names`: the globals."""
        for first, *rest in chains(code):
            value, slot = known.get(first, (MISSING, None))
            if value is MISSING and first not in code.co_varnames and first in names:
                value, slot = names[first], Slot(names, first, first)
            if value is MISSING:
                self._loose.update(rest)
            elif rest:
                self._follow(value, rest, first, slot)
            else:
                self._visit(value, first, slot)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, known, names)

    def _follow(self, value: Any, keys: tuple[str, ...] | list[str], name: str, slot: Slot | None = None) -> None:
        """From the value along attributes, to where they end or torch begins."""
        for i, key in enumerate(keys):
            if isinstance(value, nn.Module):
                self._visit(value, name)
            is_module, is_class = isinstance(value, types.ModuleType), isinstance(value, type)
            if isinstance(value, (*PLAIN, *_TORCHS)) or not self._is_theirs(value if is_module or is_class else type(value)):
                break
            self._note(slot)
            name = f"{name}.{key}"
            held = vars(value) if is_module or (not is_class and hasattr(value, "__dict__")) else {}
            if isinstance(value, nn.Module) and key not in held:
                held = next((d for d in (value._modules, value._parameters, value._buffers) if key in d), {})
            if key in held:
                value, slot = held[key], Slot(held, key, name)
                continue
            classes = value.__mro__ if is_class else () if is_module else type(value).__mro__
            found = [vars(cls)[key] for cls in classes if key in vars(cls)]
            if found and isinstance(found[0], (property, functools.cached_property)):
                self._loose.update(keys[i + 1 :])
                found = [
                    f.fget if isinstance(f, property) else f.func for f in found if isinstance(f, (property, functools.cached_property))
                ]
            if any(isinstance(f, (types.FunctionType, staticmethod, classmethod)) for f in found):
                owner = value if is_class else type(value)
                for function in found:  # a parent's as well, which super() leads to
                    instance = {staticmethod: MISSING, classmethod: owner}.get(type(function), MISSING if is_class else value)
                    self._function(getattr(function, "__func__", function), name, instance)
                return
            slot = Slot(value, Attribute(key), name)  # the class's, __slots__', a field of a named tuple, or not there yet
            value = slot.get()
        self._visit(value, name, slot)


class Running:
    """Networks and optimizers that run inside, however the step gets at them; `known` are left out. Told as they begin."""

    def __init__(self, known: Reached, on_module, on_optimizer) -> None:
        self.found: list[Any] = []
        self._seen = {id(v) for v in (*known.modules, *known.optimizers)}
        self._on = on_module, on_optimizer

    def __enter__(self) -> "Running":
        module = lambda module, _: self._tell(module, self._on[0]) if module._parameters or module._buffers else None
        optimizer = lambda optimizer, *_: self._tell(optimizer, self._on[1])
        self._handles = nn.modules.module.register_module_forward_pre_hook(module), register_optimizer_step_pre_hook(optimizer)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _tell(self, value: Any, told) -> None:
        if id(value) not in self._seen:
            self._seen.add(id(value))
            self.found.append(value)
            told(value)


def _root(value: Any) -> str:
    """The package of a class, function or Python module."""
    home = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None) or ""
    return home if home.startswith(_OURS) else home.partition(".")[0]


@functools.cache
def _is_library(root: str) -> bool:
    """Whether no state of a user's step is to be expected there: Python's own, torch, ganfast's layers, and what lies among the
    installed packages."""
    if root in _LIBRARIES or root.startswith(_OURS):
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root != "ganfast" and ("site-packages" in file or "dist-packages" in file)
