"""How much memory a call takes at its peak, and what a forward keeps for its backward: one measure for compare and benchmarks."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def _walk(events) -> Iterator:
    for event in events:
        yield event
        yield from _walk(event.children)


def allocated_at_most(profiler: profile) -> int:
    """The peak of what the call had allocated, from the allocator's own reports: C++ operators' included."""
    from torch._C._profiler import _EventType  # private: kept out of a GPU's run, which does without

    tree = profiler.profiler.kineto_results.experimental_event_tree()
    changes = [(event.start_time_ns, event.extra_fields.alloc_size) for event in _walk(tree) if event.tag == _EventType.Allocation]
    total = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        total += change
        peak = max(peak, total)
    return peak


@contextlib.contextmanager
def profiled(**options) -> Iterator[profile]:
    """torch's profiler without the two lines that some builds write to the terminal's stderr when it starts and stops."""
    profiler = profile(**options)
    with _silent():
        profiler.__enter__()
    try:
        yield profiler
    finally:
        with _silent():
            profiler.__exit__(None, None, None)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nothing)
        os.close(kept)


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The peak of one call, beyond what lay there before it. The call's result is kept to the end."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del kept
        return peak
    with profiled(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    return allocated_at_most(profiler)


def saved_bytes(model: nn.Module, call: Callable[[], object]) -> int:
    """Bytes of all that autograd saves in a forward, parameters and buffers excepted; memory that is saved twice counts once."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = t  # kept alive: its address must not be used again
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = call()
    total = sum(t.untyped_storage().nbytes() for t in kept.values())
    del result
    return total
