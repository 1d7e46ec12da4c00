"""Chains in a forward written by hand: its trace by torch.fx with every chain as one call.

The children stay the layers they are: the new forward looks each up by its path, at every call.
"""

import abc
import inspect
import operator
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from ganfast.nn import patterns, standins
from ganfast.nn.fingerprints import NotStraight, constant_key
from ganfast.nn.fusion import Chain, look_up
from ganfast.nn.patterns import Member
from ganfast.nn.standins import graph_of
from ganfast.nn.straight import Reading

_PLAIN = (int, float, bool, str, type(None))
Key = tuple  # (name, None for a tensor, else (its value, what tells it from equal ones)) of every argument given


class Traced(NamedTuple):
    """A forward as its trace: `run(module, *tensors)`, the chains in it, and what must not have changed."""

    run: Callable
    chains: list[Chain]
    reading: Reading
    overwritten: list[tuple[str, ...]]  # layers whose output the forward changes in place


def first_names(forward: Callable) -> list[str]:
    return list(inspect.signature(forward).parameters)[1:]


def first_key(forward: Callable) -> Key:
    """How the forward is most likely called: tensors for what has no default, nothing else."""
    try:
        parameters = list(inspect.signature(forward).parameters.values())[1:]
    except (TypeError, ValueError):  # no function: `trace` says so
        return ()
    return tuple((p.name, None) for p in parameters if p.default is p.empty)


def call_key(names: tuple[str, ...], args: tuple, kwargs: dict) -> Key | None:
    """What a call looks like to a trace; None for arguments that no trace is made for."""
    if len(args) > len(names) or any(name in kwargs for name in names[: len(args)]):
        return None
    key = []
    for name, value in (*zip(names, args), *kwargs.items()):
        if not isinstance(value, Tensor) and type(value) not in _PLAIN:
            return None
        key.append((name, None if isinstance(value, Tensor) else (value, *constant_key(value))))
    return tuple(key)


def trace(module: nn.Module, forward: Callable, key: Key, recompute: bool = False) -> Traced:
    """Raises NotStraight with the reason where the forward cannot be replaced."""
    if type(type(module)) not in (type, abc.ABCMeta):
        raise NotStraight("its class has a metaclass of its own, and an accelerated module's class is a subclass")
    reading = Reading(module, forward)
    graph = graph_of(module, forward, key)
    chains = []
    overwritten = [tuple(node.target.split(".")) for node in graph.nodes if node.op == "call_module" and _overwritten(node)]
    for nodes, members in _chains(module, graph):
        chains.append(Chain(members, recompute))
        _replace(graph, nodes, chains)
    graph.lint()
    code = graph.python_code("self")
    # A chain needs the module whose children it looks up.
    source = re.sub(r"(\w*_ganfast_chain_\d+)\(", r"\1(self, ", code.src)
    space = dict(code.globals)
    exec(source, space)
    return Traced(space["forward"], chains, reading, overwritten)


def _replace(graph: fx.Graph, nodes: list[fx.Node], chains: list[Chain]) -> None:
    chain, first, last = chains[-1], nodes[0], nodes[-1]

    def call(*args):
        return chain(*args)

    call.__name__ = call.__qualname__ = f"_ganfast_chain_{len(chains) - 1}"
    extra = [argument for node in nodes for argument in node.meta.get("extra", ())]
    for argument in extra:  # an alpha that is a parameter: it is there before anything ran
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            first.prepend(argument)
    with graph.inserting_before(first):
        new = graph.call_function(call, (first.args[0], *extra))
    last.replace_all_uses_with(new)
    for node in reversed(nodes):
        graph.erase_node(node)


