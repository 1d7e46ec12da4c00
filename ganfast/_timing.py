"""One timer for compare, benchmarks and tuner: rivals take turns in one process, so drift and noise hit all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Seconds of one rival: median, 20th and 80th percentile, and every sample in order."""

    median: float
    p20: float
    p80: float
    samples: list[float]

    @property
    def spread(self) -> float:
        """(p80 - p20) / median: above 0.3 the machine was too noisy to believe small ratios."""
        return (self.p80 - self.p20) / self.median


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


def interleaved(rivals: Mapping[str, Callable[[], object]], repeats: int = 10, warmup: int = 2) -> dict[str, Timing]:
    """Times every rival `repeats` times in rounds; each round starts with another one.

    Raises: ValueError for no rivals or fewer than one repeat.
    """
    if not rivals or repeats < 1:
        raise ValueError(f"interleaved: wants at least one rival and one repeat, got {len(rivals)} and {repeats}")
    names = list(rivals)
    for _ in range(warmup):
        for name in names:
            rivals[name]()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for r in range(repeats):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            samples[name].append(measure_once(rivals[name]))
    return {name: _summary(times) for name, times in samples.items()}


def _summary(times: list[float]) -> Timing:
    ordered = sorted(times)
    at = lambda q: ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]
    return Timing(statistics.median(ordered), at(0.2), at(0.8), times)


def interleaved_medians(rivals: Mapping[str, Callable[[], object]], repeats: int = 10, warmup: int = 2) -> dict[str, float]:
    """Median seconds of each rival; see `interleaved`."""
    return {name: timing.median for name, timing in interleaved(rivals, repeats, warmup).items()}
