"""Parts of a graph as a function of their own, and graphs that are left alone."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import Function
from torch.utils._pytree import tree_leaves

from ganfast._autograd import owned
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


def second_derivatives(module: fx.GraphModule) -> None:
    """Sees to those of the autograd Functions in a graph and its subgraphs. Dynamo traces their backward without grad mode, so that torch
    would take for constants, in silence, what is differentiated again. With grad mode it is as eager's, but for ganfast's own ops, whose
    traced backward has no formulas, for a Function that a backward calls, whose own dynamo leaves out, and for a result that the Function
    saved, of which torch knows a copy without its past: those are an error."""
    for part in module.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            if node.op == "call_function" and node.target is torch.ops.higher_order.autograd_function_apply:
                forward, backward = (part.get_submodule(body.target) for body in node.args[:2])
                if _differentiable(forward.graph, backward.graph):
                    _with_grad_mode(backward.graph)
                else:
                    _refuse(backward.graph)
                backward.recompile()


def _differentiable(forward: fx.Graph, backward: fx.Graph) -> bool:
    given = _end(forward).args[0]
    if not isinstance(given, (tuple, list)) or len(given) != 2:  # another torch's form
        return False
    results, saved = given
    own = any(str(node.target).startswith("ganfast.") for node in backward.nodes)
    return not own and not any(map(_is_inner, backward.nodes)) and not set(_nodes(results)) & set(_nodes(saved))


def _is_inner(node: fx.Node) -> bool:
    """Whether a backward's node is of another Function's forward, whose own backward dynamo has left out."""
    if not node.op.startswith("call_") or node.target is torch._C._set_grad_enabled:
        return False
    return node.stack_trace is None or _INNER.search(node.stack_trace) is not None


_INNER = re.compile(r", in backward\n.*, in forward\n", re.DOTALL)


def _nodes(values: Any) -> list[fx.Node]:
    return [value for value in tree_leaves(values) if isinstance(value, fx.Node)]


def _end(graph: fx.Graph) -> fx.Node:
    return next(node for node in graph.nodes if node.op == "output")


def _with_grad_mode(graph: fx.Graph) -> None:
    """Without the pair of calls around all of it."""
    inside = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    if len(inside) > 1 and all(node.target is torch._C._set_grad_enabled for node in (inside[0], inside[-1])):
        graph.erase_node(inside[-1])
        graph.erase_node(inside[0])


def _refuse(graph: fx.Graph) -> None:
    end = _end(graph)
    with graph.inserting_before(end):
        arriving = tuple(node for node in graph.nodes if node.op == "placeholder")
        end.args = (graph.call_function(_once, (end.args[0], arriving)),)


def _once(gradients: Any, arriving: tuple) -> Any:
    """The gradients that a backward made of its tensors, so that it is an error to differentiate them; those that it only hands on are
    right."""
    tensors = [t for t in arriving if isinstance(t, Tensor)]
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    wrap = lambda g: _Once.apply(g, *tensors) if learns and isinstance(g, Tensor) and not any(g is t for t in tensors) else g
    return tuple(map(wrap, gradients)) if isinstance(gradients, (tuple, list)) else wrap(gradients)


class _Once(Function):
    """A gradient as it is; its own is refused."""

    @staticmethod
    def forward(ctx, g, *tensors):
        return owned(g.view_as(g))

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError(
            "ganfast: one of ganfast's ops, or an autograd Function that saves its own result or has another one in its backward, was "
            "differentiated a second time inside of a graph of torch.compile, which has first derivatives alone of those. "
            "ganfast.accelerate(model) has all of ganfast's ops; what torch.compiler.disable(function) wraps stays out of graphs"
        )
