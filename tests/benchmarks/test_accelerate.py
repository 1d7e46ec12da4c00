"""The rows of whole networks: measured only when right, in the layouts that the network itself can take."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import ganfast
from benchmarks import bench_accelerate, bench_call, machine, tables, targets
from benchmarks.bench_accelerate import INFERENCE, NETWORKS, TRAIN, measure
from benchmarks.calibration import Calibration
from benchmarks.harness import Bench, Settings
from benchmarks.results_file import check_row
from tests.benchmarks.rows import results, row
from tests.benchmarks.test_harness import Recorder
from tests.families.family import Real, noise
from tests.families.registry import FAMILIES

_OTHER = (lambda: nn.Sequential(nn.ConvTranspose2d(5, 4, 3), nn.ReLU()), noise(5, 4, 4))
_TINY = {r.name: replace(r, real=Real(r.make, r.inputs, r.batch, "a paper")) for r in FAMILIES}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(bench_accelerate, "ROUNDS", (6, 6))
    rates = Calibration(1e9, {"fp32": 1e9, "bf16": 1e9})
    return Bench(Recorder(), Settings(seconds=0.0), machine.facts("c0ffee"), rates, lambda text: None)


def _rows():
    """Each network in one of the modes and one of the dtypes, in turn; `make prove` has the others."""
    found = []
    for place, name in enumerate(["pix2pix-unet", "hifigan-v3-g", "vae", "gan3d-g", "stackgan-stage1-g"]):
        for mode, dtype in itertools.product((TRAIN, INFERENCE), ("fp32", "bf16")):
            taken = mode == (TRAIN, INFERENCE)[place % 2] and dtype == ("fp32", "bf16")[place // 2 % 2]
            found.append(pytest.param(name, mode, dtype, marks=[] if taken else [pytest.mark.prove]))
    return found


@pytest.mark.parametrize(("name", "mode", "dtype"), _rows())
def test_a_row_carries_what_the_schema_wants(bench, name, mode, dtype):
    found = measure(bench, _TINY[name], mode, dtype)
    check_row(found, "row")
    both = ["nchw"] if name == "hifigan-v3-g" else ["nhwc", "nchw"] if dtype == "fp32" else ["nhwc"]
    assert list(found["rivals"]) == [f"{who}-{layout}" for who in ("eager", "ganfast") for layout in both]
    assert (found["op"], found["mode"], found["size"], found["source"]) == ("accelerate", mode, "trained", "a paper")
    assert list(found["paired"]) == both
    seconds, compiling, groups = (found["first_call"][key] for key in ("seconds", "compile", "groups"))
    assert found["layers"] == len([m for m in _TINY[name].build().modules() if not list(m.children())]) > 5
    assert 0 < compiling <= seconds and groups == len(_TINY[name].fused)


def test_a_small_network_has_rows_of_its_own(bench):
    """Its reference is its own: a row's name is what results are kept by."""
    for size, case, batch in (("trained", "dcgan-flat-g", 3), ("small", "dcgan-flat-g small", 2)):
        network = replace(_TINY["dcgan-flat-g"], small=Real(*_OTHER, 2, "a smaller paper"))
        found = measure(bench, network, INFERENCE, "fp32", size=size)
        assert (found["case"], found["batch"], found["size"]) == (case, batch, size)
    assert found["source"] == "a smaller paper"


def test_every_size_of_every_family_is_a_row():
    rows = [param.values for param in bench_accelerate._rows()]
    assert [row for row, size in rows if size == "trained"] == NETWORKS
    assert [row for row, size in rows if size == "small"] == [row for row in FAMILIES if row.small]
    assert len({param.id for param in bench_accelerate._rows()}) == len(rows)


