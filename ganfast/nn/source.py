"""The source of a forward or a helper, where it is what runs, and the names that an expression in it may spell."""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Callable

from ganfast.nn.fingerprints import NotStraight, is_fixed

# What a forward may be written in.
STATEMENTS = (
    ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr, ast.If, ast.For, ast.Pass, ast.Assert, ast.Raise, ast.Continue,
    ast.Break,
)  # fmt: skip
EXPRESSIONS = (
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Dict, ast.Set, ast.ListComp, ast.GeneratorExp, ast.Compare, ast.Call,
    ast.Constant, ast.Attribute, ast.Subscript, ast.Starred, ast.Name, ast.List, ast.Tuple, ast.Slice,
    ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip


def definition_of(function: Callable) -> ast.FunctionDef:
    """Raises NotStraight for what is no plain function, or has arguments that a trace cannot be made for."""
    name = getattr(function, "__name__", "it")
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        raise NotStraight(f"{name} is decorated or no plain function")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        raise NotStraight("its source is not at hand") from None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        raise NotStraight(f"{name} is decorated or no plain function")
    if not _is_code_of(definition, function.__code__):
        raise NotStraight("its source is not what was imported")
    if definition.args.vararg or definition.args.kwarg:
        raise NotStraight("it takes *args or **kwargs")
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        if not is_fixed(value):
            raise NotStraight(f"{name} has a {type(value).__name__} as a default argument, which may change")
    return definition


def hidden_by_comprehensions(definition: ast.FunctionDef) -> set[str]:
    """Names that are a comprehension's own variable in one place and something else in another."""
    outside, targets = set(), set()

    def walk(node: ast.AST, inner: frozenset[str]) -> None:
        if isinstance(node, ast.Name):
            if node.id not in inner:
                outside.add(node.id)
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            own = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
            targets.update(own)
            walk(node.generators[0].iter, inner)  # evaluated before any variable is set
            for child in (node.elt, *(part for i, g in enumerate(node.generators) for part in ((g.iter,) if i else ()) + tuple(g.ifs))):
                walk(child, inner | own)
        else:
            for child in ast.iter_child_nodes(node):
                walk(child, inner)

    for statement in definition.body:
        walk(statement, frozenset())
    return outside & targets


def spelt(node: ast.AST) -> str | None:
    """A regular expression of all that an f-string, a sum, a % or a .format of strings may spell; None for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(spelt(part) or ".*" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [spelt(node.left), spelt(node.right)]
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
