"""Where the time of a training step goes, by kind of work: python -m benchmarks.profile_step [--case dcgan64] [--batch 64] [--steps 5]

Prints a Markdown table: best eager against ganfast, float32 and bf16, milliseconds a step and percent. On a CPU torch.profiler's self
time of operators, `rest` being what is left of the step: Python, and operators of no kind below. On a GPU the time of the kernels that
each operator launched, uncaptured, as a graph's kernels have no operators. eager's `convolution_backward` computes two gradients in one
operator; here it is called once for each, which costs a second call's overhead.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.machine import DEVICE, commit, device_name
from benchmarks.rivals import DTYPES
from benchmarks.steps.cases import STEPS, StepCase
from benchmarks.steps.step import Step, rivals
from ganfast._memory import profiled
from ganfast.ops.conv_transpose_act import kernels

FORWARD, DATA, WEIGHT, BOTH = "convolution forward", "data gradient", "weight gradient", "both gradients (layers left to torch)"
NORM, LOSS, OPTIMIZER, AVERAGE, COPIES, REST = "norm and activation", "loss", "optimizer", "averaged generator", "casts and copies", "rest"
KINDS = (FORWARD, DATA, WEIGHT, BOTH, NORM, LOSS, OPTIMIZER, AVERAGE, COPIES, REST)
_MARK, _MODE = "kind: ", "PythonDispatchMode"
_NAMES = {  # lower case; the first that fits
    OPTIMIZER: ("optimizer.step",),
    NORM: ("norm", "relu", "tanh", "threshold", "bias_act"),
    LOSS: ("softplus", "ganloss", "gan_loss"),
    BOTH: ("aten::convolution_backward",),
    FORWARD: ("aten::conv", "aten::_conv"),
    COPIES: ("aten::to", "aten::_to_copy", "aten::copy_", "aten::contiguous", "aten::clone", "tocopybackward"),
}


def kind_of(names: list[str]) -> str:
    """Of an event by the names of its callers and its own, outermost first: who asked for a copy is told, not the copy. A mark comes
    before all: it lies inside of the operator that it takes apart."""
    for name in names:
        if name.startswith(_MARK):
            return name[len(_MARK) :]
    for name in names:
        for kind, parts in _NAMES.items():
            if any(part in name.lower() for part in parts):
                return kind
    return REST


def by_kind(events, device: str) -> dict[str, float]:
    """Seconds of self time."""
    found = dict.fromkeys(KINDS, 0.0)
    for event in events:
        if event.device_type != DeviceType.CPU:
            continue
        names, parent = [event.name], event.cpu_parent
        if _MODE in (event.name, *(child.name for child in event.cpu_children)):
            names, parent = [_MODE], None  # what taking apart costs, no part of it
        while parent is not None:
            names.insert(0, parent.name)
            parent = parent.cpu_parent
        found[kind_of(names)] += (event.self_device_time_total if device == "cuda" else event.self_cpu_time_total) / 1e6
    return found


class _Apart(TorchDispatchMode):
    """convolution_backward, a gradient at a time."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.ops.aten.convolution_backward.default:
            return func(*args, **kwargs)
        *args, (data, weight, bias) = args
        found = [None, None, None]
        if data:
            with record_function(_MARK + DATA):
                found[0] = func(*args, [True, False, False])[0]
        if weight or bias:
            with record_function(_MARK + WEIGHT):
                found[1:] = func(*args, [False, weight, bias])[1:]
        return tuple(found)


def _marked(kind: str | Callable[[], str], call: Callable) -> Callable:
    def marked(*args, **kwargs):
        with record_function(_MARK + (kind if isinstance(kind, str) else kind())):
            return call(*args, **kwargs)

    return marked


@contextlib.contextmanager
def marks(step: Step) -> Iterator[None]:
    """Inside, the profile of the step has names for what it does."""
    with contextlib.ExitStack() as stack:
        patch = lambda owner, name, kind: stack.enter_context(mock.patch.object(owner, name, _marked(kind, getattr(owner, name))))
        for name in ("discriminator", "watched", "generator"):
            patch(step.by, name, LOSS)
        patch(step, "average", AVERAGE)
        # In a backward a transposed convolution is the data gradient of a convolution, and the other way round.
        either = lambda: FORWARD if torch._C._current_graph_task_id() == -1 else DATA
        for name, kind in (("fwd", either), ("conv", either), ("data_grad", DATA), ("weight_grad", WEIGHT)):
            patch(kernels, name, kind)
        if not step.how.fused:  # accelerated modules run torch's layers under a dispatch mode
            stack.enter_context(_Apart())
        yield


def profile(step: Step, count: int) -> tuple[dict[str, float], float]:
    """(seconds a step by kind, seconds of a step without the profiler)"""
    plain = []
    for _ in range(3 + count):
        begun = time.perf_counter()
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        plain.append(time.perf_counter() - begun)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])
    with marks(step):
        step()
        with profiled(activities=activities) as profiler:
            begun = time.perf_counter()
            for _ in range(count):
                step()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            whole = time.perf_counter() - begun
    found = by_kind(profiler.events(), DEVICE)
    if DEVICE == "cpu":
        found[REST] = whole - sum(seconds for kind, seconds in found.items() if kind != REST)
    return {kind: seconds / count for kind, seconds in found.items()}, statistics.median(plain[3:])


def table(case: StepCase, count: int) -> str:
    columns, walls = {}, {}
    for name, dtype in DTYPES.items():
        hows = rivals(case, dtype, ("eager", "ganfast"))
        for who in ("eager", "ganfast"):
            step = Step(case, hows[f"{who}-{case.game.layout}"]._replace(captured=False))
            columns[f"{who} {name}"], walls[f"{who} {name}"] = profile(step, count)
    what = "kernels, uncaptured" if DEVICE == "cuda" else "operators' self time"
    lines = [
        f"{case.name}, batch {case.batch}, {case.size}x{case.size}, {case.mode}; {what}, a step, mean of {count}.",
        f"{device_name()}; torch {torch.__version__}; commit {commit()}.", "",
        "| ms (%) | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns),
    ]  # fmt: skip
    cell = lambda seconds, whole: f"{seconds * 1e3:.1f} ({100 * seconds / whole:.0f})"
    for kind in KINDS:
        if any(column[kind] for column in columns.values()):
            cells = [cell(column[kind], sum(column.values())) for column in columns.values()]
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    lines.append("| profiled | " + " | ".join(f"{sum(column.values()) * 1e3:.1f}" for column in columns.values()) + " |")
    lines.append("| wall without profiler | " + " | ".join(f"{seconds * 1e3:.1f}" for seconds in walls.values()) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_step", description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="dcgan64", choices=[case.name for case in STEPS if case.game.order])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, help="of an image or segment; default: the published one")
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args(argv)
    case = next(case for case in STEPS if case.name == chosen.case)
    print(table(case._replace(batch=chosen.batch, size=chosen.size or case.size), chosen.steps))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
