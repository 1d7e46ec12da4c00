"""What a graph from dynamo says of its nodes: calls by name, the tensors' looks, who shares memory with whom, who writes into it."""

import functools
import inspect
import operator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ganfast import _layout

_HOMES = (torch, F, torch._C._nn, torch.special, operator)
_OPERATORS = {"iadd": "add_", "isub": "sub_", "imul": "mul_", "itruediv": "div_", "truediv": "div"}
_IN_PLACE = {f"i{name}" for name in ("and", "concat", "floordiv", "lshift", "matmul", "mod", "or", "pow", "rshift", "xor")}
# Of a tensor's attribute, its .H, and of what torch's own modules count themselves by.
_HARMLESS = (getattr, torch._C._log_api_usage_once)
# torch has functions of these names that take their arguments in another order.
_THE_ONES = {"batch_norm": F.batch_norm, "instance_norm": F.instance_norm, "elu": F.elu}
_CONV = "weight bias stride padding dilation groups"
_CONV_TRANSPOSE = "weight bias stride padding output_padding groups dilation"
# What may follow x by position.
_ORDER = {
    **{f"conv{n}d": _CONV for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _CONV_TRANSPOSE for n in (1, 2, 3)},
    "batch_norm": "running_mean running_var weight bias training momentum eps",
    "instance_norm": "running_mean running_var weight bias use_input_stats momentum eps",
    "group_norm": "num_groups weight bias eps",
    "interpolate": "size scale_factor mode align_corners recompute_scale_factor antialias",
    **dict.fromkeys(("relu", "selu", "silu"), "inplace"),
    "leaky_relu": "negative_slope inplace",
    "prelu": "weight",
    "elu": "alpha inplace",
    "softplus": "beta threshold",
    "clamp": "min max",
    **dict.fromkeys(("add", "mul", "div"), "other"),
    "pow": "exponent",
    "pad": "pad mode value",
    "getitem": "index",
    "sum": "dim keepdim",
}
_DEFAULTS: dict[str, Any] = {
    "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0, "weight": None, "running_mean": None,
    "running_var": None, "training": False, "use_input_stats": True, "momentum": 0.1, "eps": 1e-5, "inplace": False,
    "negative_slope": 0.01, "alpha": 1.0, "beta": 1.0,
}  # fmt: skip


class Call(NamedTuple):
    """A call of a function or method known by name; arguments: all but x by name, torch's defaults filled in."""

    name: str
    x: Any
    arguments: dict[str, Any]


def name_of(node: fx.Node) -> str:
    """A method's name, or that of a function of torch or `operator`, "" for anything else; those that work in place end in _."""
    if node.op == "call_method":
        return node.target
    if node.op != "call_function":
        return ""
    name = getattr(node.target, "__name__", "")
    if not any(getattr(home, name, None) is node.target for home in _HOMES) or _THE_ONES.get(name, node.target) is not node.target:
        return ""
    return _OPERATORS.get(name, name)


def read(node: Any) -> Call:
    """Without a name where it is no call, or has an argument that `_ORDER` does not know."""
    if not isinstance(node, fx.Node):
        return Call("", None, {})
    name = name_of(node)
    order = _ORDER.get(name.rstrip("_"), "").split()
    first = {"input": node.args[0]} if node.args else {}
    given = first | dict(zip(order, node.args[1:])) | dict(node.kwargs)
    if not name or "input" not in given or len(node.args) - 1 > len(order):
        return Call("", None, {})
    known = {key: value for key, value in _DEFAULTS.items() if key in order}
    return Call(name, given.pop("input"), known | given)


def works_in_place(node: fx.Node) -> bool:
    """Whether it writes into its first argument."""
    name = name_of(node)
    if name in ("setitem", "__setitem__", *_IN_PLACE) or (name.endswith("_") and not name.endswith("__")):
        return True
    if node.op != "call_function" or name == "":
        return False
    if "inplace" in node.kwargs:
        return node.kwargs["inplace"] is True
    at = _place_of_inplace(node.target)
    return at is not None and at < len(node.args) and node.args[at] is True


