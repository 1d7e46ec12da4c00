"""The normalised weights of a graph that are made together: weight norms, spectral norms with their power iterations, parameters times a
number, as dynamo shows them, whoever wrote the layer: torch's parametrizations, torch's hooks, a forward of the user's own that spells the
same calls. What the graph says is what is computed, so that a layer that is not reached, or reached twice, is treated as eager treats it.

A weight joins where nothing in the graph writes to what it is made of, no code of the user's own stands between, and, of a spectral norm,
nobody else reads or writes u and v: a layer that iterates twice in a forward stays as it is.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ganfast.dropin import nodes
from ganfast.dropin.nodes import name_of, storages, tensor
from ganfast.ops.normalised_weights import op, torch_backend

LEAST = 2  # of one kind that are made together


class Member(NamedTuple):
    """One weight. nodes: what it replaces, in order, the last gives its value; operands: by the order in which the op takes its lists;
    options: what all made together have in common; factor: an equalised weight's; same: nodes that are one of the operands, changed;
    outer: those that gradients go through, where that is not all."""

    kind: str
    nodes: tuple[fx.Node, ...]
    operands: tuple[fx.Node, ...]
    options: tuple = ()
    factor: float = 1.0
    same: tuple[tuple[fx.Node, fx.Node], ...] = ()
    outer: tuple[fx.Node, ...] = ()


def _parameter(node: Any, of_any_format: bool = False) -> bool:
    """Whether the node is a parameter that lies as the passes read it."""
    t = tensor(node)
    known = isinstance(t, nn.Parameter) and node.op == "placeholder" and nodes.has_fixed_sizes(t)
    return known and (nodes.is_dense(t) if of_any_format else t.is_contiguous()) and t.numel() > 0


def _alike(*given: fx.Node) -> bool:
    """Floating tensors of one dtype on one device: under autocast a product is of another."""
    looks = {(t.dtype, t.device) for t in map(tensor, given)}
    return len(looks) == 1 and tensor(given[0]).is_floating_point()


def _weight_norm(node: fx.Node) -> Member | None:
    if name_of(node) != "_weight_norm" or not 2 <= len(node.args) <= 3 or node.kwargs or not all(map(_parameter, node.args[:2])):
        return None
    (v, g), dim = node.args[:2], (node.args[2:] or (0,))[0]
    rows = {0: tensor(v).shape[0], -1: 1}.get(dim)
    # Of vectors torch's kernel takes other norms than the formula's.
    if rows != tensor(g).numel() or (dim == 0 and tensor(v).dim() < 2) or not _alike(node, v, g):
        return None
    return Member("weight norms", (node,), (v, g))


def _equalised(node: fx.Node) -> Member | None:
    if name_of(node) != "mul" or len(node.args) != 2 or node.kwargs:
        return None
    weight, factor = node.args if isinstance(node.args[0], fx.Node) else node.args[::-1]
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not _parameter(weight, True) or not _alike(node, weight):
        return None
    return Member("equalised weights", (node,), (weight,), factor=float(factor))


def _buffer(node: fx.Node) -> fx.Node:
    """What a row of normalisations writes to: each goes where the one before it went."""
    while isinstance(node, fx.Node) and name_of(node) == "normalize":
        node = node.kwargs.get("out")
    return node


class _Chain:
    """What leads to weight / (u^T W v), followed from its end; `nodes` are those it met."""

    def __init__(self, weight: fx.Node) -> None:
        self.weight, self.nodes, self.eps = weight, [], set()

    def matrix(self, node: Any, transposed: bool = False) -> bool:
        name = name_of(node) if isinstance(node, fx.Node) else ""
        if transposed:
            turned = name == "t" or (node.op == "call_function" and node.target is getattr and node.args[1] == "H")
            found = turned and self.matrix(node.args[0])
        else:
            rows = tensor(self.weight).shape[0]
            flat = (name == "flatten" and node.args[1:] == (1,)) or (name == "reshape" and node.args[1:] == (rows, -1))
            found = flat and node.args[0] is self.weight and not node.kwargs
        self.nodes.append(node)
        return found

    def product(self, node: Any, transposed: bool = False) -> fx.Node | None:
        """The vector that the matrix is multiplied with."""
        if not isinstance(node, fx.Node) or name_of(node) != "mv" or len(node.args) != 2 or not self.matrix(node.args[0], transposed):
            return None
        self.nodes.append(node)
        return node.args[1] if _alike(node, node.args[1], self.weight) else None

    def own(self, node: Any) -> Any:
        """The vector that a clone was made of."""
        while isinstance(node, fx.Node) and name_of(node) == "clone":
            self.nodes.append(node)
            node = node.args[0]
        return node

    def normalised(self, node: Any, transposed: bool) -> tuple[fx.Node, fx.Node] | None:
        """(the vector it came from, the buffer it went to)."""
        given = node.kwargs if isinstance(node, fx.Node) and name_of(node) == "normalize" and len(node.args) == 1 else {}
        if set(given) != {"dim", "eps", "out"} or given["dim"] != 0 or (source := self.product(node.args[0], transposed)) is None:
            return None
        self.nodes.append(node)
        self.eps.add(given["eps"])
        return source, _buffer(node)

    def iterations(self, first: Any, second: Any, u_first: bool) -> tuple[int, fx.Node, fx.Node] | None:
        """(how many, the first's buffer, the second's), where each iteration makes `first` of the last second, and `second` of it."""
        buffers: set[tuple[fx.Node, fx.Node]] = set()
        for count in range(1, 65):
            made, before = self.normalised(second, u_first), self.normalised(first, not u_first)
            if made is None or before is None or made[0] is not first:
                return None
            buffers.add((before[1], made[1]))
            second = before[0]
            if len(buffers) > 1:
                return None
            if second is made[1]:
                return count, *buffers.pop()
            first = second.args[0].args[1] if name_of(second) == "normalize" and isinstance(second.args[0], fx.Node) else None
        return None


def _spectral_norm(node: fx.Node) -> Member | None:
    if name_of(node) != "div" or len(node.args) != 2 or node.kwargs or not _parameter(node.args[0]) or tensor(node.args[0]).dim() < 2:
        return None
    weight, sigma = node.args
    if not isinstance(sigma, fx.Node) or name_of(sigma) not in ("dot", "vdot") or len(sigma.args) != 2 or not _alike(node, sigma, weight):
        return None
    chain = _Chain(weight)
    v = chain.product(sigma.args[1])
    outer = (*chain.nodes, sigma, node)
    v = chain.own(v)
    u = chain.own(sigma.args[0])
    if not all(isinstance(vector, fx.Node) for vector in (u, v)):
        return None
    count, u_first, same = 0, True, ()
    if u.op != "placeholder" or v.op != "placeholder":
        u_first = name_of(v) == "normalize" and isinstance(v.args[0], fx.Node) and u in v.args[0].args
        found = chain.iterations(*((u, v) if u_first else (v, u)), u_first)
        if found is None:
            return None
        count, *buffers = found
        left, right = buffers if u_first else buffers[::-1]
        same = tuple((n, _buffer(n)) for n in dict.fromkeys(chain.nodes) if name_of(n) == "normalize")
        u, v = left, right
    eps = chain.eps.pop() if chain.eps else 1e-12
    shapes = [(tensor(weight).shape[0],), (tensor(weight)[0].numel(),)]
    fits = all(n.op == "placeholder" and tensor(n).shape == shape and tensor(n).is_contiguous() for n, shape in zip((u, v), shapes))
    if chain.eps or not fits or not _alike(u, v, weight):
        return None
    return Member(
        "spectral norms", (*dict.fromkeys(chain.nodes), sigma, node), (weight, u, v), (count, eps, u_first), same=same, outer=outer
    )


class Together:
    """Weights of one graph that are made by one call. Called with the operands it gives their values, by ganfast's op; `plain` by torch's
    own calls, one after the other.

    layers: the user's names of those that they belong to; ran: the backend that ran last, or "eager"; question: the tuner's.
    """

    def __init__(self, members: list[Member], called: Callable[[fx.Node, str], str]) -> None:
        self.kind, self.options = members[0].kind, members[0].options
        self.__name__ = self.kind.replace(" ", "_")  # what a graph's code calls it
        self.nodes = {node for member in members for node in member.nodes}
        self.start = members[0].nodes[0]
        self.values = [member.nodes[-1] for member in members]
        self.operands = [node for each in zip(*(member.operands for member in members)) for node in each]
        self.same = {node: operand for member in members for node, operand in member.same}
        layers = (called(member.nodes[-1], member.kind).partition(".parametrizations")[0] for member in members)
        self.layers = tuple(dict.fromkeys(layers))
        self.count, self.factors = len(members), tuple(member.factor for member in members)
        self.writes = range(self.count, 3 * self.count) if self.same else range(0)  # operands that it writes to
        self.settings: tuple = ()  # of the calls that run
        self._chosen: tuple[Any, str] = (None, "")
        self.ran = self.question = ""

    def _lists(self, operands: tuple[Tensor, ...]) -> list[list[Tensor]]:
        return [list(operands[i : i + self.count]) for i in range(0, len(operands), self.count)]

    def __call__(self, *operands: Tensor) -> list[Tensor]:
        lists, look = self._lists(operands), (self.settings, operands[0].device)
        if look != self._chosen[0]:
            self._chosen = look, op.backend_for("accelerate", None, operands[0])
        self.ran = self._chosen[1]
        if self.kind == "equalised weights":
            return op.run_equalised(*lists, self.factors)
        if self.kind == "weight norms":
            return op.run_weight_norms(*lists, self.ran)
        return op.run_spectral_norms(*lists, self.ran, *self.options)

    def plain(self, *operands: Tensor) -> list[Tensor]:
        lists = self._lists(operands)
        if self.kind == "equalised weights":
            return [weight * factor for weight, factor in zip(*lists, self.factors)]
        if self.kind == "weight norms":
            return [torch._weight_norm(v, g, 0 if g.dim() else -1) for v, g in zip(*lists)]
        return torch_backend.spectral_norms(*lists, *self.options)


def together(graph: fx.Graph, taken: set[fx.Node], called: Callable[[fx.Node, str], str]) -> list[Together]:
    """All that a graph has; `taken`: nodes that belong to a group."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    members = [member for member in _members(graph, order) if not taken & {*member.nodes}]
    regimes, own = nodes.regimes(graph), {node for member in members for node in member.nodes}
    walls = [order[node] for node in graph.nodes if node not in own and nodes.is_barrier(node)]
    found: list[list[Member]] = []
    current: dict[tuple, list[Member]] = {}
    for member in members:
        weight = tensor(member.operands[0])
        key = (member.kind, member.options, regimes[member.nodes[0]], weight.dtype, weight.device)
        begun = current.get(key)
        if begun and not any(order[begun[0].nodes[0]] < wall < order[member.nodes[-1]] for wall in walls):
            begun.append(member)
        else:
            current[key] = [member]
            found.append(current[key])
    return [Together(each, called) for each in found if len(each) >= LEAST]


