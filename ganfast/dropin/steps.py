"""A step of a group, and how its place in a graph is read."""

import math
from typing import Any, NamedTuple

from torch import fx
from torch.utils._pytree import tree_leaves

from ganfast.dropin.nodes import Call, read


class Step(NamedTuple):
    """role: the entry's; nodes: what it replaces, in order, the last gives its value; label: the function's name for the user;
    tensors: operands by name; options: constants by name."""

    role: str
    nodes: tuple[fx.Node, ...]
    label: str
    tensors: dict[str, fx.Node]
    options: dict[str, Any]

    @property
    def value(self) -> fx.Node:
        return self.nodes[-1]


def _uses(node: fx.Node, value: fx.Node) -> int:
    return sum(part is value for part in tree_leaves((node.args, node.kwargs)))


def single_use(value: fx.Node) -> tuple[fx.Node, Call] | None:
    """The one call that uses a value, once and as its first argument."""
    users = list(value.users)
    call = read(users[0]) if len(users) == 1 and _uses(users[0], value) == 1 else None
    return (users[0], call) if call is not None and call.x is value else None


def is_constant(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def both_ways(value: fx.Node, name: str) -> tuple[fx.Node, Any] | None:
    """(node, the other operand) where the value's one use is that sum or product, on either side."""
    users = list(value.users)
    call = read(users[0]) if len(users) == 1 and _uses(users[0], value) == 1 else None
    if call is None or call.name.rstrip("_") != name or set(call.arguments) != {"other"}:
        return None
    other = call.arguments["other"] if call.x is value else call.x
    return None if call.x is not value and call.name.endswith("_") else (users[0], other)
