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


def only_user(value: fx.Node | None) -> fx.Node | None:
    """The one call that uses a value, once or more; None of None."""
    return next(iter(value.users)) if value is not None and len(value.users) == 1 else None


def single_use(value: fx.Node) -> tuple[fx.Node, Call] | None:
    """The one call that uses a value, once and as its first argument."""
    user = only_user(value)
    call = read(user)
    if call.x is not value or any(part is value for part in tree_leaves(call.arguments)):
        return None
    return user, call


def is_constant(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def other_operand(node: fx.Node | None, name: str, value: fx.Node) -> Any:
    """Of that sum or product with the value on one side, in place only into the value itself; None where the node is none."""
    call = read(node)
    if call.name.rstrip("_") != name or set(call.arguments) != {"other"}:
        return None
    other = call.arguments["other"]
    if call.x is value:
        return None if other is value else other
    return call.x if other is value and call.name == name else None


def both_ways(value: fx.Node, name: str) -> tuple[fx.Node, Any] | None:
    """(node, the other operand) where the value's one use is that sum or product, on either side."""
    user = only_user(value)
    other = other_operand(user, name, value)
    return None if other is None else (user, other)


def joined(edge: tuple[int, int], more: tuple[int, int]) -> tuple[int, int] | None:
    """Two borders of zeros, (before, after), as one, negative where values are cut off; None where zeros would bring back what was cut."""
    if any(first < 0 < then for first, then in zip(edge, more)):
        return None
    return edge[0] + more[0], edge[1] + more[1]
