"""What a step can get at from its closure, its object's attributes and the globals that its code names: networks, optimizers,
random generators, and the plain Python values whose change a graph would not notice.

Read off the bytecode: `self.opt.step()` leads to the object's `opt` and there to `step`, to nothing else of that name. Where the
beginning of such a chain is a local variable, its names are looked up in every object that the code hands around.
"""

import dis
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
_BY_SYNTAX = ("__call__", "__enter__", "__exit__", "__iter__", "__next__", "__getitem__", "__len__")
_KEEPS = ("CACHE", "COPY", "DUP_TOP", "EXTENDED_ARG", "NOP", "PUSH_NULL", "SWAP", "ROT_TWO")  # between a name and its attribute
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
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
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
        self._loose: set[str] = set(_BY_SYNTAX)  # attributes of values whose origin the code does not show
        self._objects: list[tuple[Any, str]] = []  # those are looked up in
        self._seen: dict[Any, Any] = {}
        for root in roots:
            self._visit(root, getattr(root, "__name__", type(root).__name__))
        known = -1
        while known < (known := len(self._loose) + len(self._seen)):
            for value, name in list(self._objects):
                for key in sorted(self._loose):
                    self._follow(value, (key,), name)

    def parameters(self) -> list[nn.Parameter]:
        """Of the modules, and those only optimizers know."""
        own = [p for m in self.modules for p in m._parameters.values() if p is not None]
        return list({id(p): p for p in (*own, *(p for o in self.optimizers for g in o.param_groups for p in g["params"]))}.values())

    def buffers(self) -> list[Tensor]:
        return list({id(b): b for m in self.modules for b in m._buffers.values() if b is not None}.values())

    def optimizer_tensors(self) -> list[Tensor]:
        states = [state for o in self.optimizers for state in o.state.values() if isinstance(state, dict)]
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    def _first_time(self, key: Any, value: Any) -> bool:
        if key in self._seen:
            return False
        self._seen[key] = value  # alive, so that its id stays its own
        return True

    def _visit(self, value: Any, name: str, slot: Slot | None = None) -> None:
        if isinstance(value, (*_PLAIN, Tensor)):
            if slot is not None and self._first_time(("slot", *slot.place()), slot.holder):
                self.slots.append(slot)
            return
        if not self._first_time(id(value), value):
            return
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
            self._function(value.__func__, name, value.__self__)
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
        elif not isinstance(value, (type, types.ModuleType)) and _is_theirs(type(value)):
            self._objects.append((value, name))

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
            self._follow(module, ("forward",), name)

    def _function(self, function: types.FunctionType, name: str, instance: Any = MISSING) -> None:
        """What its code names; `instance`: of whom it is a method."""
        if not isinstance(function, types.FunctionType) or not self._first_time((id(function), id(instance)), (function, instance)):
            return
        self._visit(getattr(function, "__wrapped__", None), name)
        if not _is_theirs(function):
            return
        code = function.__code__
        cells = {key: (_cell(cell), Slot(cell, None, key)) for key, cell in zip(code.co_freevars, function.__closure__ or ())}
        arguments = code.co_varnames[: code.co_argcount]
        known = dict(zip(reversed(arguments), reversed(function.__defaults__ or ()))) | (function.__kwdefaults__ or {})
        if instance is not MISSING and arguments:
            known[arguments[0]] = instance
        self._code(code, {key: (value, None) for key, value in known.items()} | cells, function.__globals__)

    def _code(self, code: types.CodeType, known: dict[str, tuple[Any, Slot | None]], names: dict[str, Any]) -> None:
        """`known`: values of its variables, with their places; `names`: the globals."""
        for first, *rest in _chains(code):
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
            is_module = isinstance(value, types.ModuleType)
            if isinstance(value, (torch.optim.Optimizer, type)) or not _is_theirs(value if is_module else type(value)):
                break
            held = vars(value) if hasattr(value, "__dict__") else {}
            if isinstance(value, nn.Module) and key not in held:
                held = next((d for d in (value._modules, value._parameters, value._buffers) if key in d), {})
            name = f"{name}.{key}"
            if key in held:
                value, slot = held[key], Slot(held, key, name)
                continue
            found = MISSING if is_module else next((vars(cls)[key] for cls in type(value).__mro__ if key in vars(cls)), MISSING)
            if isinstance(found, (property, functools.cached_property)):
                self._loose.update(keys[i + 1 :])
                found = found.fget if isinstance(found, property) else found.func
            return self._function(found, name, value)
        self._visit(value, name, slot)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is set later
        return MISSING


def _chains(code: types.CodeType) -> Iterator[list[str]]:
    """["self", "opt", "step"] for `self.opt.step`: a variable and the attributes that are taken, or set, from there on; a chain that
    begins elsewhere (`f(x).y`) begins with ""."""
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        kind, name = instruction.opname, instruction.argval
        if kind.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")):
            *before, last = name if isinstance(name, tuple) else (name,)
            yield from ([other] for other in before)
            yield from [chain] if chain else []
            chain = [last]
        elif kind in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"):
            chain = [*(chain or [""]), name]
            if kind == "STORE_ATTR":
                yield chain
                chain = []
        elif kind not in _KEEPS:
            yield from [chain] if chain else []
            chain = []
    if chain:
        yield chain


def _is_theirs(value: Any) -> bool:
    """Whether a class, function or Python module is a user's own (or ganfast's loop)."""
    home = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None) or ""
    return home.partition(".")[0] not in _LIBRARIES and not home.startswith(_OURS)
