"""What a call costs besides its time: launches, peak memory, and the overhead of the call itself."""

import gc
from collections.abc import Callable, Iterator

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ganfast._timing import interleaved


def _is_op(name: str) -> bool:
    """An operator of a library ("aten::relu"), not a piece of the autograd engine, which has the same colons."""
    return "::" in name and not name.startswith(("autograd::", "torch::"))


def _walk(events) -> Iterator:
    for event in events:
        yield event
        yield from _walk(event.children)


def _dispatched(events) -> int:
    """Operators that no other operator called, e.g. a convolution and not the `empty` inside it."""
    found = 0
    for event in events:
        parent = event.cpu_parent
        while parent is not None and not _is_op(parent.name):
            parent = parent.cpu_parent
        found += parent is None and _is_op(event.name)
    return found


def _allocated_at_most(profiler: profile) -> int:
    """The peak of what the call had allocated, from the allocator's own reports: C++ operators' included."""
    from torch._C._profiler import _EventType  # private: kept out of a GPU's run, which does without

    tree = profiler.profiler.kineto_results.experimental_event_tree()
    changes = [(event.start_time_ns, event.extra_fields.alloc_size) for event in _walk(tree) if event.tag == _EventType.Allocation]
    total = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        total += change
        peak = max(peak, total)
    return peak


def launches_and_peak(call: Callable[[], object], device: str) -> tuple[int, int]:
    """(launches, peak bytes) of one call. Launches: kernels, copies and fills on a GPU; operators dispatched on a CPU.
    Peak: beyond what lay there before the call. The call's result is kept to the end of both, and of no call before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del kept
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
        return sum(e.device_type == DeviceType.CUDA and not e.is_user_annotation for e in profiler.events()), peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    return _dispatched(profiler.events()), _allocated_at_most(profiler)


def overhead(calls: dict[str, Callable[[], object]], count: int = 25, groups: int = 3) -> dict[str, float]:
    """Microseconds of a call on tiny tensors: the least of the groups' medians over blocks of `count` calls, taken in turns."""

    def block(call):
        def run():
            for _ in range(count):
                call()

        return run

    blocks = {name: block(call) for name, call in calls.items()}
    rounds = [interleaved(blocks, repeats=5, warmup=1) for _ in range(groups)]
    return {name: min(timings[name].median for timings in rounds) / count * 1e6 for name in calls}
