"""How a row comes to be: the oracle before the clock, failures recorded, counters that count, options that are refused."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import calibration, counters, harness, machine
from benchmarks.bench_conv_transpose_act import layer
from benchmarks.calibration import Calibration
from benchmarks.cases import CONV_TRANSPOSE
from benchmarks.harness import Bench, Settings
from benchmarks.report import main as report
from benchmarks.results_file import check_row, read
from benchmarks.rivals import Call, Problem, Subject, layouts, who_and_layout
from ganfast._timing import Timing, wall_clock

ROOT = Path(__file__).resolve().parents[2]
TINY = CONV_TRANSPOSE[1].tiny()


class Recorder:
    """Stands for pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, function, **_):
        return function()


@pytest.fixture
def bench():
    said = []
    made = Bench(
        Recorder(), Settings(repeats=6, at_least=6), machine.facts("c0ffee"), Calibration(1e9, {"fp32": 1e9, "bf16": 1e9}), said.append
    )
    made.said = said
    return made


def measure(bench, subject=layer, dtype="fp32", mode="fwd+bwd", **row):
    about = {"op": "conv_transpose_act", "bytes": 1000, "flops": 2000} | row
    return bench.modules(subject, TINY, dtype, mode, about, dims=2, tiny=TINY)


def _dtypes_and_modes():
    """Each dtype and each mode; `make prove` has each with each."""
    here = {("fp32", "second order"), ("fp32", "fwd"), ("bf16", "fwd+bwd")}
    rows = itertools.product(["fp32", "bf16"], ["fwd", "fwd+bwd", "second order"])
    return [pytest.param(*row, marks=[] if row in here else [pytest.mark.prove]) for row in rows]


@pytest.mark.parametrize(("dtype", "mode"), _dtypes_and_modes())
def test_a_row_carries_what_the_schema_wants(bench, dtype, mode):
    row = measure(bench, dtype=dtype, mode=mode)
    check_row(row, "row")
    assert bench.benchmark.extra_info == row and json.loads(json.dumps(row)) == row
    assert list(row["rivals"]) == ["eager-nchw", "ganfast-nchw", "eager-nhwc", "ganfast-nhwc"]
    for rival in row["rivals"].values():
        assert rival["percent_copy"] == pytest.approx(100 * 1000 / rival["median"] / 1e9, rel=1e-3)
        assert rival["percent_matrix"] == pytest.approx(2 * rival["percent_copy"], rel=1e-3)
        assert rival["launches"] > 1 and rival["peak_bytes"] > 0 and rival["rounds"] == 6 and rival["clock"] == "wall"
    assert list(row["paired"]) == ["nchw", "nhwc"] and all(0 < low <= median <= high for low, median, high in row["paired"].values())
    assert row["overhead_us"]["eager"] > 1 and row["overhead_us"]["ganfast"] > 1
    assert row["commit"] == "c0ffee" and set(row["versions"]) == {"torch", "triton", "ganfast", "python", "cuda"}
    assert len(bench.said) == 1 and "conv_transpose_act tiny b1" in bench.said[0]


class Wrong(nn.Module):
    """Right but for one thing: its output, or its input's gradient."""

    def __init__(self, inner, what):
        super().__init__()
        self.inner, self.what = inner, what

    def forward(self, x):
        if self.what == "gradient":
            x = x + 0.01 * (x - x.detach())
        return self.inner(x) * (1.01 if self.what == "output" else 1)


@pytest.mark.parametrize("what", ["output", "gradient"])
def test_a_wrong_result_is_not_timed(bench, what):
    def subject(case):
        right = layer(case)
        return right._replace(fused=Wrong(right.fused, what))

    with pytest.raises(AssertionError, match=r"tiny nchw/(y|g0): largest error"):
        measure(bench, subject)
    assert bench.benchmark.extra_info == {} and bench.said == []


