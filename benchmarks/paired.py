"""How sure a ratio is: eager's time over ganfast's within each round, and an interval for the median of these ratios."""

import statistics
from collections.abc import Mapping

from benchmarks.rivals import who_and_layout
from ganfast._timing import Timing

_OUTSIDE = 40  # one in so many on either side: a 95 % interval


def _rank(count: int) -> int:
    """The largest k at which the k-th smallest and the k-th largest of `count` values enclose the true median with 95 %; 0 where there is
    none. The k-th smallest lies above the median if fewer than k values lie below it, each of which does with probability 1/2."""
    k, fewer, ways = 0, 0, 1
    while (fewer := fewer + ways) * _OUTSIDE <= 2**count:
        ways = ways * (count - k) // (k + 1)
        k += 1
    return k


def interval(ratios: list[float]) -> list[float] | None:
    """[low, median, high]: the 95 % interval of the median by order statistics (binomial), which asks nothing of how the ratios are
    distributed, only that rounds are independent. None of fewer than six ratios: their smallest and largest enclose it with less.
    Another process, with its memory elsewhere, may give another median: the interval does not cover that."""
    ordered, k = sorted(ratios), _rank(len(ratios))
    return [ordered[k - 1], statistics.median(ordered), ordered[-k]] if k else None


def against_eager(timings: Mapping[str, Timing]) -> dict[str, list[float]]:
    """Layout -> [low, median, high] of eager's time over ganfast's, for the layouts that both ran in, six rounds or more."""
    found = {}
    for name, eager in timings.items():
        who, layout = who_and_layout(name)
        ours = timings.get(f"ganfast-{layout}" if layout else "ganfast")
        if who == "eager" and ours is not None:
            values = interval([e / g for e, g in zip(eager.samples, ours.samples, strict=True)])
            if values is not None:
                found[layout] = [float(f"{value:.4g}") for value in values]
    return found
