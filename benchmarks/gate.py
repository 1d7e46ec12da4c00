"""A gate for CI: a few rows, under a minute; exit 1 where ganfast's speed beside eager's fell below a committed floor.

python benchmarks/gate.py           gate.json holds rows, floors and why each floor is what it is

What makes it hold on a noisy machine: eager and ganfast take turns, the ratio is the median of the rounds' own ratios (what
slows a round slows both), a row below its floor is measured again with twice the rounds and has to stay below. What makes
it notice: the rows with a floor of 0.88 run backend="torch", the same convolution kernels as eager, so their ratio is 1 on any
machine, and a fifth more time for ganfast's calls is 0.83. tests/benchmarks/test_gate.py plants that fifth and watches it fail.

Measured on 2 cores shared with other work, 8 to 25 s a run: no false alarm in 20 runs of all six rows, and no row that had to be
measured again (lowest ratio of a row with floor 0.88: 0.94); with the fifth planted, 10 runs of 10 failed, by every one of the
four rows (0.79 to 0.85).
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks import bench_batch_norm_act, bench_conv_transpose_act
from benchmarks.cases import CONV_TRANSPOSE, NORM
from benchmarks.machine import missing
from benchmarks.results_file import Unusable, guarded, load_json
from benchmarks.rivals import DTYPES, Problem, layouts
from ganfast import use_backend
from ganfast._timing import interleaved

FLOORS = Path(__file__).with_name("gate.json")
_KEYS = ("case", "batch", "dtype", "mode", "backend", "floor", "why")
_ROUNDS = 41
Wrap = Callable[[Callable[[], object]], Callable[[], object]]


class Verdict(NamedTuple):
    name: str
    ratio: float
    floor: float

    @property
    def passed(self) -> bool:
        return self.ratio >= self.floor


def read_floors(path: Path = FLOORS) -> list[dict]:
    found = load_json(path)
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows:
        raise Unusable(f"{path} has no rows")
    for i, row in enumerate(rows):
        absent = [key for key in _KEYS if not isinstance(row, dict) or key not in row]
        if absent:
            raise Unusable(f"{path}: row {i + 1} lacks {', '.join(absent)}")
        if row["case"] not in _subjects():
            raise Unusable(f"{path}: row {i + 1}: no case {row['case']!r} in benchmarks/cases.py")
    return rows


def _subjects() -> dict[str, tuple]:
    layers = {case.name: (bench_conv_transpose_act.layer, case) for case in CONV_TRANSPOSE if len(case.size) == 2}
    return layers | {case.name: (bench_batch_norm_act.layer, case) for case in NORM}


def pairs(row: dict, wrap: Wrap) -> dict[str, Callable[[], object]]:
    """The two calls of a row, in channels_last."""
    torch.manual_seed(0)
    build, case = _subjects()[row["case"]]
    problem = Problem(build(case._replace(batch=row["batch"])), DTYPES[row["dtype"]], row["mode"])
    eager, fused = (problem.call(fused, layouts(2)["nhwc"]) for fused in (False, True))
    return {"eager": eager, "ganfast": wrap(fused)}


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> float:
    """Eager's time over ganfast's: the median over rounds of each round's own ratio."""
    timings = interleaved(calls, repeats=rounds, warmup=2, seconds=2.0, at_least=15)
    return statistics.median(e / g for e, g in zip(timings["eager"].samples, timings["ganfast"].samples, strict=True))


def judge(row: dict, wrap: Wrap, measure: Callable[[dict, int], float] = measure) -> Verdict:
    with use_backend(row["backend"]):
        calls = pairs(row, wrap)
        ratio = measure(calls, _ROUNDS)
        if ratio < row["floor"]:
            ratio = max(ratio, measure(calls, 2 * _ROUNDS))
    return Verdict(f"{row['case']} b{row['batch']} {row['dtype']} {row['mode']} backend={row['backend']}", ratio, row["floor"])


def run(floors: Path, wrap: Wrap) -> int:
    rows, absent = read_floors(floors), missing()
    if absent:
        print(f"gate: rows of native kernels are left out: {'; '.join(absent)}", file=sys.stderr)
        rows = [row for row in rows if row["backend"] == "torch"]
    failed = 0
    for row in rows:
        verdict = judge(row, wrap)
        failed += not verdict.passed
        print(f"{'ok  ' if verdict.passed else 'FELL'} {verdict.name}: {verdict.ratio:.3f}x of eager, floor {verdict.floor}", flush=True)
    return int(failed > 0)


def main(argv: list[str] | None = None, wrap: Wrap = lambda call: call) -> int:
    """`wrap` is the test's hook: it gets ganfast's call of each row and may return a slower one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--floors", type=Path, default=FLOORS)
    arguments = parser.parse_args(argv)
    return guarded(lambda: run(arguments.floors, wrap), "gate")


if __name__ == "__main__":
    raise SystemExit(main())