class Broken(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if x.is_contiguous(memory_format=torch.channels_last) and x.dtype != torch.float64:
            raise RuntimeError("no such kernel\nlong story")
        return self.inner(x)


def test_a_rival_that_cannot_run_is_recorded_and_ganfast_must_run(bench):
    right = layer(TINY)
    wide = lambda case: right._replace(eager=Broken(right.eager))
    bench._overhead = lambda *_: None
    row = measure(bench, wide)
    assert row["rivals"]["eager-nhwc"] == {"failed": "RuntimeError: no such kernel"}
    assert "median" in row["rivals"]["eager-nchw"] and "median" in row["rivals"]["ganfast-nhwc"]
    assert "eager-nhwc failed" in bench.said[0]
    check_row(row, "row")
    with pytest.raises(RuntimeError, match="no such kernel"):
        measure(bench, lambda case: right._replace(fused=Broken(right.fused)))


def test_a_compiler_that_fails_is_recorded(bench, monkeypatch):
    def refuses(model, **options):
        def call(x):
            raise RuntimeError(f"no compiler for {options.get('mode', 'default')}")

        return call

    monkeypatch.setattr(torch, "compile", refuses)
    bench.settings = bench.settings._replace(rivals=("eager", "compile", "max-autotune"))
    rivals = measure(bench)["rivals"]
    assert rivals["compile-nhwc"] == {"failed": "RuntimeError: no compiler for default"} and "max-autotune-nhwc" not in rivals
    rows = bench.modules(layer, TINY, "fp32", "fwd", {"op": "o", "bytes": None, "flops": None}, dims=2, max_autotune=True)["rivals"]
    assert rows["max-autotune-nhwc"] == {"failed": "RuntimeError: no compiler for max-autotune-no-cudagraphs"}


def test_a_noisy_row_says_so(bench, monkeypatch):
    timings = itertools.cycle([Timing(1.0, 0.9, 1.25, [1.0]), Timing(1.0, 0.9, 1.15, [1.0])])
    monkeypatch.setattr(harness, "interleaved", lambda calls, *_, **__: (lambda t: {name: t for name in calls})(next(timings)))
    assert measure(bench)["noisy"] is True and "noisy" in bench.said[0]
    assert measure(bench)["noisy"] is False


def test_a_call_in_the_second_order_is_the_gradient_of_the_squared_gradient():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    x, gy = torch.randn(5, 3, dtype=torch.double), torch.randn(5, 4, dtype=torch.double)
    found = Call(model, x, gy, "second order")()
    x.requires_grad_()
    squared = (((1 - model(x) ** 2) * gy) @ model[0].weight).square().sum()
    for got, want in zip([found["g0"], found["g1"], found["g2"]], torch.autograd.grad(squared, [x, *model.parameters()]), strict=True):
        torch.testing.assert_close(got, want)


def test_no_gradient_arrives_where_rounding_decides_the_side_of_a_kink():
    """An input whose pre-activation is within rounding of zero; elsewhere the gradient arrives."""
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    x = torch.tensor([[1e-9, 1.0, -1.0, 2.0]])
    problem = Problem(Subject(model, model, x), torch.float32, "fwd+bwd")
    assert (problem.gy == 0).tolist() == [[True, False, False, False]]
    smooth = Problem(Subject(nn.Sequential(nn.Identity(), nn.Tanh()), model, x), torch.float32, "fwd+bwd")
    assert (smooth.gy != 0).all()


def test_rivals_have_the_layout_of_their_name():
    problem = Problem(layer(TINY._replace(size=(3, 3))), torch.float32, "fwd+bwd")
    calls = problem.calls(("eager", "ganfast"), 2)
    for name, call in calls.items():
        fmt = layouts(2)[who_and_layout(name)[1]]
        assert call.x.is_contiguous(memory_format=fmt) and call.gy.is_contiguous(memory_format=fmt)
        assert call.model.get_submodule("0" if name.startswith("eager") else "").weight.is_contiguous(memory_format=fmt)
    assert list(layouts(1)) == ["nchw"] and layouts(3)["nhwc"] == torch.channels_last_3d
    assert [who_and_layout(n) for n in ("max-autotune-nhwc", "eager")] == [("max-autotune", "nhwc"), ("eager", "")]


def test_operators_are_counted_at_the_top_and_memory_at_its_peak():
    x = torch.randn(1 << 18)  # 1 MiB

    def call():
        a = x + 1
        b = a * a  # 2 MiB at once
        del a
        return b.clone()  # b and the clone; then the clone alone

    assert counters.launches_and_peak(call, "cpu") == (3, 2 << 20)
    w = torch.randn(8, 8, requires_grad=True)
    assert counters.launches_and_peak(lambda: torch.autograd.grad((w @ w).relu().sum(), w), "cpu")[0] > 6  # backward's too
    conv = nn.ConvTranspose2d(4, 4, 3)
    with torch.no_grad():
        assert counters.launches_and_peak(lambda: conv(torch.ones(1, 4, 3, 3)), "cpu")[0] == 2


@pytest.mark.alone
def test_overhead_is_of_one_call_in_microseconds():
    costs = counters.overhead({"quick": lambda: None, "slow": lambda: time.sleep(200e-6)}, count=5)
    assert costs["quick"] < 20 < 200 <= costs["slow"] < 5000


def test_calibration_gives_rates_and_percentages():
    found = calibration.calibrate({"fp32": torch.float32}, wall_clock, small=True)
    assert 1e6 < found.copy < 1e13 and 1e6 < found.matrix["fp32"] < 1e16
    assert Calibration(2e9, {"fp32": 1e9}).percent(0.5, 10**9, None, "fp32") == {"percent_copy": 100.0}
    assert Calibration(2e9, {"fp32": 1e9}).percent(0.5, None, 10**8, "fp32") == {"percent_matrix": pytest.approx(20)}


def test_the_machines_facts(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    machine.commit.cache_clear()
    try:
        assert machine.facts()["commit"] == "unknown"
    finally:
        machine.commit.cache_clear()
    assert str(Path.home()) not in json.dumps(machine.facts())
    states = {"cpu": type("S", (), {"available": False, "reason": "no compiled extension"})}
    monkeypatch.setattr(machine._backends, "backends", lambda: states)
    assert machine.missing() == ["backend cpu: no compiled extension"]


def run(folder, *options):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/bench_gan_loss.py",
        "--benchmark-quiet",
        f"--benchmark-json={folder / 'run.json'}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # a run of its own
    command += ["-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_run_from_the_command_to_the_results_file(tmp_path):
    done = run(tmp_path, "-k", "logits-64", "--seconds", "0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "calibration: copy" in done.stdout and "discriminator_loss logits-64 b64 fp32 fwd+bwd: eager" in done.stdout
    assert report([str(tmp_path / "run.json"), "--results", str(tmp_path / "out")]) == 0
    (row,) = read(next((tmp_path / "out").glob("*.json")))["rows"]
    assert row["case"] == "logits-64" and row["rivals"]["ganfast"]["launches"] < row["rivals"]["eager"]["launches"]


@pytest.mark.prove
def test_a_spent_time_limit_skips_and_unknown_rivals_are_refused(tmp_path, capsys):
    done = run(tmp_path, "-k", "logits-64", "--time-limit", "0")
    assert done.returncode == 0 and "1 skipped" in done.stdout
    assert report([str(tmp_path / "run.json")]) == 2
    assert "cannot read" in capsys.readouterr().err, "no row, no file"
    done = run(tmp_path, "--rivals", "eager,faster")
    assert done.returncode == 4 and "--rivals: faster is unknown; valid: eager, compile, max-autotune" in done.stderr