def _members(graph: fx.Graph, order: dict[fx.Node, int]) -> Iterator[Member]:
    """In the graph's order: those that may be made at another place."""
    output = next(node for node in graph.nodes if node.op == "output")
    regimes, memory = nodes.regimes(graph), set().union(*(nodes.written(node) for node in graph.nodes))
    for node in graph.nodes:
        member = _weight_norm(node) or _equalised(node) or _spectral_norm(node)
        if member is None:
            continue
        weight, *vectors = member.operands
        parts = sorted(member.nodes, key=order.get)
        member = member._replace(nodes=tuple(parts))
        same = {part for part, _ in member.same}
        if storages(weight) & memory or any(not {*part.users} <= {*parts, *([output] if part in same else [])} for part in parts[:-1]):
            continue
        if parts[-1] is not node or any(regimes[part] != regimes[parts[0]] for part in member.outer):
            continue
        if member.kind == "weight norms":
            if not storages(*vectors) & memory:
                yield member
        elif _alone(graph, vectors, {*parts, output}):
            yield member


def _alone(graph: fx.Graph, vectors: list[fx.Node], known: set[fx.Node]) -> bool:
    """Whether nobody but the known nodes has to do with the memory of these placeholders, and no two share any."""
    memory = storages(*vectors)
    if len(memory) < len(vectors) or any(not {*vector.users} <= known for vector in vectors):
        return False
    return not any(storages(node) & memory for node in graph.nodes if node not in known and node not in vectors)
