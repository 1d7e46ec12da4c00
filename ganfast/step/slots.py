"""Places that hold values, and the attribute chains in a function's bytecode that lead to them."""

import dis
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
MISSING = type("Missing", (), {"__repr__": lambda self: "nothing"})()
_KEEPS = ("CACHE", "COPY", "DUP_TOP", "EXTENDED_ARG", "NOP", "PUSH_NULL", "SWAP", "ROT_TWO")  # between a name and its attribute


class Attribute(str):
    """A slot's key that is looked up as an attribute, in the object or its class."""


class Slot(NamedTuple):
    """A place that holds a value: a dict's or list's item, an object's attribute, a closure's variable."""

    holder: Any
    key: Any
    name: str

    def place(self) -> tuple:
        return id(self.holder), self.key

    def get(self) -> Any:
        if isinstance(self.holder, types.CellType):
            return of_cell(self.holder)
        if isinstance(self.key, Attribute):
            return getattr(self.holder, self.key, MISSING)
        try:
            return self.holder[self.key]
        except (KeyError, IndexError):
            return MISSING

    def set(self, value: Any) -> None:
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        elif isinstance(self.key, Attribute):
            delattr(self.holder, self.key) if value is MISSING else setattr(self.holder, self.key, value)
        elif value is MISSING:
            del self.holder[self.key]
        else:
            self.holder[self.key] = value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or (type(a) is type(b) and isinstance(a, PLAIN) and a == b)


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


def holds_tensors(value: Any) -> bool:
    """A tensor, a nest of them, or none yet: what a graph can leave there."""
    leaves = [value] if value is MISSING else tree_leaves(value)
    return all(leaf is None or leaf is MISSING or isinstance(leaf, Tensor) for leaf in leaves)


def of_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is set later
        return MISSING


def chains(code: types.CodeType) -> Iterator[list[str]]:
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
        elif kind in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "STORE_ATTR"):
            chain = [*(chain or [""]), name]
            if kind == "STORE_ATTR":
                yield chain
                chain = []
        elif kind not in _KEEPS:
            yield from [chain] if chain else []
            chain = []
    if chain:
        yield chain
