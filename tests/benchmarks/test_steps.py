"""Every case's networks at tiny size, by every rival; the oracle of a step; how a step is timed and told."""

import itertools

import pytest
import torch
from torch import nn

import ganfast
from benchmarks import bench_step, machine
from benchmarks.calibration import Calibration
from benchmarks.harness import Bench, Settings
from benchmarks.results_file import check_row
from benchmarks.rivals import WHO, who_and_layout
from benchmarks.steps.cases import STEPS, StepCase, dtypes, planned
from benchmarks.steps.step import How, Step, rivals
from tests.benchmarks.test_harness import Recorder
from tests.step.recorded import RecordedGraphs

_SIZES = {  # size, width, batch
    "dcgan64": (16, 8, 4), "dcgan128": (32, 4, 3), "pix2pix": (64, 4, 1), "wgan-gp64": (16, 8, 4), "r1-relativistic64": (16, 8, 4),
    "cyclegan": (32, 4, 1), "r3gan-d": (32, 16, 2), "hifigan-v1": (1024, 64, 1), "hifigan-v1-g": (1024, 32, 1),
    "stylegan2-64": (8, 4, 2), "stylegan2-64-penalised": (8, 4, 2), "stylegan2-256": (8, 4, 2), "stylegan2-256-penalised": (8, 4, 2),
    "vocoder": (1024, 16, 1),
}  # fmt: skip


def tiny(case: StepCase) -> StepCase:
    size, width, batch = _SIZES[case.name]
    return case._replace(size=size, width=width, batch=batch, compiled=(), graphed=())


TINY = {case.name: tiny(case) for case in STEPS}


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """The static choice of kernels: the tuner's measurements are no part of these tests."""
    monkeypatch.setenv("GANFAST_TUNE", "0")


@pytest.fixture
def bench():
    said = []
    rates = Calibration(1e9, {"fp32": 1e9, "bf16": 2e9})
    made = Bench(Recorder(), Settings(repeats=1, at_least=1), machine.facts("c0ffee"), rates, said.append)
    made.said = said
    return made


@pytest.fixture
def uncompiled(monkeypatch):
    """torch.compile's part of a test without a compiler: who is compiled, and that it is called."""
    found = []
    monkeypatch.setattr(torch, "compile", lambda net, **options: found.append((type(net).__name__, options)) or net)
    return found


def _pass_through(step, *example, state=()):
    assert all(isinstance(s, (nn.Module, torch.optim.Optimizer, torch.Tensor)) for s in state) and state
    return step


_LONG = ("hifigan-v1", "cyclegan")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.prove] if name in _LONG else []) for name in TINY])
def test_every_rival_learns_the_same_step(name, uncompiled, monkeypatch):
    """One step of each in float32: equal losses, and no parameter left where it began. The rivals of a GPU
    but for their device, with torch.compile and the capture as pass-throughs."""
    monkeypatch.setattr(ganfast, "capture", _pass_through, raising=False)
    case = TINY[name]
    hows = rivals(case, torch.float32, WHO, "cuda")
    frozen = ["eager-frozen"] if "G" in case.game.order else []
    assert {who_and_layout(n)[0] for n in hows} == {"default", "eager-captured", *frozen, *WHO}
    after = {}
    for rival, how in hows.items():
        step = Step(case, how)
        before = {n: p.detach().clone() for side in "DG" for n, p in step._parameters(side).items()}
        torch.manual_seed(3)
        results = step()
        assert all(r.isfinite().all() and not r.requires_grad for r in results)
        learned = {n: p for side in "DG" for n, p in step._parameters(side).items()}
        after[rival] = [r.double() for r in results]
        if case.game.order:
            assert len(results) == len(case.game.order) + 2 * (case.game.average is not None)
            moved = [n for n, p in learned.items() if not torch.equal(p, before[n])]
            assert len(moved) > 0.9 * len(before), "biases before a norm may stay"
            assert all(p.requires_grad for p in learned.values())
    want = after[f"eager-{case.game.layout}"]
    for rival, got in after.items():
        if case.name == "pix2pix" and rival.startswith("default"):
            continue  # dropout's masks follow the layout
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=5e-3, atol=2e-5, msg=lambda m, rival=rival: f"{rival}: {m}")
    if case.game.order == "D":  # that has nothing to compile
        return
    compiled = [n for n, _ in uncompiled]
    assert compiled and ("DCGANDiscriminator" in compiled) == (case.game is STEPS[0].game), "no double backward through a compiled region"
    assert {o.get("mode", "default") for _, o in uncompiled} == {"default", "max-autotune"}


