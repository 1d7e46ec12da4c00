"""Parts of a graph as a function of their own, and graphs that are left alone."""

from collections.abc import Callable

import torch
from torch import Tensor, fx

from ganfast.dropin.nodes import spelt, tensor


def alone(parts: list[fx.Node], operands: list[fx.Node]) -> Callable[..., Tensor]:
    """The parts as a function of the operands, from whose sizes it takes those that are not fixed."""
    graph, new = fx.Graph(), {}
    places = [graph.placeholder(f"operand_{i}") for i in range(len(operands))]
    for node, place in zip(operands, places):
        new[node] = place  # an operand that comes twice is the same tensor

    def copied(node: fx.Node) -> fx.Node:
        if node not in new:
            size = str(node.meta.get("example_value"))
            known = ((i, spelt(tensor(o).shape).index(size)) for i, o in enumerate(operands) if size in spelt(tensor(o).shape))
            at = next(known, None) if tensor(node) is None else None
            new[node] = graph.node_copy(node, copied) if at is None else graph.call_method("size", (places[at[0]], at[1]))
        return new[node]

    graph.output([copied(node) for node in parts][-1])
    return fx.GraphModule({}, graph).forward


def opaque(module: fx.GraphModule) -> bool:
    """Whether a graph is left as it is: it gives tensors another meaning (torch.func's levels), or has tensors of a user's own class."""
    for node in module.graph.nodes:
        transforms = node.op == "call_function" and "functorch" in str(getattr(node.target, "__module__", ""))
        if transforms or not isinstance(tensor(node), torch._subclasses.FakeTensor | None):
            return True
    return False