def test_short_calls_get_more_rounds(bench, monkeypatch):
    bench.settings = Settings()
    for took, rounds in ((1.9e-3, 100), (2.1e-3, 15)):
        monkeypatch.setattr(bench_accelerate, "ROUNDS", (15, 100))
        monkeypatch.setattr(bench_accelerate, "measure_once", lambda call, took=took: took)
        found = bench_accelerate._enough(bench.settings, lambda: None)
        assert (found.at_least, found.repeats, found.seconds) == (rounds, 1000, 0.25)


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


class _Changed(nn.Module):
    """What torch.compile might make of a network: the same, or not quite."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self._orig_mod, self.factor = inner, factor

    def forward(self, *args):
        return self._orig_mod(*args) * self.factor


def _asks(bench, monkeypatch, change: Callable[[nn.Module], nn.Module]) -> None:
    bench.settings = bench.settings._replace(rivals=("eager", "compile"), asked=True)
    monkeypatch.setattr(torch, "compile", lambda model, **options: change(model))


@pytest.mark.prove
def test_torch_compile_is_a_rival_where_it_is_asked_for(bench, monkeypatch):
    _asks(bench, monkeypatch, lambda model: _Changed(model, 1.0))
    found = measure(bench, _TINY["dcgan-flat-g"], TRAIN, "fp32")
    assert "median" in found["rivals"]["compile-nhwc"] and found["compile_first_call"] > 0
    bench.settings = bench.settings._replace(asked=False)
    assert not any(name.startswith("compile") for name in measure(bench, _TINY["dcgan-flat-g"], TRAIN, "fp32")["rivals"])


def test_it_takes_the_last_layout_that_eager_runs_in(bench, monkeypatch):
    _asks(bench, monkeypatch, lambda model: _Changed(model, 1.0))
    assert "median" in measure(bench, _TINY["wgan-gp-d"], TRAIN, "fp32")["rivals"]["compile-nchw"]


def test_a_wrong_or_broken_torch_compile_is_recorded(bench, monkeypatch):
    _asks(bench, monkeypatch, lambda model: _Changed(model, 1.1))
    found = measure(bench, _TINY["dcgan-flat-g"], INFERENCE, "fp32")
    assert found["rivals"]["compile-nhwc"]["failed"].startswith("wrong result: output") and "compile_first_call" not in found
    _asks(bench, monkeypatch, lambda model: None)
    failed = measure(bench, _TINY["dcgan-flat-g"], INFERENCE, "fp32")["rivals"]["compile-nhwc"]["failed"]
    assert failed == "TypeError: 'NoneType' object is not callable"


@pytest.mark.prove
def test_only_what_draws_random_numbers_keeps_torchs_generator(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, options, **_: asked.append(options) or model)
    bench.settings = bench.settings._replace(rivals=("eager", "compile"), asked=True)
    for name in ("vae", "dcgan-flat-g"):
        measure(bench, _TINY[name], TRAIN, "fp32")
    assert asked == [{"fallback_random": True}, None]


def test_a_call_is_timed_by_one_thread(bench, monkeypatch):
    monkeypatch.setattr(bench_call, "ROUNDS", 3)
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", lambda count: seen.append(count))
    found = bench_call.measure(bench)
    check_row(found, "row")
    assert (found["op"], found["case"], found["batch"], list(found["rivals"])) == ("call", "dcgan64-w8", 1, ["eager-nchw", "ganfast-nchw"])
    assert seen == [1, before] and found["rivals"]["eager-nchw"]["rounds"] == 3


def _family(size: str = "trained", mode: str = "train", interval: tuple = (0.9, 0.96, 1.1), ratio: float = 1.2, **changes) -> dict:
    times = {"eager-nchw": ratio, "ganfast-nchw": 1.0} | changes.pop("times", {})
    first = {"seconds": 2.0, "compile": 0.5, "groups": 3}
    return row(times, op="accelerate", mode=mode, size=size, paired={"nchw": list(interval)}, first_call=first, **changes)


def _findings(*rows: dict) -> dict[str, tuple]:
    return {f.text.partition(" of 1")[0]: (f.value, f.met) for f in targets.findings(results(*rows))}


def test_the_goals_of_the_families():
    slow, below = _family("small", interval=(0.8, 0.9, 0.96)), "accelerated families' rows whose interval lies wholly below 0.97x of eager"
    found = _findings(_family(), _family(mode="inference", ratio=1.11))
    assert found[f"{below}, like for like"] == ("0 of 2", True), "an interval that reaches beyond is no proof"
    assert found["accelerated families train fp32, geometric mean"] == ("1.20x", True)
    assert found["accelerated families inference fp32, geometric mean"] == ("1.11x", True)
    slow |= {"dtype": "bf16", "mode": "inference"}
    found = _findings(_family(ratio=1.14), slow, _family("small", ratio=9.0), _family(dtype="bf16", ratio=9.0))
    assert found[f"{below}, like for like"] == ("1 of 4: layer bf16 inference", False), "and it is named"
    assert found["accelerated families train fp32, geometric mean"] == ("1.14x", False), "of the size that people train"
    assert _findings(row())[f"{below}, like for like"] == ("not measured", None)


def test_the_first_call_has_a_goal_up_to_forty_layers():
    name = f"first call of an accelerated family of up to {targets.FIRST_CALL_LAYERS} layers, longest"
    took = lambda seconds, layers: _family() | {"layers": layers, "first_call": {"seconds": seconds, "compile": 0.1, "groups": 3}}
    assert _findings(took(2.0, 8), took(4.9, 40), took(99.0, 41))[name] == ("4.90 s", True)
    assert _findings(took(5.1, 40), took(2.0, 8))[name] == ("5.10 s", False)
    assert _findings(took(99.0, 41), row())[name] == ("not measured", None)


@pytest.mark.parametrize(("added", "met"), [(59e-6, True), (61e-6, False)])
def test_the_goal_of_a_call(added, met):
    found = _findings(row({"eager-nchw": 4e-4, "ganfast-nchw": 4e-4 + added}, op="call"))
    name = "what acceleration adds to a call of DCGAN-64, width 8, batch 1, one thread"
    assert found[name] == (f"{added * 1e6:.2f} us", met)


def test_the_families_have_a_table_of_their_own():
    lost = {"eager-nchw": 1.2, "compile-nchw": 0.5}
    rows = [_family(times={"compile-nchw": 2.0}, compile_first_call=20.0), _family(times=lost, compile_first_call=40.0), _family("small")]
    text = tables.full(results(row(), *rows), [])
    assert "| trained | train | fp32 | 2 | 1.20x | 0 of 2 | 1.00x | 1 / 1 | 2.0 | 30.0 |" in text
    assert "| small | train | fp32 | 1 | 1.20x | 0 of 1 |  |  | 2.0 |  |" in text
    assert "| 0.96x (0.90 to 1.10) |" in text
    failed = _family(case="broken")
    failed["rivals"]["compile-nchw"] = {"failed": "wrong result"}
    summary = tables.summary(results(*rows, _family(times={"compile-nchw": 2.0}, case="another"), failed), "t.md", [])
    assert "| accelerate | train | 3 | 1.20x |  | layer fp32 1.20x | 1.26x, 2 won, 1 lost, 1 failed |" in summary
    assert "| accelerate, small | train | 1 | 1.20x |  | layer fp32 1.20x |  |" in summary
    assert "## Whole networks" not in tables.full(results(row()), [])


@pytest.mark.prove
@pytest.mark.parametrize(("name", "mode"), [("dcgan-flat-g", TRAIN), ("vae", INFERENCE)])
def test_inductor_itself_is_timed(bench, name, mode):
    bench.settings = bench.settings._replace(rivals=("eager", "compile"), asked=True)
    found = measure(bench, _TINY[name], mode, "fp32")
    assert "median" in found["rivals"]["compile-nhwc"] and found["compile_first_call"] > 1
