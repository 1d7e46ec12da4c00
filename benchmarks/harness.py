"""How every row here is measured: the oracle first, then rivals in turns, then what a call costs besides time.

A row is a plain dict that pytest-benchmark stores as extra_info; `benchmarks/results_file.py` says what one must hold.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.calibration import Calibration
from benchmarks.counters import launches_and_peak, overhead
from benchmarks.machine import DEVICE, cache_bytes
from benchmarks.paired import against_eager
from benchmarks.rivals import DTYPES, WHO, Problem, Subject, who_and_layout
from ganfast import _tune
from ganfast._timing import DeviceClock, Timing, interleaved, wall_clock
from ganfast.testing import assert_close_to_reference

NOISY = 0.3  # spread beyond which small ratios are not to be believed
Tensors = Mapping[str, Tensor]


class Settings(NamedTuple):
    """`rivals` beside ganfast; rounds: `repeats`, or `at_least` of them once `seconds` per rival are spent; `asked`: whether the rivals
    were named on the command line."""

    rivals: tuple[str, ...] = ("eager",)
    repeats: int = 15
    at_least: int = 5
    seconds: float = 0.25
    asked: bool = False

    def who(self, max_autotune: bool) -> tuple[str, ...]:
        return tuple(w for w in WHO if w == "ganfast" or (w in self.rivals and (w != "max-autotune" or max_autotune)))


def clock():
    """The timer's `measure` for this machine."""
    return DeviceClock() if DEVICE == "cuda" else wall_clock


def check_oracle(name: str, got: Tensors, plain: Tensors, reference: Tensors) -> None:
    """No time is taken of a wrong result: every output and gradient passes the oracle first."""
    assert_close_to_reference(*((f"{name}/{key}", value, plain[key], reference[key]) for key, value in got.items()))


def first_results(calls: dict[str, Callable[[], Tensors]]) -> tuple[dict[str, Tensors], dict[str, str]]:
    """(results, reason of failure) by rival, of each one's first call. A rival that cannot run is left out and recorded; ganfast
    has to run."""
    results, failed = {}, {}
    for name, call in calls.items():
        try:
            results[name] = call()
        except Exception as error:  # whatever a compiler or an allocator raises
            if who_and_layout(name)[0] == "ganfast":
                raise
            lines = str(error).strip().splitlines()
            failed[name] = f"{type(error).__name__}: {lines[0][:160] if lines else 'no message'}"
    return results, failed


def plain_result(results: dict[str, Tensors], layout: str, reference: Tensors, like: Tensors) -> Tensors:
    """Eager's result in this layout, or in another one; where eager cannot run, the exact one rounded to the dtype."""
    ran = [name for name in (f"eager-{layout}", *results) if name in results and who_and_layout(name)[0] == "eager"]
    return results[ran[0]] if ran else {key: reference[key].to(like[key].dtype) for key in like}


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


_reported: set[str] = set()


def _chosen() -> dict[str, str]:
    """What the tuner was first asked in this row, and its answers."""
    new = {question: choice.name for question, choice in _tune.chosen().items() if question not in _reported}
    _reported.update(new)
    return new


