"""Which forwards may be replaced by their trace: those whose every step depends on nothing but their tensors and on values that can
be looked at again before each call.

torch.fx runs a forward once with stand-ins and writes down what happened. What the forward takes from elsewhere, flags, constants,
lists of layers, is then frozen; so it is found here first, in the source, and compared at every call. What cannot be found or
compared (randomness that needs no tensor, changed attributes, contexts, prints) leaves the forward as its author wrote it.
"""

import ast
import builtins
import inspect
import math
import re
import textwrap
import types
from collections.abc import Callable
from typing import NoReturn

from torch import Tensor, nn

from ganfast.nn.fingerprints import CONTAINERS, MISSING, NotStraight, fingerprint, is_function, named_layers, traceable

_BUILTINS = (
    "range", "len", "zip", "enumerate", "reversed", "list", "tuple", "dict", "sum", "min", "max", "abs", "slice", "int", "float", "round",
    "str",
)  # fmt: skip
_STATEMENTS = (
    ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr, ast.If, ast.For, ast.Pass, ast.Assert, ast.Raise, ast.Continue,
    ast.Break,
)  # fmt: skip
_EXPRESSIONS = (
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Dict, ast.Set, ast.ListComp, ast.GeneratorExp, ast.Compare, ast.Call,
    ast.Constant, ast.Attribute, ast.Subscript, ast.Starred, ast.Name, ast.List, ast.Tuple, ast.Slice,
    ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip


def _spelt(node: ast.AST) -> str | None:
    """A regular expression of all that an f-string, a sum, a % or a .format of strings may spell; None for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_spelt(part) or ".*" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_spelt(node.left), _spelt(node.right)]
        return None if parts == [None, None] else "".join(part or ".*" for part in parts)
    template = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        template = node.left
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        template = node.func.value
    if isinstance(template, ast.Constant) and isinstance(template.value, str):
        return ".*".join(re.escape(part) for part in re.split(r"%[sd]|\{\w*\}", template.value))
    return None


def _is_code_of(definition: ast.FunctionDef, code: types.CodeType) -> bool:
    """Whether the source is what runs: a file may have changed since, and a private name (self.__x) is another one than it reads."""
    module = compile(ast.Module([definition], []), "<source>", "exec")
    return _gist(next(const for const in module.co_consts if isinstance(const, types.CodeType))) == _gist(code)


def _gist(code: types.CodeType) -> tuple:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    constants = [repr(const) for const in code.co_consts if not isinstance(const, types.CodeType)]
    return code.co_varnames, sorted({*code.co_names, *code.co_freevars}), constants, [_gist(part) for part in inner]


class Reading:
    """All that a forward takes from its module, and from the globals of its file."""

    def __init__(self, module: nn.Module, forward: Callable) -> None:
        self.module = module
        self.attributes: dict[tuple[str, ...], object] = {}
        self.globals: dict[tuple[int, str], tuple[dict, str, object]] = {}
        self.named: dict[str, tuple[str, ...]] = {}  # by pattern, layers fetched with getattr
        self._seen: set[int] = set()
        self.read(forward, bound=True)

    def unchanged(self, module: nn.Module) -> bool:
        """Whether a trace made when this was read still holds for the module."""
        for path, before in self.attributes.items():
            value = module
            for name in path:
                value = getattr(value, name, MISSING)
            if (value if value is MISSING else fingerprint(value)) != before:
                return False
        if any(named_layers(module, pattern) != names for pattern, names in self.named.items()):
            return False
        return all(fingerprint(space.get(name)) == before for space, name, before in self.globals.values())

    def read(self, function: Callable, bound: bool) -> None:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
            raise NotStraight(f"{getattr(function, '__name__', 'it')} is decorated or no plain function")
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            raise NotStraight("its source is not at hand") from None
        definition = tree.body[0]
        if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
            raise NotStraight(f"{function.__name__} is decorated or no plain function")
        if not _is_code_of(definition, function.__code__):
            raise NotStraight("its source is not what was imported")
        arguments = definition.args
        if arguments.vararg or arguments.kwarg:
            raise NotStraight("it takes *args or **kwargs")
        _Function(self, function, definition, bound).check()


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

    def check(self) -> None:
        for statement in self.definition.body:
            self.visit(statement)

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        raise NotStraight(f"{what} (line {getattr(node, 'lineno', 1)} of {self.function.__name__})")

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt) and not isinstance(node, _STATEMENTS):
            self.refuse(node, f"it has a `{type(node).__name__.lower()}`")
        if isinstance(node, ast.expr):
            if not isinstance(node, _EXPRESSIONS):
                self.refuse(node, f"it has a `{type(node).__name__.lower()}`")
            if isinstance(node, (ast.Attribute, ast.Name)):
                self.name(node)
                return
            if isinstance(node, ast.Call):
                self.call(node)
                return
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and self.path(node.value) is not None:
                self.refuse(node, "it changes an attribute")
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def path(self, node: ast.AST) -> list[str] | None:
        """["self", "a", "b"] for self.a.b, ["F", "relu"] for F.relu; None where the chain starts at an expression."""
        names = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        return [node.id, *reversed(names)] if isinstance(node, ast.Name) else None

    def name(self, node: ast.Attribute | ast.Name) -> None:
        path = self.path(node)
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

    def attribute(self, node: ast.AST, path: list[str]) -> object:
        """Notes what self.a.b is now; stops at a tensor, whose own attributes follow it."""
        value: object = self.reading.module
        for i, name in enumerate(path):
            owner = value
            if isinstance(getattr(type(owner), name, None), property):  # code of its own: a parametrized weight, for one
                self.refuse(node, f"it reads the property {name}")
            try:
                value = getattr(owner, name)
            except AttributeError:  # in a branch that this module does not take
                self.reading.attributes[tuple(path[: i + 1])] = MISSING
                return MISSING
            if isinstance(value, Tensor):
                registered = isinstance(owner, nn.Module) and (name in owner._parameters or name in owner._buffers)
                if not registered:
                    self.refuse(node, f"self.{'.'.join(path[: i + 1])} is a tensor, but no parameter or buffer")
                return value
        if is_function(value):  # an activation kept as self.act
            self.function_used(node, value, f"self.{'.'.join(path)}")
        elif callable(value) and not isinstance(value, nn.Module):
            return value
        try:
            self.reading.attributes[tuple(path)] = fingerprint(value)
        except NotStraight as why:
            self.refuse(node, str(why))
        return value

    def outside(self, node: ast.AST, path: list[str]) -> object:
        """A global of the function's file, what it closes over, or a builtin."""
        name = path[0]
        closure = inspect.getclosurevars(self.function).nonlocals
        space = closure if name in closure else self.function.__globals__
        if name not in space:
            if name in _BUILTINS and len(path) == 1:
                return getattr(builtins, name)
            self.refuse(node, f"it uses {name}")
        value = space[name]
        if isinstance(value, types.ModuleType) and not (value is math or value.__name__.split(".")[0] == "torch"):
            self.refuse(node, f"it uses {value.__name__}")
        for part in path[1:]:
            value = getattr(value, part, None)
        if isinstance(value, types.ModuleType):
            return value
        if isinstance(value, type) and value.__module__.split(".")[0] in ("torch", "builtins"):
            return value
        if is_function(value):
            self.function_used(node, value, ".".join(path))
            if len(path) == 1:
                self.reading.globals[id(space), name] = (space, name, value)
            return value
        if space is closure or (len(path) > 1 and not isinstance(space[name], types.ModuleType)):
            self.refuse(node, f"it reads {'.'.join(path)} from outside")
        try:
            seen = fingerprint(value)
        except NotStraight as why:
            self.refuse(node, str(why))
        if len(path) == 1:
            self.reading.globals[id(space), name] = (space, name, seen)
        return value

    def fetches_a_layer(self, node: ast.Call) -> bool:
        """getattr(self, f"block{i}"), where nothing but layers has such a name."""
        path = self.path(node.func)
        by_method, by_function = path == [self.own, "__getattr__"], path == ["getattr"]
        if node.keywords or len(node.args) != 1 + by_function or not (by_method or by_function):
            return False
        pattern = _spelt(node.args[-1])
        if pattern is None or (by_function and self.path(node.args[0]) != [self.own]):
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
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(argument)
        path = self.path(node.func)
        if path is None or (path[0] in self.locals and path[0] != self.own):
            if not isinstance(node.func, ast.Name):
                self.visit(node.func.value if isinstance(node.func, ast.Attribute) else node.func)
            return
        if path[0] == self.own:
            self.method(node, path[1:])
            return
        function = self.outside(node, path)
        if not is_function(function) and not (len(path) == 1 and function is getattr(builtins, path[0], self)):
            self.refuse(node, f"it calls {'.'.join(path)}")

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
        value = self.attribute(node, path)
        if value is None or value is MISSING or isinstance(value, (nn.Module, Tensor)) or is_function(value):
            return
        owner = getattr(value, "__self__", None)
        if owner is self.reading.module and isinstance(value, types.MethodType) and len(path) == 1:
            if getattr(nn.Module, path[0], None) is not None or path[0] in self.reading.module.__dict__:
                self.refuse(node, f"it calls self.{path[0]}")
            self.reading.read(value.__func__, bound=True)
            return
        if isinstance(owner, CONTAINERS) and path[-1] in ("items", "keys", "values", "children"):
            self.reading.attributes[tuple(path[:-1])] = fingerprint(owner)
            return
        self.refuse(node, f"it calls self.{'.'.join(path)}")
