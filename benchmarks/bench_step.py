"""Training steps of published GANs (and one generator's forward) as a user writes them: plain torch in its variants against ganfast.

A captured rival is timed captured, any other one launch by launch, as a user runs it: `steps_in_a_row`, not the timer that puts
every rival into a CUDA graph to time its kernels. benchmarks/README.md defines rivals, launches and floor.
"""

import functools
import math

import pytest
import torch

from benchmarks.harness import Bench, first_results
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, who_and_layout
from benchmarks.steps import floor
from benchmarks.steps.cases import StepCase, dtypes, planned
from benchmarks.steps.step import How, Step, rivals
from ganfast import _timing
from ganfast._memory import peak_bytes
from tests.families import oracle

_ENOUGH = 0.02  # seconds of a sample: draining the queue costs some 10 us
# How far eager itself may be from float64: the rows reach 0.0064 and 0.47; a wrong gradient of eager's (games.CycleGAN) was off by 1.5.
_ILL = {torch.float32: 0.02, torch.bfloat16: 0.9}
_ILL_TF32 = 0.5
_KINK = 0.01  # one activation of 65,000 on the other side of its kink moved the gradients of batch 8 by this much of their size
_SECONDS = 0.1  # per rival, beyond the case's rounds: a CPU's steps take up to 2 s, and all rows together are to take 4 minutes


def steps_in_a_row(call) -> _timing.Sampler:
    """`measure` of the timer: wall seconds of a step among steps in a row, as a training loop makes them; the device's queue is
    drained before the first and after the last. On a CPU, and where a step takes long, the row is one step."""
    count = 1 if DEVICE == "cpu" else max(1, math.ceil(_ENOUGH / _timing.measure_once(call)))

    def row():
        for _ in range(count):
            call()

    return _timing.Sampler(lambda: _timing.measure_once(row) / count, "wall" if count == 1 else f"wall, {count} in a row")


@functools.lru_cache(maxsize=1)
def _reference(case: StepCase) -> oracle.Results:
    return Step(case, How(torch.float64, torch.contiguous_format, tuned=False)).first()


def check_gradients(case: StepCase, dtype: torch.dtype, hows: dict[str, How], **options) -> None:
    """No step of ganfast's is timed before its images, losses and gradients passed the families' oracle, beside the best eager's.
    Gradients are held to bfloat16's precision and to `_KINK`: among millions of activations rounding puts some on the other side of
    their kink, in either rival, and each moves gradients by a jump; the layers' own rows hold the kernels to their dtype."""
    results = {}
    for name, how in hows.items():
        if (who := who_and_layout(name)[0]) in ("eager", "ganfast"):
            change = options if who == "ganfast" else {}
            results[who] = Step(case, how._replace(captured=False), **change).first()
    if "eager" not in results:
        results["eager"] = Step(case, hows[next(iter(hows))]._replace(fused=False, captured=False)).first()
    reference = _reference(case)
    precisions = {"image": dtype, "loss": dtype, "gradient": torch.bfloat16}
    worst = {kind: oracle.worst_module(results["eager"][kind], reference[kind]) for kind in reference}
    tf32 = DEVICE == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    limit = _ILL_TF32 if tf32 else _ILL[dtype]
    for kind, error in worst.items():
        assert error < limit, f"{case.name}: eager's own {kind} is {error:.2g} off its float64 run; no rival to be judged by"
    worst["gradient"] = max(worst["gradient"], _KINK)
    found = oracle.beyond(results["ganfast"], results["eager"], reference, worst, precisions)
    assert not found, f"{case.name}: " + "\n".join(found)


def _wanted(bench: Bench, case: StepCase, dtype: str) -> tuple[str, ...]:
    row = (case.batch, dtype)
    return tuple(who for who in bench.settings.who(row in case.graphed) if who != "compile" or row in case.compiled)


def _peak(step: Step):
    """A graph's memory lies there before it is replayed: a captured rival's peak is that of capturing it and of one call."""
    if step.how.graphs:
        return lambda: None
    return (lambda: peak_bytes(lambda: step.capture()(*step.inputs), DEVICE)) if step.how.captured else None


def measure(bench: Bench, case: StepCase, dtype: str, **options) -> dict:
    """A row. `options` are the test's: what makes ganfast's network of the plain one."""
    precision = DTYPES[dtype]
    hows = rivals(case, precision, _wanted(bench, case, dtype))
    check_gradients(case.checked(DEVICE), precision, hows, **options)
    steps = {name: Step(case, how) for name, how in hows.items()}
    if case.game.double_backward:
        plain = {name: how for name, how in hows.items() if who_and_layout(name)[0] in ("eager", "ganfast")}
        steps |= {f"plain-{name}": Step(case, how, penalised=False) for name, how in plain.items()}
    _, failed = first_results(steps)
    steps = {name: step for name, step in steps.items() if name not in failed}
    counted = floor.work(case)
    row = {
        "op": "step", "case": case.name, "batch": case.batch, "dtype": dtype, "mode": case.mode, "source": case.source,
        "note": case.smaller(), "bytes": counted.bytes(dtype), "flops": counted.flops,
    }  # fmt: skip
    row["floor"] = bench.calibration.floor(row["flops"], row["bytes"], dtype)
    if DEVICE == "cpu":
        bench.settings = bench.settings._replace(seconds=min(_SECONDS, bench.settings.seconds), at_least=case.rounds)
    peaks = {name: peak for name, step in steps.items() if (peak := _peak(step))}
    before = torch.backends.cudnn.benchmark
    try:
        return bench.record(steps, row, failed, measure=steps_in_a_row, warmup=0 if DEVICE == "cpu" else 2, peaks=peaks)
    finally:
        torch.backends.cudnn.benchmark = before


def _rows() -> list:
    return [
        pytest.param(case, dtype, id=f"{case.name}-b{case.batch}-{dtype}") for case in planned(DEVICE) for dtype in dtypes(case, DEVICE)
    ]


@pytest.mark.parametrize(("step_case", "dtype"), _rows())
def test_step(bench, step_case, dtype):
    measure(bench, step_case, dtype)
