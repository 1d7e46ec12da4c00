"""What every op's backward asks: will this be differentiated again, and is autocast in the way."""

import contextlib
import threading

import torch
from torch import Tensor
from torch.autograd import Function


def compiles() -> bool:
    """Whether this thread traces for torch.compile or torch.export. torch's flag is one for all threads: those that train meanwhile
    would lose their second derivatives."""
    return torch.compiler.is_compiling() and (torch.compiler.is_dynamo_compiling() or torch._C._len_torch_dispatch_stack() > 0)


def differentiates() -> bool:
    """True where a backward must build a graph. A compiled region has no double backward (torch refuses it), and its
    backward is traced with grad mode on, so tracing counts as no."""
    return torch.is_grad_enabled() and not compiles()


class _Here(threading.local):
    """`twice`: whether this thread runs a forward whose gradient will be differentiated. Torch's convolutions then take far longer than
    ganfast's, which a trial of a group, whose gradient is taken once, does not show."""

    twice = False


here = _Here()


@contextlib.contextmanager
def differentiating_twice():
    before, here.twice = here.twice, True
    try:
        yield
    finally:
        here.twice = before


class no_weight_gradients(contextlib.ContextDecorator):
    """Context manager (or decorator): a backward inside leaves out the gradients of the weights, biases and alphas of ganfast's
    convolutions, as an inner backward for the image's gradient alone wants; they come out None. What is built by create_graph=True
    inside has every gradient when it is differentiated outside. Nests, restores on exceptions, and holds for the calling thread.

    torch.autograd.grad(..., inputs=images) saves the same by itself; this is for a plain backward(). The state is in torch's own
    thread-local storage: the autograd engine hands that of the thread that called backward to those that run a GPU's nodes.
    """

    def __enter__(self) -> None:
        torch._C._stash_obj_in_tls(_SKIPS, _skips() + 1)

    def __exit__(self, *_: object) -> None:
        torch._C._stash_obj_in_tls(_SKIPS, _skips() - 1)


_SKIPS = "ganfast.no_weight_gradients"  # how many of them this thread is inside of


def _skips() -> int:
    return torch._C._get_obj_in_tls(_SKIPS) if torch._C._is_key_in_tls(_SKIPS) else 0


def wanted_gradients(ctx, weights: tuple[int, ...] = ()) -> tuple[bool, ...]:
    """ctx.needs_input_grad, in a backward, less what this run of the engine throws away: needs_input_grad is the forward's, and
    stays true for a weight when torch.autograd.grad asks for the image's gradient alone. Input 0 is the image, input 1 the weight,
    whose gradients are the expensive ones; `weights`: the inputs that no_weight_gradients is about."""
    needs = ctx.needs_input_grad
    if compiles():
        return needs
    skips = weights and _skips()
    nodes = _nodes(ctx)
    wanted = []
    for i, need in enumerate(needs):
        if need and (node := nodes[i]) is not None:
            # The answer for a leaf that autograd.grad wants costs 15 us: not asked for an image that is one, nor for what is nearly
            # free beside the weight's gradient.
            leaf = isinstance(node, _Leaf)
            free = leaf and (i == 0 or (i > 1 and wanted[1]))
            need = not (skips and i in weights) and (free or _runs(node)) and not (leaf and i == 0 and not node.variable.requires_grad)
        wanted.append(need)
    return tuple(wanted)


_Leaf = torch._C._functions.AccumulateGrad


def handle(tensor: Tensor | None) -> Tensor | None:
    """What a forward saves of an input whose place in the graph its backward needs, but not its numbers. Of a leaf nothing is saved, so
    that an optimizer may change it before the backward: `handle_of` finds it in the graph."""
    return None if tensor is None or compiles() or tensor.is_leaf else tensor


def kept(vector: Tensor | None) -> Tensor | None:
    """What an op hands to its Function of a vector [C] that torch's backward does not read: a copy of a leaf, so that an optimizer may
    change it before the backward. Others are results that nobody changes."""
    return vector.clone() if vector is not None and vector.is_leaf else vector


def savable(tensor: Tensor | None) -> Tensor | None:
    """What a forward saves of an input of which torch's saves only a sum: of what inference mode made a copy, as autograd refuses it."""
    return tensor.clone() if tensor is not None and not compiles() and tensor.is_inference() else tensor


def owned(tensor: Tensor) -> Tensor:
    """What a Function's forward gives: no view, as torch forbids to change one in place that was made in there."""
    if compiles() or not tensor._is_view():
        return tensor
    return tensor.new_empty(0).set_(tensor)