def _member(module: nn.Module, node: fx.Node) -> Member | None:
    """The node as a part of a chain; what its call takes besides x goes into node.meta["extra"]."""
    if node.op == "call_module":
        path = tuple(node.target.split("."))
        layer = look_up(module, path)
        found = patterns.member(layer, path, snake_of(layer))
        if found is None or not node.args or not isinstance(node.args[0], fx.Node):
            return None
        rest = (*node.args[1:], *node.kwargs.values())
        if not rest:
            return found
        sized = found.base in patterns.CONV_TRANSPOSES and (set(node.kwargs) == {"output_size"} or len(node.args) == 2)
        if not sized or len(rest) != 1:
            return None
        node.meta["extra"] = rest
        return found._replace(extra=1)
    if node.op not in ("call_function", "call_method") or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    scale = patterns.function_scale(node.target, node.args, node.kwargs) if node.op == "call_function" else None
    if scale is not None:
        return Member("upsample", "interpolate()", None, None, scale, _as_written(node))
    found = patterns.function_activation(node.target, node.args, dict(node.kwargs))
    if found is None:
        return None
    name, act, alpha = found
    if isinstance(alpha, fx.Node):
        if alpha.op != "get_attr":
            return None
        node.meta["extra"] = (alpha,)
        target = node.target
        call = (lambda x, weight: getattr(x, target)(weight)) if isinstance(target, str) else target
        return Member("act", f"{name}()", None, None, (act, None), call, 1)
    return Member("act", f"{name}()", None, None, (act, alpha), _as_written(node))


def _as_written(node: fx.Node) -> Callable:
    """The node's call, of x alone."""
    rest, kwargs = node.args[1:], dict(node.kwargs)
    if isinstance(node.target, str):
        return lambda x: getattr(x, node.target)(*rest, **kwargs)
    return lambda x: node.target(x, *rest, **kwargs)


_NEXT = {"upsample": ("conv",), "conv": ("norm", "act"), "norm": ("act",), "act": ()}


def follows(members: list[Member], member: Member, layers: Callable[[Member], nn.Module]) -> bool:
    """Whether the member can join the chain."""
    last = members[-1]
    if member.role not in _NEXT[last.role] or any(m.role == member.role for m in members):
        return False
    if member.role == "conv":
        scale = last.read(patterns.dims(member) or 0) if last.path is None else layers(last)
        return scale is not None and patterns.upsamples_into(scale, layers(member))
    return member.role != "norm" or patterns.dims(member) == patterns.dims(last)


def complete(members: list[Member]) -> bool:
    return any(member.role in ("conv", "norm") for member in members)


def _chains(module: nn.Module, graph: fx.Graph) -> list[tuple[list[fx.Node], list[Member]]]:
    layers = lambda member: look_up(module, member.path)
    found, taken = [], set()
    for node in graph.nodes:
        if node in taken or (member := _member(module, node)) is None or member.role == "act":
            continue
        nodes, members = [node], [member]
        while True:
            last = nodes[-1]
            user = next(iter(last.users)) if len(last.users) == 1 else None
            joins = user is not None and user.args and user.args[0] is last and user.all_input_nodes.count(last) == 1
            member = _member(module, user) if joins else None
            saves = member is not None and saves_its_output([*members, member])
            if saves and _overwritten(user) and _keeps_its_input(module, member):
                break
            if member is None or not follows(members, member, layers) or not _in_order(nodes[0], user, nodes, member.role):
                break
            nodes.append(user)
            members.append(member)
        if complete(members):
            found.append((nodes, members))
            taken.update(nodes)
    return found


def saves_its_output(members: list[Member]) -> bool:
    """A convolution and an activation keep the output for the backward; with a norm between them, the norm's input."""
    return members[-1].role == "act" and all(member.role != "norm" for member in members)


def _overwritten(node: fx.Node) -> bool:
    """Whether a later step changes the node's value in place."""
    return any(user.args and user.args[0] is node and _in_place(user) for user in node.users)


