"""Activations as people write them: several calls that torch has no one call for, or that they spell out."""

from typing import Any

from torch import fx

from ganfast.dropin.nodes import name_of, per_channel, read, tensor, works_in_place
from ganfast.dropin.steps import Step, both_ways, is_constant, only_user, other_operand


def written_silu(value: fx.Node) -> Step | None:
    """x * sigmoid(x)"""
    users = list(value.users)
    gate = next((u for u in users if (call := read(u)).name == "sigmoid" and call.x is value), None)
    found = both_ways(gate, "mul") if gate is not None and len(users) == 2 else None
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
        alpha = other_operand(product, "mul", value)
        wave = only_user(product) if per_channel_or_one(alpha, x) else None
        power = only_user(wave)
        scaled = only_user(power)
        if scaled is None or name_of(wave) != "sin" or not _squares(power, wave) or only_user(scaled) is not total:
            continue
        divided = _divides(scaled, power, alpha) if other_operand(total, "add", value) is scaled else None
        if divided is None or any(len(node.users) != 1 for node in divided):
            continue
        nodes = sorted((product, wave, power, *divided, scaled, total))
        if not any(map(works_in_place, nodes)):
            return Step("act", tuple(nodes), "snake", {"alpha": alpha}, {"act": "snake", "alpha": None, "in_place": False})
    return None


def per_channel_or_one(node: Any, x) -> bool:
    t = tensor(node)
    return per_channel(node, x) or (t is not None and t.dtype == x.dtype and all(type(s) is int and s == 1 for s in t.shape))


def _squares(node: fx.Node, wave: fx.Node) -> bool:
    name, x, arguments = read(node)
    exponent, other = arguments.get("exponent"), arguments.get("other")
    return x is wave and (name == "square" or (name == "pow" and exponent == 2) or (name == "mul" and other is wave))


def _divides(node: fx.Node, power: fx.Node, alpha: fx.Node) -> list[fx.Node] | None:
    """For power / alpha, and power times 1 / alpha: the nodes that make the divisor; None for anything else."""
    call = read(node)
    if call.name == "div":
        return _nearly(call.arguments.get("other"), alpha) if call.x is power else None
    inverse = other_operand(node, "mul", power)
    inner = read(inverse)
    divisor = inner.x if inner.name == "reciprocal" else None
    if inner.name == "div" and not isinstance(inner.x, fx.Node) and inner.x == 1:
        divisor = inner.arguments.get("other")
    found = _nearly(divisor, alpha)
    return None if found is None else [*found, inverse]


def _nearly(node: Any, alpha: fx.Node) -> list[fx.Node] | None:
    """The nodes that make alpha plus next to nothing of alpha; None where it is anything else."""
    if node is alpha:
        return []
    call = read(node)
    if call.name != "add" or call.x is not alpha or not is_constant(e := call.arguments.get("other")) or abs(e) > _TINY:
        return None
    return [node]