class Bench:
    """What a benchmark function gets: `benchmark` of pytest-benchmark, and how this run measures."""

    def __init__(self, benchmark, settings: Settings, facts: dict, calibration: Calibration, say: Callable[[str], object]) -> None:
        self.benchmark, self.settings, self.facts, self.calibration, self.say = benchmark, settings, facts, calibration, say
        if set(settings.rivals) - {"eager"}:  # modules of earlier rows count towards dynamo's limit, beyond which it stays eager
            torch.compiler.reset()

    def modules(
        self, subject: Callable, case, dtype: str, mode: str, row: dict, *, dims: int, tiny=None, max_autotune: bool = False
    ) -> dict:
        """One row of module against module. `subject(case)` builds a Subject; `tiny`: the case for the cost of a call."""
        torch.manual_seed(0)
        problem = Problem(subject(case), DTYPES[dtype], mode)
        calls = problem.calls(self.settings.who(max_autotune), dims)
        results, failed = first_results(calls)
        for name, got in results.items():
            who, layout = who_and_layout(name)
            if who == "ganfast":
                check_oracle(f"{case.name} {layout}", got, plain_result(results, layout, problem.reference, got), problem.reference)
        del results
        problem.reference = None
        costs = None if tiny is None else self._overhead(subject(tiny), DTYPES[dtype], mode)
        about = {"case": case.name, "batch": case.batch, "dtype": dtype, "mode": mode, "source": case.source}
        return self.record({n: c for n, c in calls.items() if n not in failed}, about | row, failed, costs)

    @staticmethod
    def _overhead(subject: Subject, dtype: torch.dtype, mode: str) -> dict[str, float]:
        problem = Problem(subject, dtype, mode)
        calls = {name: problem.call(name == "ganfast", torch.contiguous_format) for name in ("eager", "ganfast")}
        return overhead(calls)

    def record(
        self,
        calls: dict[str, Callable],
        row: dict,
        failed: dict[str, str] | None = None,
        costs: dict[str, float] | None = None,
        *,
        measure: Callable | None = None,
        warmup: int = 1,
        peaks: Mapping[str, Callable[[], int | None]] | None = None,
    ) -> dict:
        """Times the calls, which have passed the oracle, and leaves the row where pytest-benchmark stores it. `measure` instead of
        this machine's clock; `peaks`: how to find the peak memory of rivals that took theirs before the call.

        pytest-benchmark selects, names and stores the rows. Its own clock gives how long the row took, which no table uses: it
        times one function after the other and so cannot interleave.
        """
        s = self.settings
        warm = lambda: interleaved(calls, s.repeats, warmup, seconds=s.seconds, at_least=s.at_least, measure=measure or clock())
        begun = time.perf_counter()
        timings = self.benchmark.pedantic(warm, rounds=1, iterations=1)
        rivals = {name: self._rival(calls[name], timing, row) for name, timing in timings.items()}
        for name, peak in (peaks or {}).items():
            rivals[name]["peak_bytes"] = peak()
        row = {**self.facts, **row, "rivals": rivals | {name: {"failed": why} for name, why in (failed or {}).items()}}
        row["paired"] = against_eager(timings)
        row["overhead_us"] = costs and {name: _four_digits(us) for name, us in costs.items()}
        row["noisy"] = any(t.spread > NOISY for t in timings.values())
        row["fits_cache"] = row.get("bytes") is not None and row["bytes"] < 4 * cache_bytes()
        row["chosen"] = _chosen()
        row["seconds"] = _four_digits(time.perf_counter() - begun)
        self.benchmark.extra_info.update(row)
        self.say(line(row))
        return row

    def _rival(self, call: Callable, timing: Timing, row: dict) -> dict:
        launched, peak = launches_and_peak(call, DEVICE)
        numbers = {"median": timing.median, "p20": timing.p20, "p80": timing.p80, "spread": timing.spread, "launch": timing.launch}
        numbers |= self.calibration.percent(timing.median, row.get("bytes"), row.get("flops"), row["dtype"])
        if "floor" in row:
            numbers["of_floor"] = timing.median / row["floor"]
        numbers = {key: value if value is None else _four_digits(value) for key, value in numbers.items()}
        return numbers | {"rounds": len(timing.samples), "clock": timing.clock, "launches": launched, "peak_bytes": peak}


def line(row: dict) -> str:
    """One line for whoever watches."""
    times = {name: r["median"] * 1e3 for name, r in row["rivals"].items() if "median" in r}
    best = {who: min((t for n, t in times.items() if who_and_layout(n)[0] == who), default=math.nan) for who in ("eager", "ganfast")}
    failed = "".join(f"; {name} failed: {r['failed']}" for name, r in row["rivals"].items() if "failed" in r)
    noise = "; noisy" if row["noisy"] else ""
    name = f"{row['op']} {row['case']} b{row['batch']} {row['dtype']} {row['mode']}"
    steps = step_line(row) if "floor" in row else ""
    found = f"eager {best['eager']:.3f} ms, ganfast {best['ganfast']:.3f} ms, {best['eager'] / best['ganfast']:.2f}x"
    return f"{name}: {found}{noise}{failed}{steps}"


def step_line(row: dict) -> str:
    """A line a rival, for whoever watches: its time in floors, its launches."""
    rivals = [(name, rival) for name, rival in row["rivals"].items() if "median" in rival]
    each = [f"  {n}: {r['median'] * 1e3:.2f} ms, {r['of_floor']:.2f} floors, {r['launches']} launches" for n, r in rivals]
    return "\n".join([f"; floor {row['floor'] * 1e3:.3f} ms", *each])