def _rows():
    """A plain step, one of bfloat16 alone and one of a generator alone; `make prove` has each step in each of its dtypes. One with a
    penalty: the next test."""
    here = {("dcgan64", "fp32"), ("pix2pix", "bf16"), ("hifigan-v1-g", "bf16")}
    slow = lambda case, dtype: (case.name, dtype) not in here
    rows = [(case.name, dtype, slow(case, dtype)) for case in STEPS for dtype in dtypes(case, "cpu")]
    return [pytest.param(name, dtype, marks=[pytest.mark.prove] if left else []) for name, dtype, left in rows]


@pytest.mark.parametrize(("name", "dtype"), _rows())
def test_a_row_carries_what_the_schema_wants(bench, name, dtype):
    if name in ("cyclegan", "hifigan-v1", "hifigan-v1-g", "vocoder"):  # thousands of operators under the profiler: ganfast alone
        bench.settings = bench.settings._replace(rivals=())
    checked(bench, bench_step.measure(bench, TINY[name], dtype), dtype)


def checked(bench, row, dtype):
    check_row(row, "row")
    assert row["source"] and row["floor"] == pytest.approx(row["flops"] / (1e9 if dtype == "fp32" else 2e9) + row["bytes"] / 1e9)
    for rival in row["rivals"].values():
        assert rival["of_floor"] == pytest.approx(rival["median"] / row["floor"], rel=1e-3) and rival["launches"] > 1
    (said,) = bench.said
    for rival, numbers in row["rivals"].items():
        assert f"  {rival}: " in said and f"{numbers['launches']} launches" in said
    assert f"floor {row['floor'] * 1e3:.3f} ms" in said


def test_a_penalty_stands_beside_the_plain_step(bench):
    whole = bench_step.measure(bench, TINY["wgan-gp64"], "fp32")
    checked(bench, whole, "fp32")
    row = whole["rivals"]
    assert {who_and_layout(n)[0] for n in row} >= {"plain-eager", "plain-ganfast"}
    assert row["eager-nhwc"]["launches"] > row["plain-eager-nhwc"]["launches"]


def _weight(net: nn.Module) -> nn.Module:
    net = ganfast.accelerate(net)
    next(p for p in net.parameters() if p.dim() == 4).register_hook(lambda g: g * 1.05)
    return net


def _image(net: nn.Module) -> nn.Module:
    ganfast.accelerate(net).register_forward_hook(lambda module, args, y: y * 1.01)
    return net


_SPOILT = [("dcgan64", _weight), ("wgan-gp64", _image)]
_MORE = [("dcgan64", _image), ("wgan-gp64", _weight), ("cyclegan", _weight), ("cyclegan", _image)]


@pytest.mark.parametrize(("name", "spoil"), [*_SPOILT, *(pytest.param(*case, marks=pytest.mark.prove) for case in _MORE)])
def test_a_wrong_step_is_never_timed(bench, name, spoil):
    with pytest.raises(AssertionError, match="off by"):
        bench_step.measure(bench, TINY[name], "fp32", change=spoil)
    assert not bench.benchmark.extra_info and not bench.said


def test_no_rival_is_judged_by_an_ill_eager(bench, monkeypatch):
    monkeypatch.setitem(bench_step._ILL, torch.float32, 1e-12)
    with pytest.raises(AssertionError, match=r"dcgan64: eager.s own image is .* off its float64 run"):
        bench_step.measure(bench, TINY["dcgan64"], "fp32")


def test_a_frozen_discriminator_has_no_gradients_in_the_generators_turn():
    seen = {}
    for frozen in (False, True):
        step = Step(TINY["dcgan64"], How(torch.float32, torch.channels_last, frozen=frozen))
        loss = step.loss
        step.loss = lambda side, made, loss=loss, step=step, frozen=frozen: (
            seen.__setitem__((frozen, side), step.modules["d"].head.weight.requires_grad) or loss(side, made)
        )
        step()
    assert seen == {(False, "D"): True, (False, "G"): True, (True, "D"): True, (True, "G"): False}


