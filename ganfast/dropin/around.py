"""What goes round dynamo, what must see the graphs that run, and what must not happen while a CUDA graph is recorded."""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch.nn.modules.module import _has_any_global_hook

watching = threading.local()  # modes: those that are to see what the graphs of this thread's call do


@contextlib.contextmanager
def seen_inside_graphs() -> Iterator[None]:
    """Dispatch modes off, until a graph runs, which turns them on for itself: dynamo's guards compare tensors' dispatch keys, so under a
    mode no graph is known, and code that dynamo first meets under one is marked as never to be compiled."""
    from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

    before, watching.modes = getattr(watching, "modes", []), _get_current_dispatch_mode_stack()
    try:
        with _disable_current_modes(), torch.compiler.set_stance("fail_on_recompile"):
            yield
    finally:
        watching.modes = before


def is_seen() -> bool:
    """Whether every dispatch mode that is on, one at least, says by `_ganfast_sees_kernels` that it is to see ganfast's ops."""
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    return bool(modes) and all(getattr(mode, "_ganfast_sees_kernels", False) for mode in modes)


@contextlib.contextmanager
def ops_as_they_are() -> Iterator[None]:
    """Inside, dynamo takes a call of ganfast's own ops, in a user's layers, into its graph as one call. What it traces of an
    autograd.Function has no second derivative."""
    from torch._dynamo import trace_rules

    from ganfast import functional

    known, public = trace_rules._allowed_callable_ids, vars(functional).values()
    ops = [op for op in public if callable(op) and getattr(op, "__module__", "").startswith("ganfast.ops")]
    added = [op for op in ops if id(op) not in known.function_ids]
    for op in added:
        known.add(id(op))
    try:
        yield
    finally:
        for op in added:
            known.remove(id(op))


def leave_backwards() -> None:
    """Tells dynamo to leave the backwards of ganfast's ops, and all that they call, as they are. A gradient that is taken inside a compiled
    function would make a graph of them, and what is traced builds no graph for a second derivative."""
    from torch._C._dynamo.eval_frame import set_code_exec_strategy
    from torch._dynamo.types import FrameAction, FrameExecStrategy

    for function in torch.autograd.Function.__subclasses__():  # those that are imported by now
        if function.__module__.startswith("ganfast."):
            set_code_exec_strategy(function.backward.__code__, FrameExecStrategy(FrameAction.SKIP, FrameAction.SKIP))


def goes_round() -> bool:
    """Whether a call must not go through dynamo: it is being traced or exported, watched by a dispatch mode, transformed by torch.func,
    differentiated forward, or every module's call is hooked."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch.fx._symbolic_trace.is_fx_symbolic_tracing()
        or torch.autograd.forward_ad._current_level >= 0
        or _has_any_global_hook()
    )


def refuse_in_recording(what: str) -> None:
    """A CUDA graph would record the compilation's and the tuner's own work."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"accelerate: {what} while a CUDA graph is recorded: call the model once before, with inputs that look the same")