@functools.cache
def _place_of_inplace(target) -> int | None:
    try:
        return list(inspect.signature(target).parameters).index("inplace")
    except (TypeError, ValueError):  # it has none, as all of torch's builtins, which have no signature
        return None


def tensor(node: Any) -> Tensor | None:
    """The fake tensor that dynamo saw as the node's value."""
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def storages(*nodes: Any) -> set[int]:
    """The memory of the nodes' tensors, which may stand in lists: views share it."""
    values = [node.meta.get("example_value") for node in torch.utils._pytree.tree_leaves(nodes) if isinstance(node, fx.Node)]
    return {t.untyped_storage()._cdata for t in torch.utils._pytree.tree_leaves(values) if isinstance(t, Tensor)}


def version(node: fx.Node) -> int:
    """How often the node's memory was written to in the whole graph."""
    try:
        return tensor(node)._version
    except RuntimeError:  # inference tensors keep no count, and nothing of them is saved
        return 0


def written(node: fx.Node) -> set[int]:
    """The memory that the call writes to: of every argument, where nothing says which."""
    if works_in_place(node):
        return storages(node.args[0])
    if name_of(node) in ("batch_norm", "instance_norm"):
        return storages(*node.args[1:3], node.kwargs.get("running_mean"), node.kwargs.get("running_var"))
    if "out" in node.kwargs or (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
        return storages(*node.all_input_nodes)
    return set()


def is_written(node: fx.Node) -> bool:
    """Whether anything in the graph writes to the node's memory, before or after the node, or may do so."""
    own = storages(node)
    reached = (storages(*n.all_input_nodes) if is_barrier(n) else written(n) for n in node.graph.nodes)
    return version(node) > 0 or any(memory & own for memory in reached)


_SWITCHES = {"_set_grad_enabled": "grad", "_enter_autocast": "enter", "_exit_autocast": "exit"}


def switch(node: fx.Node) -> str:
    """ "grad", "enter" or "exit" of a call that switches grad mode, or goes into autocast or out of it; else empty."""
    return _SWITCHES.get(getattr(node.target, "__name__", ""), "") if node.op == "call_function" and not name_of(node) else ""


def regimes(graph: fx.Graph) -> dict[fx.Node, tuple]:
    """The grad mode and the autocasts that are on at each node: dynamo hands a graph on in the grad mode that it begins in, and of
    autocasts what the graph's own calls set."""
    grad, casts, found = torch.is_grad_enabled(), [], {}
    for node in graph.nodes:
        kind = switch(node)
        if kind == "grad":
            grad = node.args[0]
        elif kind == "enter":
            casts.append(node)
        elif kind == "exit" and casts:
            casts.pop()
        found[node] = grad, *casts
    return found


def is_pure(node: fx.Node) -> bool:
    """Whether a call may be made once more, on copies of what it writes to: it computes, and does nothing else."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target.namespace == "aten"
    return not is_barrier(node) and "generator" not in node.kwargs


def is_barrier(node: fx.Node) -> bool:
    """Whether it may do more than compute, in ways that the graph does not show: code of a user's own."""
    known = name_of(node) or switch(node) or node.target in _HARMLESS or isinstance(node.target, torch._ops.OpOverload)
    return node.op == "call_module" or (node.op == "call_function" and not known)


def is_same(node: fx.Node) -> bool:
    """Whether a view or reshape gives what it is given: of the same shape, strides and dtype, and as much a part of the autograd graph."""
    y, x = tensor(node), tensor(node.args[0]) if node.args else None
    if name_of(node) not in ("view", "reshape") or y is None or x is None or y.dtype != x.dtype or y.requires_grad != x.requires_grad:
        return False
    looks = (spelt((*t.shape, *t.stride())) for t in (y, x))
    return y.dim() == x.dim() and next(looks) == next(looks) and bool(storages(node) & storages(node.args[0]))


def is_floating(t: Tensor | None) -> bool:
    return t is not None and t.is_floating_point()


def channels(t: Tensor) -> int | None:
    """How many there are along dimension 1; None where that is not fixed."""
    return t.shape[1] if t.dim() > 1 and type(t.shape[1]) is int else None


def per_channel(node: Any, x: Tensor) -> bool:
    """Whether the node is a tensor that broadcasts over x with one value for each channel."""
    t, count = tensor(node), channels(x)
    if t is None or count is None or t.dtype != x.dtype or t.device != x.device or t.dim() > x.dim():
        return False
    shape = [1] * (x.dim() - t.dim()) + list(t.shape)
    return shape[1] == count and all(type(s) is int and s == 1 for i, s in enumerate(shape) if i != 1)


def per_image(node: Any, x: Tensor) -> bool:
    """Whether the node is a tensor with one value for each channel of each image of x."""
    t = tensor(node)
    if t is None or t.dtype != x.dtype or t.device != x.device or t.dim() != x.dim() or x.dim() < 3:
        return False
    return spelt(t.shape[:2]) == spelt(x.shape[:2]) and all(type(s) is int and s == 1 for s in t.shape[2:])


def same_shape(node: Any, x: Tensor) -> bool:
    """Whether the node is a tensor like x."""
    t = tensor(node)
    return t is not None and t.dtype == x.dtype and t.device == x.device and t.dim() == x.dim() and spelt(t.shape) == spelt(x.shape)


def same_strides(node: fx.Node, other: fx.Node) -> bool:
    """Whether two values of one shape lie alike in memory."""
    return spelt(tensor(node).stride()) == spelt(tensor(other).stride())


def is_contiguous(node: fx.Node) -> bool:
    """Whether an image lies as torch's views make it, strides of dimensions of one and of an unknown size included."""
    t = tensor(node)
    *_, channel, high, wide = t.shape
    return spelt(t.stride()) == spelt((channel * high * wide, high * wide, wide, 1))


def spelt(sizes: Any) -> list[str]:
    """Sizes that can be compared, fixed or not."""
    return [str(size) for size in sizes]


def each(option: Any, dims: int) -> tuple:
    """torch reads one number, alone or in a tuple, as that of every dimension."""
    given = option if isinstance(option, tuple) else (option,)
    return given if len(given) == dims else given * dims


def has_fixed_sizes(t: Tensor) -> bool:
    """Whether sizes and strides are numbers, which dynamo guards."""
    return all(type(size) is int for size in (*t.shape, *t.stride()))


def is_dense(t: Tensor) -> bool:
    """Whether it lies as torch's formats have it, as far as fixed sizes tell; of sizes that change, whether its last dimension is the
    innermost."""
    if not has_fixed_sizes(t):
        return t.stride(-1) == 1 if type(t.stride(-1)) is int else False
    return _layout.is_dense(t)


class Names:
    """What nodes are called for the user: the path of the layer whose forward makes the call, or the function as "relu()" where that layer
    holds others. `root`: the model, whose names the layers have; None: as the graph spells them. `path`: in it, of the module that was
    called, for which dynamo has no name."""

    def __init__(self, graph: fx.Graph, root: torch.nn.Module | None, path: str = "") -> None:
        self.called = path
        self.known = {} if root is None else {id(m): name for name, m in root.named_modules()}
        self.paths = {self._path(node) for node in graph.nodes}

    def _path(self, node: fx.Node) -> str:
        stack = node.meta.get("nn_module_stack") or {}
        if not stack:
            return self.called
        key, (path, *_) = list(stack.items())[-1]
        if key.isdigit() and int(key) in self.known:
            return self.known[int(key)]
        return path.partition("]")[2].lstrip(".") if path.startswith("L[") else path

    def of(self, node: fx.Node, function: str) -> str:
        path = self._path(node)
        holds = any(other.startswith(f"{path}.") and not other.startswith(f"{path}.parametrizations") for other in self.paths)
        return f"{function}()" if path == "" or holds else path
