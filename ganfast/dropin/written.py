"""Activations as people write them: several calls that torch has no one call for, or that they spell out."""

from typing import Any

from torch import fx

from ganfast.dropin.nodes import per_channel, read, tensor, works_in_place
from ganfast.dropin.steps import Step, both_ways, is_constant


def written_silu(value: fx.Node) -> Step | None:
    """x * sigmoid(x)"""
    users = list(value.users)
    if len(users) != 2 or (gate := next((u for u in users if (c := read(u)) and c.name == "sigmoid" and c.x is value), None)) is None:
        return None
    found = both_ways(gate, "mul")
    if found is None or found[1] is not value or found[0] not in users or works_in_place(found[0]):
        return None
    return Step("act", (gate, found[0]), "silu", {}, {"act": "silu", "alpha": None, "in_place": False})


_TINY = 1e-8  # what people add to snake's alpha before they divide by it


def written_snake(value: fx.Node) -> Step | None:
    """x + sin(alpha x)^2 / alpha, in the orders in which people write it."""
    users, x = list(value.users), tensor(value)
    if len(users) != 2 or x.dim() < 2:
        return None
    for product, total in (users, users[::-1]):
        alpha = _other(product, "mul", value)
        wave = _one(product, "sin") if per_channel_or_one(alpha, x) else None
        power = None if wave is None else _squared(wave)
        scaled = next(iter(power.users)) if power is not None and len(power.users) == 1 else None
        if scaled is None or _other(total, "add", value) is not scaled or len(scaled.users) != 1:
            continue
        divided = _divides(scaled, power, alpha)
        if divided is not None and all(len(node.users) == 1 for node in divided):
            nodes = sorted((product, wave, power, *divided, scaled, total))
            return Step("act", tuple(nodes), "snake", {"alpha": alpha}, {"act": "snake", "alpha": None, "in_place": False})
    return None


def per_channel_or_one(node: Any, x) -> bool:
    t = tensor(node)
    return per_channel(node, x) or (t is not None and t.dtype == x.dtype and all(type(s) is int and s == 1 for s in t.shape))


def _other(node: fx.Node, name: str, value: fx.Node) -> Any:
    """The other operand of a sum or product with the value; None where the node is none."""
    call = read(node)
    if call is None or call.name != name or set(call.arguments) != {"other"}:
        return None
    other = call.arguments["other"]
    return other if call.x is value and other is not value else call.x if other is value and call.x is not value else None


def _one(value: fx.Node, name: str) -> fx.Node | None:
    users = list(value.users)
    call = read(users[0]) if len(users) == 1 else None
    return users[0] if call is not None and call.name == name and not call.arguments else None


def _squared(wave: fx.Node) -> fx.Node | None:
    users = list(wave.users)
    call = read(users[0]) if len(users) == 1 else None
    if call is None:
        return None
    squares = call.name == "square" or (call.name == "pow" and call.arguments.get("exponent") == 2)
    squares = squares or (call.name == "mul" and call.x is wave and call.arguments.get("other") is wave)
    return users[0] if squares else None


def _divides(node: fx.Node, power: fx.Node, alpha: fx.Node) -> list[fx.Node] | None:
    """For power / alpha, and power times 1 / alpha: the nodes that make the divisor; None for anything else."""
    call = read(node)
    if call is None:
        return None
    if call.name == "div":
        return _nearly(call.arguments.get("other"), alpha) if call.x is power else None
    inverse = _other(node, "mul", power)
    inner = read(inverse) if isinstance(inverse, fx.Node) else None
    if inner is None:
        return None
    divisor = inner.x if inner.name == "reciprocal" else None
    if inner.name == "div" and not isinstance(inner.x, fx.Node) and inner.x == 1:
        divisor = inner.arguments.get("other")
    found = _nearly(divisor, alpha)
    return None if found is None else [*found, inverse]


def _nearly(node: Any, alpha: fx.Node) -> list[fx.Node] | None:
    """The nodes that make alpha plus next to nothing of alpha; None where it is anything else."""
    if node is alpha:
        return []
    call = read(node) if isinstance(node, fx.Node) else None
    if call is None or call.name != "add" or call.x is not alpha or not is_constant(e := call.arguments.get("other")) or abs(e) > _TINY:
        return None
    return [node]
