"""What every op's backward asks: will this be differentiated again, and is autocast in the way."""

import contextlib

import torch
from torch import Tensor


def differentiates() -> bool:
    """True where a backward must build a graph. A compiled region has no double backward (torch refuses it), and its
    backward is traced with grad mode on, so tracing counts as no."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


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
    if torch.compiler.is_compiling():
        return needs
    skips = weights and _skips()
    # Inputs that need no gradient, and those that are no tensors, have no node.
    nodes = iter([node for node, _ in ctx.next_functions if node is not None])
    wanted = []
    for i, need in enumerate(needs):
        if need and (node := next(nodes, None)) is not None:
            # The answer for a leaf that autograd.grad wants costs 15 us: not asked for an image that is one, nor for what is nearly
            # free beside the weight's gradient.
            free = isinstance(node, _Leaf) and (i == 0 or (i > 1 and wanted[1]))
            need = not (skips and i in weights) and (free or _runs(node))
        wanted.append(need)
    return tuple(wanted)


_Leaf = torch._C._functions.AccumulateGrad


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
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast would cast the tensor to; None where it is off."""
    return torch.get_autocast_dtype(tensor.device.type) if autocasts(tensor) else None


def no_autocast(tensor: Tensor):
    """Backward formulas mix dtypes on purpose; autocast would cast one side of them."""
    return torch.autocast(tensor.device.type, enabled=False) if autocasts(tensor) else contextlib.nullcontext()
