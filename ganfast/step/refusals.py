"""What cannot be in a graph, told by name before anything is tried."""

import functools
import gc
import weakref

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ganfast.step.errors import CaptureError
from ganfast.step.reach import Reached

_PARALLEL = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel", "FSDPModule", "DTensor")


def refuse(reached: Reached, device: torch.device) -> None:
    """Raises CaptureError for a module that talks to other processes, an optimizer that waits for the device or whose first step is
    unlike the others."""
    for module in reached.modules:
        names = [cls.__name__ for cls in type(module).__mro__]
        parallel = next((name for name in names if name in _PARALLEL), None)
        if parallel is None and isinstance(module, nn.SyncBatchNorm) and _in_group():
            parallel = "SyncBatchNorm in a process group"
        if parallel:
            raise CaptureError(
                f"capture: {parallel} is not supported: its communication would have to be recorded by every process at the same time. "
                "Run the step uncaptured, or capture in a run of one process."
            )
    for _, name in reached.iterators:
        raise CaptureError(
            f"capture: the step draws from {name}, which counts in Python, and a replay runs none: draw outside and pass what it gives."
        )
    for optimizer in reached.optimizers:
        _refuse_optimizer(optimizer, device)


def _refuse_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if device.type != "cpu" and not group.get("capturable", True):
            raise CaptureError(f"capture: {name} counts its steps on the host: make it with capturable=True (and Adam with fused=True).")
        first = any(not optimizer.state.get(p) for p in group["params"])
        if first and group.get("momentum") and group.get("dampening"):
            raise CaptureError(f"capture: the first step of {name} with dampening is unlike the others: take one before capture.")


def refuse_held_graphs(reached: Reached) -> None:
    """Raises CaptureError where a result of an earlier step, kept with its graph, holds the node that adds to a parameter's gradient:
    that node runs on the stream it was made on, which no recording on another one may wait for."""
    for part in {part for module in reached.modules for part in module.modules()}:
        _drop_computed_weights(part)
    names = {id(p): name for module in reached.modules for name, p in module.named_parameters()}
    learns = [p for p in reached.parameters() if p.requires_grad and p.is_leaf]
    if any(map(_node_is_held, learns)):
        gc.collect()  # what only a cycle of garbage holds is nobody's result
    for p in learns:
        if _node_is_held(p):
            raise CaptureError(
                f"capture: an earlier result is still there with its graph, which holds {names.get(id(p), 'a parameter')} of shape "
                f"{tuple(p.shape)}: delete the old loss (del loss, or keep loss.detach() or loss.item()) and whatever else of earlier "
                "steps requires grad, then capture."
            )


def _drop_computed_weights(module: nn.Module) -> None:
    """torch's older weight and spectral norm leave the weight of the last forward, with its graph, in the module; the next one makes it
    anew."""
    for hook in module._forward_pre_hooks.values():
        weight = vars(module).get(hook.name) if isinstance(hook, (WeightNorm, SpectralNorm)) else None
        if isinstance(weight, torch.Tensor) and weight.requires_grad:
            setattr(module, hook.name, weight.detach())


class _Mark:
    """On a node; dies with it."""


def _node_is_held(p: nn.Parameter) -> bool:
    """Whether anything holds the AccumulateGrad node of p, which torch makes anew where nothing does."""
    mark = _Mark()
    alive = weakref.ref(mark)
    handle = torch.autograd.graph.get_gradient_edge(p).node.register_prehook(functools.partial(_unchanged, mark))
    del mark
    held = alive() is not None
    handle.remove()
    return held


def _unchanged(mark: _Mark, gradients: tuple) -> None:
    return None


def _in_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
