"""What a local variable or an expression of a forward may stand for: a value that the call computed, or something that the module
(or the file) keeps, such as a layer out of a list. The latter's attributes are read by no path that could be compared later.
"""

import ast
import builtins
import inspect
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganfast.nn.fingerprints import MISSING, holds_constants, is_fixed

_REGROUP = ("zip", "enumerate", "reversed", "list", "tuple", "dict")
_CHILDREN = ("items", "values", "keys", "children")


def attribute_path(node: ast.AST) -> list[str] | None:
    """["self", "a", "b"] for self.a.b, ["F", "relu"] for F.relu; None where the chain starts at an expression."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else None


def has_code(owner: object, name: str) -> bool:
    """Whether reading the attribute runs code of its own: a property, a parametrized weight, a __getattr__."""
    cls = type(owner)
    if isinstance(owner, types.ModuleType):
        return False
    if cls.__getattribute__ not in (object.__getattribute__, type.__getattribute__) and not isinstance(owner, Tensor):
        return cls.__module__ != "builtins"
    if getattr(cls, "__getattr__", None) not in (None, nn.Module.__getattr__):
        return True
    held = inspect.getattr_static(cls, name, None)
    return hasattr(held, "__set__") or (hasattr(held, "__get__") and not isinstance(held, Callable | staticmethod | classmethod))


def outside_space(function: types.FunctionType, name: str) -> dict:
    closure = inspect.getclosurevars(function).nonlocals
    return closure if name in closure else function.__globals__


class Reach:
    """`kept(expression)`: whether it may be something that the module keeps, and no tensor or constant. Found by following every
    assignment until no local is added; the result of a call counts as computed."""

    def __init__(self, module: nn.Module, function: types.FunctionType, definition: ast.FunctionDef, own: str | None, names: set[str]):
        self.module, self.function, self.own, self.names = module, function, own, names
        self.locals: set[str] = set()
        before = None
        while before != len(self.locals):
            before = len(self.locals)
            for node in ast.walk(definition):
                self._follow(node)

    def _follow(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value)
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and node.value is not None:
            self._bind(node.target, node.value)
        elif isinstance(node, (ast.For, ast.comprehension)):
            self._bind_elements(node.target, node.iter)

    def _taint(self, target: ast.AST) -> None:
        while isinstance(target, (ast.Subscript, ast.Attribute, ast.Starred)):
            target = target.value
        if isinstance(target, ast.Name):
            self.locals.add(target.id)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self._taint(part)

    def _bind(self, target: ast.AST, value: ast.AST) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            pairs = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            if pairs and not any(isinstance(e, ast.Starred) for e in (*target.elts, *value.elts)):
                for part, held in zip(target.elts, value.elts):
                    self._bind(part, held)
            elif self.kept_in(value):
                self._taint(target)
        elif self.kept(value):
            self._taint(target)

    def _bind_elements(self, target: ast.AST, values: ast.AST) -> None:
        parts = target.elts if isinstance(target, ast.Tuple) else None
        named = self.builtin(values)
        plain = parts and not any(isinstance(e, ast.Starred) for e in parts)
        if plain and named == "enumerate" and len(parts) == 2 and values.args:
            self._bind_elements(parts[1], values.args[0])
        elif plain and named == "zip" and len(parts) == len(values.args):
            for part, held in zip(parts, values.args):
                self._bind_elements(part, held)
        elif plain and len(parts) == 2 and self._children(values) == "items":
            if self.kept_in(values):
                self._taint(parts[1])
        elif self.kept_in(values):
            self._taint(target)

    def builtin(self, node: ast.AST) -> str | None:
        """The name of the builtin that the node calls."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id in self.names:
            return None
        name = node.func.id
        return name if name not in outside_space(self.function, name) and hasattr(builtins, name) else None

    def _children(self, node: ast.AST) -> str | None:
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHILDREN
        return node.func.attr if is_call and self.kept(node.func.value) else None

    def value(self, node: ast.AST) -> tuple | None:
        """(what it is now,) of self.a.b or of a name from outside; None for other expressions."""
        path = attribute_path(node)
        if path is None or (path[0] in self.names and path[0] != self.own):
            return None
        if path[0] == self.own:
            value = self.module
        else:
            value = outside_space(self.function, path[0]).get(path[0], getattr(builtins, path[0], MISSING))
        for name in path[1:]:
            if has_code(value, name):
                return (object(),)
            value = getattr(value, name, MISSING)
            if value is MISSING or isinstance(value, Tensor):
                break
        return (value,)

    def kept(self, node: ast.AST) -> bool:
        known = self.value(node)
        if known is not None:
            plain = isinstance(known[0], (Tensor, torch.layout)) or known[0] is MISSING or is_fixed(known[0])
            return not plain
        if isinstance(node, ast.Name):
            return node.id in self.locals
        if isinstance(node, (ast.Attribute, ast.Starred)):
            return self.kept(node.value)
        if isinstance(node, ast.Subscript):
            return self.kept_in(node.value)
        if isinstance(node, ast.Call):
            if self._children(node):
                return node.func.attr != "keys"
            name = self.builtin(node)
            if name in _REGROUP:
                return any(self.kept_in(argument) for argument in (*node.args, *(k.value for k in node.keywords)))
            return name == "getattr" or (isinstance(node.func, ast.Attribute) and node.func.attr == "__getattr__")
        return any(self.kept(part) for part in _parts(node))

    def kept_in(self, node: ast.AST) -> bool:
        """The same of what a loop over it, or a subscript, gives."""
        known = self.value(node)
        if known is not None:
            return not holds_constants(known[0]) and self.kept(node)
        return self.kept(node)


def _parts(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return node.elts
    if isinstance(node, ast.Dict):
        return node.values
    return [node.elt] if isinstance(node, (ast.ListComp, ast.GeneratorExp)) else []