def test_a_step_is_timed_as_a_loop_runs_it(monkeypatch):
    """Many in a row where it is short, drained once; the mean of one comes back."""
    drained, calls = itertools.count(), []
    monkeypatch.setattr(bench_step, "DEVICE", "cuda")
    monkeypatch.setattr(bench_step._timing, "measure_once", lambda call: (next(drained), call(), 1e-3 * max(1, len(calls)))[2])
    sampler = bench_step.steps_in_a_row(lambda: calls.append(1))
    assert sampler.clock == "wall, 20 in a row" and sampler.wall is None and len(calls) == 1
    calls.clear()
    assert sampler.sample() == pytest.approx(1e-3) and len(calls) == 20 and next(drained) == 2
    assert bench_step.steps_in_a_row(lambda: [calls.append(1) for _ in range(50)]).clock == "wall"


def test_only_what_is_captured_is_timed_captured():
    hows = {device: rivals(STEPS[0], torch.bfloat16, WHO, device) for device in ("cpu", "cuda")}
    assert {who_and_layout(n)[0] for n, how in hows["cuda"].items() if how.captured} == {"eager-captured", "ganfast"}
    assert {who_and_layout(n)[0] for n, how in hows["cuda"].items() if how.graphs} == {"max-autotune"}
    assert not any(how.captured or how.graphs for how in hows["cpu"].values()) and "eager-captured-nhwc" not in hows["cpu"]
    on_cpu = {
        (case.name, dtype)
        for case in STEPS
        for dtype in (torch.bfloat16, torch.float32)
        if "default-nchw" in rivals(case, dtype, WHO, "cpu")
    }
    assert on_cpu == {("dcgan64", torch.bfloat16)} and all("default-nchw" in rivals(case, torch.float32, WHO, "cuda") for case in STEPS)
    default = hows["cuda"]["default-nchw"]
    assert (default.dtype, default.fmt, default.tuned) == (torch.float32, torch.contiguous_format, False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_rows_a_goal_speaks_of_are_planned(device):
    rows = {(case.name, case.batch): case for case in planned(device)}
    wanted = {"cuda": {("dcgan64", b) for b in (1, 16, 128)} | {("dcgan128", b) for b in (1, 16, 128)} | {("pix2pix", 1), ("pix2pix", 16)}}
    assert wanted.get(device, {("dcgan64", 64), ("dcgan64", 1), ("dcgan64", 16)}) <= rows.keys()
    assert {case.name for case in rows.values()} == {case.name for case in STEPS if case.cpu or device == "cuda"}
    assert all(case.source for case in rows.values())
    assert rows[("cyclegan", 1)].smaller() == ("size 64, published 256; " if device == "cpu" else "") + "without the pool of images"


def _captured():
    """A whole step and one with penalties, and of eager, the stand-in's test, one; `make prove` has all."""
    cases = itertools.product(TINY, (False, True))
    left = lambda name, fused: name not in ("dcgan64", "r3gan-d") or (not fused and name != "dcgan64")
    ids = ("eager", "ganfast")
    return [pytest.param(*case, id=f"{ids[case[1]]}-{case[0]}", marks=[pytest.mark.prove] if left(*case) else []) for case in cases]


@pytest.mark.parametrize(("name", "fused"), _captured())
def test_every_step_can_be_captured(monkeypatch, name, fused):
    """By a stand-in for CUDA graphs: nothing in it waits or counts in Python, and captured it is the same step."""
    monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
    how, losses = How(torch.float32, torch.contiguous_format, fused=fused, frozen=True), []
    for captured in (False, True):
        step = Step(TINY[name], how._replace(captured=captured))
        torch.manual_seed(5)
        losses.append([[t.detach().clone() for t in step()] for _ in range(2)])
    assert step.run.graphs == 1
    for plain, recorded in zip(*losses):
        for a, b in zip(plain, recorded):  # recording operators, accelerated networks run their plain layers
            torch.testing.assert_close(b, a, rtol=1e-2 if fused else 1e-4, atol=1e-3 if fused else 1e-5)
