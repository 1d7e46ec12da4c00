"""One timer for tuner, compare and benchmarks: rivals take turns in one process, so drift and noise hit all alike.

What a sample is, is the `measure` of `interleaved`: `wall_clock`, the time of a call on any device; a `DeviceClock`, the time
the GPU needs for it with the cost of launching taken out and reported apart; a `QueueClock`, much the same without a graph.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from ganfast._workspaces import own_workspaces


class Timing(NamedTuple):
    """Seconds of one rival: median, 20th and 80th percentile, and every sample in order; `clock` says what a sample is.

    `launch`: what a call costs beyond the device's time (wall time of the uncaptured call less the median); None under
    `wall_clock`, which cannot tell them apart.
    """

    median: float
    p20: float
    p80: float
    samples: list[float]
    clock: str = "wall"
    launch: float | None = None

    @property
    def spread(self) -> float:
        """(p80 - p20) / median: above 0.3 the machine was too noisy to believe small ratios."""
        return (self.p80 - self.p20) / self.median


class Sampler(NamedTuple):
    """One rival made ready: `sample` gives seconds of one call, `wall` the wall seconds of the call as a user makes it."""

    sample: Callable[[], float]
    clock: str
    wall: Callable[[], float] | None = None


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def measure_once(call: Callable[[], object]) -> float:
    """Wall seconds of one call, the device's queue drained before and after."""
    _synchronize()
    start = time.perf_counter()
    call()
    _synchronize()
    return time.perf_counter() - start


def wall_clock(call: Callable[[], object]) -> Sampler:
    return Sampler(lambda: measure_once(call), "wall")


class CudaRuntime:
    """The parts of torch.cuda that DeviceClock needs, so that its bookkeeping can be tested without a GPU."""

    def capture(self, call: Callable[[], object], copies: int) -> Callable[[], None]:
        """A replay of `copies` calls in one CUDA graph. Raises what capture raises, e.g. for a call that synchronises."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # a capture may allocate no library workspace: the first calls off the main stream do
            for _ in range(2):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with own_workspaces(), torch.cuda.graph(graph):
            for _ in range(copies):
                call()
        return graph.replay

    def seconds(self, call: Callable[[], object]) -> float:
        """Device seconds between two events around the call."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def queued(self, call: Callable[[], object], times: int, behind: float) -> float:
        """Device seconds between two events around `times` calls that wait in the queue behind `behind` seconds of sleep."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(behind * 2e9))  # cycles, of a clock of at most 2 GHz
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def enqueue(self, call: Callable[[], object]) -> float:
        """Host seconds until the call returns, its work still queued."""
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        torch.cuda.synchronize()
        return took

    def wall(self, call: Callable[[], object]) -> float:
        return measure_once(call)

    def synchronize(self) -> None:
        torch.cuda.synchronize()


class DeviceClock:
    """`measure` for GPU rivals: the call is captured once and replayed, so Python and launches cost nothing of a sample.

    Short calls are captured several times into one graph, or the event pair and the graph's own launch (about 5 us) would
    be most of the sample. A call that cannot be captured is timed by events instead, and `clock` says so and why.
    """

    ENOUGH = 300e-6  # a replay of at least this much device time makes the graph's launch less than 2 % of a sample
    MOST_COPIES = 64

    def __init__(self, runtime: CudaRuntime | None = None) -> None:
        self.runtime = runtime or CudaRuntime()

    def __call__(self, call: Callable[[], object]) -> Sampler:
        runtime = self.runtime
        wall = lambda: runtime.wall(call)
        try:
            replay, copies = runtime.capture(call, 1), 1
            runtime.seconds(replay)  # the first replay uploads the graph
            once = runtime.seconds(replay)
            wanted = min(self.MOST_COPIES, math.ceil(self.ENOUGH / max(once, 1e-9)))
            if wanted > 1:
                del replay  # a graph goes before its successor is recorded on the same stream
                replay, copies = runtime.capture(call, wanted), wanted
                runtime.seconds(replay)
        except Exception as error:  # whatever a rival's capture raises: it can still be timed
            runtime.synchronize()
            reason = (str(error).splitlines() or [""])[0][:120]
            return Sampler(lambda: runtime.seconds(call), f"events (no graph: {type(error).__name__}: {reason})", wall)
        return Sampler(lambda: runtime.seconds(replay) / copies, "graph", wall)


class QueueClock:
    """`measure` for GPU rivals that may not be captured, as a capture would disturb other threads' work: the tuner's."""

    COPIES = 5

    def __init__(self, runtime: CudaRuntime | None = None) -> None:
        self.runtime = runtime or CudaRuntime()

    def __call__(self, call: Callable[[], object]) -> Sampler:
        enqueue = self.runtime.enqueue(call)
        behind = max(5e-4, 2 * self.COPIES * enqueue)  # twice what launching them takes: the queue must not run dry
        return Sampler(lambda: self.runtime.queued(call, self.COPIES, behind) / self.COPIES, "queue")


def interleaved(
    rivals: Mapping[str, Callable[[], object]],
    repeats: int = 10,
    warmup: int = 2,
    *,
    seconds: float | None = None,
    at_least: int = 5,
    measure: Callable[[Callable[[], object]], Sampler] = wall_clock,
) -> dict[str, Timing]:
    """Times every rival `repeats` times in rounds; each round starts with another one.

    With `seconds` (of wall time, per rival) no round is begun once they are spent, after `at_least` of them. `measure` makes a
    rival ready and says what a sample is.

    Raises: ValueError for no rivals or fewer than one repeat.
    """
    if not rivals or repeats < 1:
        raise ValueError(f"interleaved: wants at least one rival and one repeat, got {len(rivals)} and {repeats}")
    names = list(rivals)
    for _ in range(warmup):
        for name in names:
            rivals[name]()
    samplers = {name: measure(rivals[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for r in range(repeats):
        if seconds is not None and r >= at_least and time.perf_counter() - start > seconds * len(names):
            break
        for name in names[r % len(names) :] + names[: r % len(names)]:
            samples[name].append(samplers[name].sample())
    return {name: _summary(times, samplers[name]) for name, times in samples.items()}


def _summary(times: list[float], sampler: Sampler) -> Timing:
    ordered = sorted(times)
    at = lambda q: ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]
    median = statistics.median(ordered)
    launch = None
    if sampler.wall is not None:
        launch = max(0.0, statistics.median(sampler.wall() for _ in range(5)) - median)
    return Timing(median, at(0.2), at(0.8), times, sampler.clock, launch)


def interleaved_medians(rivals: Mapping[str, Callable[[], object]], repeats: int = 10, warmup: int = 2) -> dict[str, float]:
    """Median seconds of each rival; see `interleaved`."""
    return {name: timing.median for name, timing in interleaved(rivals, repeats, warmup).items()}
