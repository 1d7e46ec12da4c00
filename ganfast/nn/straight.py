"""Which forwards may be replaced by their trace: those whose every step depends on nothing but their tensors and on values that can
be looked at again before each call.

torch.fx runs a forward once with stand-ins and writes down what happened. What the forward takes from elsewhere, flags, constants,
lists of layers, is then frozen; so it is found here first, in the source, and compared at every call. What cannot be found or
compared (randomness that needs no tensor, changed attributes, contexts, prints) leaves the forward as its author wrote it.
"""

import ast
import builtins
import math
import types
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn

from ganfast.nn.fingerprints import (
    CONTAINERS,
    MISSING,
    NotStraight,
    check_functions,
    fingerprint,
    is_fixed,
    is_function,
    named_layers,
    traceable,
)
from ganfast.nn.reach import Reach, attribute_path, has_code, outside_space
from ganfast.nn.record import CALLED, Record, made_of, tied
from ganfast.nn.source import EXPRESSIONS, STATEMENTS, definition_of, hidden_by_comprehensions, spelt

_BUILTINS = (
    "range", "len", "zip", "enumerate", "reversed", "list", "tuple", "dict", "sum", "min", "max", "abs", "slice", "int", "float", "round",
    "str",
)  # fmt: skip
_TAKE_LAYERS = ("len", "zip", "enumerate", "reversed", "list", "tuple", "dict")  # of the builtins
_KINDS = (torch.dtype, torch.memory_format, torch.layout)  # what torch's modules hold that is constant


class Reading(Record):
    """All that a forward takes from its module, and from the globals of its file."""

    def __init__(self, module: nn.Module, forward: Callable) -> None:
        super().__init__(module, forward)
        self._seen: set[int] = set()
        try:
            self.read(forward, bound=True)
            self.tied = tied(module)
        except NotStraight:
            raise
        except Exception as error:  # whatever an object of the user's own does when it is looked at
            raise NotStraight(f"it cannot be read: {type(error).__name__}: {error}") from None

    def read(self, function: Callable, bound: bool) -> None:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        _Function(self, function, definition_of(function), bound).check()
        self.functions.append((function, made_of(function)))


