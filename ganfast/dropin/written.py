"""Activations as people write them: several calls that torch has no one call for, or that they spell out."""

from typing import Any

from torch import fx

from ganfast._activations import SNAKE_BETA
from ganfast.dropin.nodes import is_dense, is_floating, name_of, per_channel, read, same_shape, tensor, works_in_place
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
_OF_BETA = 1e-9  # what snake_beta adds


def written_snake(value: fx.Node) -> Step | None:
    """x + sin(alpha x)^2 / alpha, in the orders in which people write it."""
    step = written_periodic(value)
    return step if step is not None and step.label == "snake" else None


def written_periodic(value: fx.Node) -> Step | None:
    """That, or snake_beta, x + sin(alpha x)^2 / (beta + 1e-9), of a value that nobody else uses."""
    users = list(value.users)
    found = (_periodic(value, product) for product in users if len(users) == 2)
    return next((step for step in found if step is not None and step.value in users), None)


def lone_periodic(node: fx.Node, before: list[Step]) -> Step | None:
    """The same by itself, which torch's calls make in six passes; node: the product with alpha."""
    for x in node.all_input_nodes:
        step = _periodic(x, node) if is_floating(tensor(x)) and is_dense(tensor(x)) else None
        if step is not None:
            keeps = tensor(step.tensors["alpha"]).requires_grad  # the product keeps x then
            options = {"op": "bias_act", "act": step.label, "eager_keeps": keeps}
            return Step("periodic", step.nodes, step.label, {"x": x} | step.tensors, options)
    return None


def _periodic(value: fx.Node, product: fx.Node) -> Step | None:
    """With this node as alpha x."""
    x, alpha = tensor(value), other_operand(product, "mul", value)
    if x.dim() < 2 or not per_channel_or_one(alpha, x):
        return None
    wave = only_user(product)
    power = only_user(wave)
    scaled = only_user(power)
    total = only_user(scaled)
    if total is None or not same_shape(total, x):
        return None
    if name_of(wave) != "sin" or not _squares(power, wave) or other_operand(total, "add", value) is not scaled:
        return None
    inverse, divisor = _divisor(scaled, power)
    between, by = _without_eps(divisor, alpha)
    if by is None or any(len(node.users) != 1 for node in (*between, *inverse)):
        return None
    nodes = sorted((product, wave, power, *between, *inverse, scaled, total))
    if any(map(works_in_place, nodes)) or (by is not alpha and not per_channel_or_one(by, x)):
        return None
    act, tensors = ("snake", {}) if by is alpha else (SNAKE_BETA, {"beta": by})
    return Step("act", tuple(nodes), act, {"alpha": alpha} | tensors, {"act": act, "alpha": None, "in_place": False})


def per_channel_or_one(node: Any, x) -> bool:
    t = tensor(node)
    if t is None or t.dtype != x.dtype or t.device != x.device or t.dim() > x.dim():
        return False
    return per_channel(node, x) or all(type(s) is int and s == 1 for s in t.shape)


def _squares(node: fx.Node, wave: fx.Node) -> bool:
    name, x, arguments = read(node)
    exponent, other = arguments.get("exponent"), arguments.get("other")
    return x is wave and (name == "square" or (name == "pow" and exponent == 2) or (name == "mul" and other is wave))


def _divisor(node: fx.Node, power: fx.Node) -> tuple[list[fx.Node], Any]:
    """For power / divisor, and power times 1 / divisor: (the nodes that make the inverse, the divisor); None for anything else."""
    call = read(node)
    if call.name == "div":
        return [], call.arguments.get("other") if call.x is power and set(call.arguments) == {"other"} else None
    inverse = other_operand(node, "mul", power)
    inner = read(inverse)
    if inner.name == "reciprocal":
        return [inverse], inner.x
    one = inner.name == "div" and not isinstance(inner.x, fx.Node) and inner.x == 1
    return [inverse], inner.arguments.get("other") if one else None


def _without_eps(node: Any, alpha: fx.Node) -> tuple[list[fx.Node], fx.Node | None]:
    """(the nodes that add next to nothing, what they add it to): to alpha as people do, to a beta what snake_beta adds."""
    if node is alpha:
        return [], alpha
    call = read(node)
    eps = call.arguments.get("other") if call.name == "add" else None
    if not isinstance(call.x, fx.Node) or not is_constant(eps):
        return [], None
    return [node], call.x if (abs(eps) <= _TINY if call.x is alpha else eps == _OF_BETA) else None
