"""The interval of a paired ratio: its ranks, how often it is right, and the rows that carry it."""

import math
import random

import pytest

from benchmarks import paired
from ganfast._timing import Timing


@pytest.mark.parametrize(("count", "rank"), [(5, 0), (6, 1), (8, 1), (9, 2), (15, 4), (20, 6), (100, 40)])
def test_the_ranks_are_those_of_the_sign_test(count, rank):
    """The published table of critical values of the sign test at 5 %, two-sided, each one less."""
    assert paired._rank(count) == rank
    assert sum(math.comb(count, k) for k in range(rank)) <= 0.025 * 2**count < sum(math.comb(count, k) for k in range(rank + 1))


def test_the_interval_of_many_rounds_is_no_overflow():
    low, median, high = paired.interval([1 + i / 3000 for i in range(3001)])
    assert median == 1.5 and 1.48 < low < median < high < 1.52


def test_the_interval_holds_the_median_nineteen_times_in_twenty():
    """Ratios as noise makes them: now and then one is far off."""
    draws = random.Random(0)
    ratio = lambda: math.exp(draws.gauss(0, 0.05)) * (draws.choice((0.3, 3)) if draws.random() < 0.1 else 1)
    held = 0
    for _ in range(2000):
        low, _, high = paired.interval([ratio() for _ in range(15)])
        held += low <= 1 <= high
    assert 0.95 <= held / 2000 < 0.98, held / 2000  # 0.965: the ranks come in whole numbers


def _timing(*samples: float) -> Timing:
    return Timing(sorted(samples)[len(samples) // 2], min(samples), max(samples), list(samples))


def test_each_round_is_divided_by_its_own():
    """A machine that is ten times slower in one round slows both: the ratio does not move."""
    eager, ours = _timing(2.0, 20.0, 3.0, 2.0, 4.0, 2.0), _timing(1.0, 10.0, 0.5, 1.0, 2.0, 1.0)
    rivals = {"eager-nchw": eager, "ganfast-nchw": ours, "eager-nhwc": eager, "plain-eager-nchw": ours, "compile-nchw": ours}
    assert paired.against_eager(rivals) == {"nchw": [2.0, 2.0, 6.0]}
    assert paired.against_eager({"eager": eager, "ganfast": eager}) == {"": [1.0, 1.0, 1.0]}


def test_five_rounds_have_no_interval():
    """All lie on one side of the median once in sixteen times."""
    few = _timing(1.0, 2.0, 3.0, 4.0, 5.0)
    assert paired.interval(few.samples) is None and paired.against_eager({"eager": few, "ganfast": few}) == {}