def _in_place(node: fx.Node) -> bool:
    if node.op not in ("call_method", "call_function"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    written = name.endswith("_") and not name.endswith("__")
    return written or node.kwargs.get("inplace") is True or node.target in standins.IN_PLACE.values()


def _keeps_its_input(module: nn.Module, member: Member) -> bool:
    """Whether torch's activation saves its input: its output may then be overwritten, the fused one's, which is saved, not."""
    if member.path is None:
        return member.label not in patterns.SAVE_THEIR_OUTPUT
    return patterns.keeps_its_input(look_up(module, member.path))


def _in_order(first: fx.Node, last: fx.Node, chain: list[fx.Node], role: str) -> bool:
    """Whether `last` may run as early as `first`. A norm moves its running statistics: nothing may come between that could see
    them or use it; an activation has nothing that anybody could see, but an alpha that somebody could change."""
    node = first.next
    while node is not last:
        if node not in chain and (role == "norm" or _in_place(node)):
            return False
        node = node.next
    return True


_SNAKE_STEPS = {operator.add, operator.mul, operator.truediv, operator.pow, torch.add, torch.mul, torch.div, torch.pow, torch.sin,
                torch.square, torch.exp, torch.reciprocal, operator.getitem, torch.unsqueeze}  # fmt: skip
_SNAKE_METHODS = {"sin", "pow", "square", "exp", "mul", "add", "div", "reciprocal", "unsqueeze", "view", "reshape"}


def snake_of(layer: nn.Module) -> Callable[[nn.Module], patterns.Reading] | None:
    """How to read alpha, for a layer of the user's own found to compute x + sin(alpha x)^2 / alpha with one parameter, alpha or its
    logarithm, [C] or [1] in any shape: by its steps, then by value."""
    forward = type(layer).__dict__.get("forward")
    if forward is None or layer._modules or len(layer._parameters) != 1 or layer._buffers or type(layer).__module__.startswith("torch."):
        return None
    ((name, parameter),) = layer._parameters.items()
    if parameter is None or parameter.is_meta:
        return None
    try:
        reading = Reading(layer, forward)
        graph = graph_of(layer, forward, first_key(forward))
    except (NotStraight, TypeError, ValueError):
        return None
    steps = [node for node in graph.nodes if node.op in ("call_function", "call_method")]
    names = [node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "") for node in steps]
    known = all((n.target in _SNAKE_METHODS) if isinstance(n.target, str) else n.target in _SNAKE_STEPS for n in steps)
    if not known or names.count("sin") != 1 or names.count("exp") > 1:
        return None
    logarithmic = "exp" in names
    if not _is_snake(layer, forward, name, logarithmic):
        return None

    def read(module: nn.Module) -> patterns.Reading:
        if not reading.unchanged(module):
            return None
        alpha = getattr(module, name).reshape(-1)
        return "snake", alpha.exp() if logarithmic else alpha

    return read


@torch.no_grad()
def _is_snake(layer: nn.Module, forward: Callable, name: str, logarithmic: bool) -> bool:
    """By value, in float64, with other alphas: of both signs, and small, middling and large."""
    parameter = layer._parameters[name]
    generator = torch.Generator().manual_seed(0)
    channels = parameter.numel()
    sizes = ((2, max(channels, 3) if channels == 1 else channels, 5), (2, channels, 4, 3))
    alphas = []
    for scale in (0.05, 1.0, 20.0):
        alpha = scale * (0.5 + torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
        alphas += [alpha] if logarithmic else [alpha, -alpha]
    return any(all(_gives_snake(layer, forward, name, a, logarithmic, size, generator) for a in alphas) for size in sizes)


def _gives_snake(layer, forward, name, alpha, logarithmic, size, generator) -> bool:
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    twin._parameters = {name: nn.Parameter(alpha.log() if logarithmic else alpha)}
    x = 3 * torch.randn(size, generator=generator, dtype=torch.float64)
    a = alpha.reshape(1, -1, *[1] * (x.dim() - 2))
    try:
        return torch.allclose(forward(twin, x.clone()), x + torch.sin(a * x) ** 2 / a, rtol=1e-6, atol=1e-7)
    except Exception:  # a size that it does not take, or whatever else a user's layer does
        return False
