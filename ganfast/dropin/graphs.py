"""Parts of a graph as a function of their own, and graphs that are left alone."""

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.autograd import Function

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


def refuse_second_derivatives(module: fx.GraphModule) -> None:
    """Makes the second derivative of every autograd Function in a graph an error: dynamo has traced its backward without grad mode, so that
    torch would take what is to be differentiated again for a constant, in silence."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.higher_order.autograd_function_apply:
            graph = module.get_submodule(node.args[1].target).graph
            (end,) = (n for n in graph.nodes if n.op == "output")
            with graph.inserting_before(end):
                arriving = tuple(n for n in graph.nodes if n.op == "placeholder")
                end.args = (graph.call_function(_differentiated_once, (end.args[0], arriving)),)


def _differentiated_once(gradients, arriving: tuple):
    """The results of a traced backward, which nothing differentiates on a way through what arrived at it."""
    learns = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arriving)
    wrap = lambda g: _Once.apply(g, *(t for t in arriving if isinstance(t, Tensor))) if learns and isinstance(g, Tensor) else g
    return tuple(map(wrap, gradients)) if isinstance(gradients, (tuple, list)) else wrap(gradients)


class _Once(Function):
    """A gradient as it is; its own is refused."""

    @staticmethod
    def forward(ctx, g, *arriving):
        return g.view_as(g)

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError(
            "ganfast: an autograd Function, one of ganfast's ops or another, was differentiated a second time inside of "
            'torch.compile(backend="ganfast"), which has first derivatives alone of those; ganfast.accelerate(model) has all'
        )
