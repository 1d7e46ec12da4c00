"""The rows of whole networks: measured only when right, in the layouts that the network itself can take."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import ganfast
from benchmarks import machine, targets
from benchmarks.bench_accelerate import INFERENCE, NETWORKS, TRAIN, measure
from benchmarks.calibration import Calibration
from benchmarks.harness import Bench, Settings
from benchmarks.results_file import check_row
from tests.benchmarks.rows import results, row
from tests.benchmarks.test_harness import Recorder
from tests.families.family import Real
from tests.families.registry import FAMILIES

_TINY = {r.name: replace(r, real=Real(r.make, r.inputs, r.batch, "a paper")) for r in FAMILIES}


@pytest.fixture
def bench():
    rates = Calibration(1e9, {"fp32": 1e9, "bf16": 1e9})
    return Bench(Recorder(), Settings(repeats=1, at_least=1), machine.facts("c0ffee"), rates, lambda text: None)


def _rows():
    """Each network in one of the modes, in turn; `make prove` has the other."""
    names = ["pix2pix-unet", "vae", "hifigan-v3-g", "gan3d-g", "stackgan-stage1-g"]
    rows = [(name, mode, (place + turn) % 2) for place, name in enumerate(names) for turn, mode in enumerate((TRAIN, INFERENCE))]
    return [pytest.param(name, mode, marks=[pytest.mark.prove] if left else []) for name, mode, left in rows]


@pytest.mark.parametrize(("name", "mode"), _rows())
def test_a_row_carries_what_the_schema_wants(bench, name, mode):
    for dtype, both in (("fp32", ["nhwc", "nchw"]), ("bf16", ["nhwc"])):
        found = measure(bench, _TINY[name], mode, dtype)
        check_row(found, "row")
        both = ["nchw"] if name == "hifigan-v3-g" else both
        assert list(found["rivals"]) == [f"{who}-{layout}" for who in ("eager", "ganfast") for layout in both]
        assert (found["op"], found["mode"], found["source"]) == ("accelerate", mode, "a paper")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_layout_that_the_network_cannot_take_is_recorded(bench, dtype):
    found = measure(bench, _TINY["wgan-gp-d"], TRAIN, dtype)["rivals"]
    assert list(found) == ["eager-nchw", "ganfast-nchw", "eager-nhwc"] and "view size" in found["eager-nhwc"]["failed"]


def _output(model: nn.Module) -> nn.Module:
    model.register_forward_hook(lambda module, args, y: y * 1.1)
    return model


def _gradient(model: nn.Module) -> nn.Module:
    next(p for p in model.parameters() if p.dim() > 2).register_hook(lambda g: g * 1.1)
    return model


@pytest.mark.parametrize("spoil", [_output, _gradient])
def test_a_wrong_network_is_never_timed(bench, spoil):
    with pytest.raises(AssertionError, match="off by"):
        measure(bench, _TINY["dcgan-flat-g"], TRAIN, "fp32", lambda model: spoil(ganfast.accelerate(model)))
    assert not bench.benchmark.extra_info


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_size_people_train_is_the_same_network(network):
    with torch.device("meta"):
        tiny, real = network.make(), network.real.make()
    kinds = lambda model: {type(m).__qualname__ for m in model.modules()}
    assert kinds(tiny) == kinds(real)
    assert sum(p.numel() for p in real.parameters()) > 10 * sum(p.numel() for p in tiny.parameters())


def test_the_slowest_family_has_a_goal():
    times = {"eager-nchw": 1.0, "ganfast-nchw": 1.1}
    found = {f.text: (f.value, f.met) for f in targets.findings(results(row(op="accelerate"), row(times, op="accelerate")))}
    assert found["accelerated families, slowest"] == ("0.91x", False)