def handle_of(ctx, index: int, saved: Tensor | None) -> Tensor | None:
    """In a backward: input `index` of the forward, as a place in the graph; None where it needs no gradient."""
    if saved is not None or not ctx.needs_input_grad[index]:
        return saved
    node = _nodes(ctx)[index]
    return node.variable if isinstance(node, _Leaf) else None


def _nodes(ctx) -> dict:
    """The node of every input of the forward that needs a gradient. Those that need none, and those that are no tensors, have none."""
    nodes = iter([node for node, _ in ctx.next_functions if node is not None])
    return {i: next(nodes, None) for i, need in enumerate(ctx.needs_input_grad) if need}


class _Reaches(Function):
    """gz as it is; a double backward hands zeros to the other tensors."""

    @staticmethod
    def forward(ctx, gz, *tensors):
        ctx.tensors = [None if t is None else (t.shape, t.dtype, t.device, t.is_leaf) for t in tensors]
        return gz.view_as(gz)

    @staticmethod
    def backward(ctx, u):
        # On the way one zero, expanded: it costs no pass, and the sum with what else arrives has the memory format of that.
        zero = lambda shape, dtype, device, leaf: torch.zeros(shape if leaf else (), dtype=dtype, device=device).expand(shape)
        return u, *(zero(*t) if need else None for t, need in zip(ctx.tensors, ctx.needs_input_grad[1:]))


def reaching(gz: Tensor, *tensors: Tensor | None) -> Tensor:
    """gz, the gradient on one side of a piecewise linear activation, whose double backward gives `tensors` zeros. torch's does, through the
    activation's saved output: an optimizer or DDP that waits for every gradient gets one. Torch's zeros run through every earlier
    convolution; these go where nothing else leads."""
    return _Reaches.apply(gz, *tensors) if any(t is not None and t.requires_grad for t in tensors) else gz


def _unreached(node) -> list[Tensor] | None:
    """The leaves before this node of a forward's graph that a double backward hands no zeros to, unless they are handed here; None where
    that takes too long to find out. Every way back ends at one of ganfast's activations whose backward runs now, which sees to what
    lies before itself. To the weight of a linear convolution whose backward runs now leads its own double backward."""
    todo, seen, leaves = [node], set(), []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if len(seen) > 64:
            return None
        if isinstance(node, _Leaf):
            leaves.append(node.variable)
            continue
        before, op = [before for before, _ in node.next_functions if before is not None], getattr(type(node), "_forward_cls", None)
        # One whose output autograd.grad was asked for counts as wanted; it runs only where something before it is wanted too.
        if getattr(op, "reaches_back", False) and _runs(node) and any(map(_runs, before)):
            inputs = _nodes(node)
            if node.spec.act != "linear":  # of a residual that is added last the activation knows nothing
                before = [inputs.get(op.residual)] if getattr(node.spec, "residual", "") == "last" else []
            elif (x := inputs.get(0)) is not None and _runs(x):
                before = [before for i, before in inputs.items() if i != getattr(op, "weight", None)]
        todo += before
    return leaves


def before(ctx, saved: Tensor | None = None, index: int = 0) -> tuple[list[Tensor], bool]:
    """For the double backward of a forward whose input `index` is x: (the tensors to hand zeros to for what lies before x, whether these
    are enough). `saved` is x if the forward saved it. The second is False where x itself would have to get them and was not saved."""
    leaves = _unreached(_nodes(ctx).get(index))
    if leaves is not None:
        return leaves, True
    return ([] if saved is None else [saved]), saved is not None


def _runs(node) -> bool:
    """Whether this run of the engine will use what is passed on to the node. When in doubt it will: the question is an error for
    a leaf that autograd.grad was asked for, which is wanted, and outside of a backward."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return True


def autocasts(tensor: Tensor) -> bool:
    """True where autocast is on for the tensor's device; devices without one (meta) raise when asked."""
    kind = tensor.device.type
    if kind in ("cpu", "cuda") and not torch._C._is_any_autocast_enabled():  # which does not know of mps
        return False
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast would cast the tensor to; None where it is off."""
    return torch.get_autocast_dtype(tensor.device.type) if autocasts(tensor) else None


def no_autocast(tensor: Tensor):
    """Backward formulas mix dtypes on purpose; autocast would cast one side of them."""
    return torch.autocast(tensor.device.type, enabled=False) if autocasts(tensor) else _NOTHING


_NOTHING = contextlib.nullcontext()
