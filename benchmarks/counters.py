"""What a call costs besides its time: launches, peak memory, and the overhead of the call itself."""

import gc
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from ganfast._memory import allocated_at_most, peak_bytes, profiled
from ganfast._timing import interleaved


def _is_op(name: str) -> bool:
    """An operator of a library ("aten::relu"), not a piece of the autograd engine, which has the same colons."""
    return "::" in name and not name.startswith(("autograd::", "torch::"))


def _dispatched(events) -> int:
    """Operators that no other operator called, e.g. a convolution and not the `empty` inside it."""
    found = 0
    for event in events:
        parent = event.cpu_parent
        while parent is not None and not _is_op(parent.name):
            parent = parent.cpu_parent
        found += parent is None and _is_op(event.name)
    return found


def launches_and_peak(call: Callable[[], object], device: str) -> tuple[int, int]:
    """(launches, peak bytes) of one call. Launches: kernels, copies and fills on a GPU; operators dispatched on a CPU.
    Peak: beyond what lay there before the call. The call's result is kept to the end of both, and of no call before it."""
    if device == "cuda":
        peak = peak_bytes(call, device)
        with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
        return sum(e.device_type == DeviceType.CUDA and not e.is_user_annotation for e in profiler.events()), peak
    gc.collect()
    with profiled(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    return _dispatched(profiler.events()), allocated_at_most(profiler)


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