class _Function:
    def __init__(self, reading: Reading, function: types.FunctionType, definition: ast.FunctionDef, bound: bool) -> None:
        self.reading, self.function, self.definition = reading, function, definition
        a = definition.args
        names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        self.own = names[0] if bound and names else None  # "self"
        stored = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        self.locals = set(names) | stored
        if self.own in stored:
            raise NotStraight(f"it assigns to {self.own}")
        for name in hidden_by_comprehensions(definition):
            raise NotStraight(f"{name} is a comprehension's variable and something else in {function.__name__}")
        self.reach = Reach(reading.module, function, definition, self.own, self.locals)

    def check(self) -> None:
        for statement in self.definition.body:
            self.visit(statement)

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        raise NotStraight(f"{what} (line {getattr(node, 'lineno', 1)} of {self.function.__name__})")

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt) and not isinstance(node, STATEMENTS):
            self.refuse(node, f"it has a `{type(node).__name__.lower()}`")
        if isinstance(node, ast.expr):
            if not isinstance(node, EXPRESSIONS):
                self.refuse(node, f"it has a `{type(node).__name__.lower()}`")
            if isinstance(node, (ast.Attribute, ast.Name)):
                self.name(node)
                return
            if isinstance(node, ast.Call):
                self.call(node)
                return
        self.keeps(node)
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def keeps(self, node: ast.AST) -> None:
        """Refuses what would change, compare, hand on or spell out something that the module keeps."""
        kept = self.reach.kept
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            root = node.value
            while isinstance(root, ast.Subscript):
                root = root.value
            if kept(root) or self.reach.value(root) is not None:
                self.refuse(node, "it changes an attribute")
        elif isinstance(node, ast.AugAssign) and (kept(node.target) or kept(node.value)):
            self.refuse(node, "it changes an attribute or a list of layers")
        elif isinstance(node, ast.Return) and node.value is not None and kept(node.value):
            self.refuse(node, "it returns a layer or a list that the module keeps")
        elif isinstance(node, (ast.BinOp, ast.UnaryOp, ast.FormattedValue)):
            if not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)) and any(map(kept, ast.iter_child_nodes(node))):
                self.refuse(node, "it computes with a layer or a list that the module keeps")
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if len(sides) == 2 and any(isinstance(side, ast.Constant) and side.value is None for side in sides):
                return
            if any(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
                self.refuse(node, "it compares with `is`")
            inside = len(sides) == 2 and isinstance(node.ops[0], (ast.In, ast.NotIn))
            if any(map(kept, sides[:1] if inside else sides)):
                self.refuse(node, "it compares layers")

    def name(self, node: ast.Attribute | ast.Name) -> None:
        if isinstance(node, ast.Attribute) and node.attr.startswith("__"):
            self.refuse(node, f"it reads {node.attr}")
        path = attribute_path(node)
        if isinstance(node, ast.Attribute) and self.reach.value(node) is None and self.reach.kept(node.value):
            self.refuse(node, f"it reads {node.attr} of a layer that it keeps under a name or in a list")
        if path is None:
            self.visit(node.value)
            return
        if isinstance(node.ctx, ast.Store):
            if isinstance(node, ast.Attribute):
                self.refuse(node, "it sets an attribute")
            return
        if path[0] == self.own:
            if len(path) == 1:
                self.refuse(node, f"it hands {self.own} on")
            value = self.attribute(node, path[1:])
            if callable(value) and not isinstance(value, nn.Module) and not is_function(value):
                self.refuse(node, f"it reads the method self.{'.'.join(path[1:])}")
        elif path[0] not in self.locals:
            self.outside(node, path)

    def attribute(self, node: ast.AST, path: list[str], called: bool = False) -> object:
        """Notes what self.a.b is now; stops at a tensor, whose own attributes follow it."""
        value: object = self.reading.module
        for i, name in enumerate(path):
            owner, spelled = value, f"self.{'.'.join(path[: i + 1])}"
            if has_code(owner, name):
                self.refuse(node, f"it reads the property {name}, or another attribute with code of its own")
            try:
                value = getattr(owner, name)
            except AttributeError:  # in a branch that this module does not take
                self.reading.attributes[tuple(path[: i + 1])] = MISSING
                return MISSING
            if isinstance(value, Tensor):
                registered = isinstance(owner, nn.Module) and (name in owner._parameters or name in owner._buffers)
                if not registered:
                    self.refuse(node, f"{spelled} is a tensor, but no parameter or buffer")
                self.reading.attributes[tuple(path[: i + 1])] = "tensor"  # it may become None
                return value
            if i and isinstance(owner, nn.Module) and not isinstance(value, nn.Module) and not self.fixed_in(owner, value):
                self.refuse(node, f"{spelled} may change while {'.'.join(path[:i])} runs")
        if is_function(value):  # an activation kept as self.act
            self.function_used(node, value, f"self.{'.'.join(path)}")
        elif callable(value) and not isinstance(value, nn.Module):
            return value
        try:
            if called and isinstance(value, nn.Module):
                self.reading.attributes.setdefault(tuple(path), CALLED)
            else:
                self.note(tuple(path), value)
        except NotStraight as why:
            self.refuse(node, str(why))
        return value

    def note(self, path: tuple[str, ...], value: object) -> None:
        self.reading.attributes[path] = fingerprint(value)
        check_functions(value)

    def fixed_in(self, owner: nn.Module, value: object) -> bool:
        """What torch's own layers hold besides tensors does not change while they run; methods are refused elsewhere."""
        return isinstance(value, types.MethodType) or (type(owner).__module__.startswith("torch.nn.modules.") and is_fixed(value))

    def outside(self, node: ast.AST, path: list[str]) -> object:
        """A global of the function's file, what it closes over, or a builtin."""
        name = path[0]
        space = outside_space(self.function, name)
        if name not in space:
            if name in _BUILTINS and len(path) == 1:
                return getattr(builtins, name)
            self.refuse(node, f"it uses {name}")
        value = first = space[name]
        if isinstance(value, types.ModuleType) and not (value is math or value.__name__.split(".")[0] == "torch"):
            self.refuse(node, f"it uses {value.__name__}")
        for part in path[1:]:
            value = getattr(value, part, None)
        if isinstance(value, types.ModuleType):
            return value
        closed = space is not self.function.__globals__
        note = lambda seen: None if closed else self.reading.globals.update({(id(space), *path): (space, tuple(path), seen)})
        if isinstance(value, type) and (value.__module__ or "").split(".")[0] in ("torch", "builtins"):
            return value
        if is_function(value):
            self.function_used(node, value, ".".join(path))
            note(value)
            return value
        if closed or (len(path) > 1 and not isinstance(first, types.ModuleType)):
            self.refuse(node, f"it reads {'.'.join(path)} from outside")
        if isinstance(first, types.ModuleType) and first is not math and not isinstance(value, _KINDS):
            self.refuse(node, f"it reads {'.'.join(path)}, which may change")
        try:
            note(fingerprint(value))
            check_functions(value)
        except NotStraight as why:
            self.refuse(node, str(why))
        return value

    def fetches_a_layer(self, node: ast.Call) -> bool:
        """getattr(self, f"block{i}"), where nothing but layers has such a name."""
        path = attribute_path(node.func)
        by_method, by_function = path == [self.own, "__getattr__"], path == ["getattr"]
        if node.keywords or len(node.args) != 1 + by_function or not (by_method or by_function):
            return False
        pattern = spelt(node.args[-1])
        shadowed = by_function and self.reach.builtin(node) != "getattr"
        if pattern is None or shadowed or has_code(self.reading.module, "") or (by_function and attribute_path(node.args[0]) != [self.own]):
            return False
        self.visit(node.args[-1])
        try:
            self.reading.named[pattern] = named_layers(self.reading.module, pattern)
        except NotStraight as why:
            self.refuse(node, str(why))
        return True

    def call(self, node: ast.Call) -> None:
        if self.fetches_a_layer(node):
            return
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        for argument in arguments:
            self.visit(argument)
        self.called(node)
        for argument in arguments:
            self.argument(node, argument)

    def called(self, node: ast.Call) -> None:
        path = attribute_path(node.func)
        if path is None or (path[0] in self.locals and path[0] != self.own):
            self.visit(node.func)
            return
        if path[0] == self.own:
            self.method(node, path[1:])
            return
        function = self.outside(node, path)
        if not is_function(function) and not (len(path) == 1 and function is getattr(builtins, path[0], self)):
            self.refuse(node, f"it calls {'.'.join(path)}")

    def argument(self, node: ast.Call, argument: ast.AST) -> None:
        """Layers go to what only regroups them; lists of constants to torch's functions, which do not change them."""
        if self.reach.builtin(node) in _TAKE_LAYERS or not self.reach.kept(argument):
            return
        function = self.reach.value(node.func)
        torchs = function is not None and is_function(function[0]) and function[0] in traceable()
        called = node.func.attr if isinstance(node.func, ast.Attribute) and function is None else ""
        method = hasattr(Tensor, called) and not any(hasattr(kind, called) for kind in (list, dict, set))
        if self.reach.kept_in(argument) or not (torchs or method or self.reach.builtin(node)):
            self.refuse(node, "it hands a layer or a list that the module keeps on")

    def function_used(self, node: ast.AST, function: Callable, name: str) -> None:
        """A function by name, called now or later: torch's own that leave a trace, or a user's own that is straight itself."""
        if function in traceable() or function.__module__ == "math":
            return
        if (function.__module__ or "").split(".")[0] == "torch" or not isinstance(function, types.FunctionType):
            self.refuse(node, f"it uses {name}, which leaves no trace")
        self.reading.read(function, bound=False)

    def method(self, node: ast.Call, path: list[str]) -> None:
        """self.a.b(...): a layer, a helper method of the class, a method of a parameter or of a container of layers."""
        if not path:
            self.refuse(node, "it calls itself")
        value = self.attribute(node, path, called=True)
        if value is None or value is MISSING or isinstance(value, (nn.Module, Tensor)) or is_function(value):
            return
        owner = getattr(value, "__self__", None)
        if owner is self.reading.module and isinstance(value, types.MethodType) and len(path) == 1:
            if getattr(nn.Module, path[0], None) is not None or path[0] in self.reading.module.__dict__:
                self.refuse(node, f"it calls self.{path[0]}")
            self.reading.methods[path[0]] = value.__func__
            self.reading.read(value.__func__, bound=True)
            return
        if isinstance(owner, CONTAINERS) and path[-1] in ("items", "keys", "values", "children"):
            self.note(tuple(path[:-1]), owner)
            return
        self.refuse(node, f"it calls self.{'.'.join(path)}")
