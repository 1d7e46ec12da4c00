"""compare, from Python and from the shell: its rows, its errors, and that the model stays as it is."""

import copy
import re
import sys

import pytest
import torch
from torch import nn

import ganfast
from ganfast import cli
from ganfast.dropin import compare as module


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True), nn.Conv2d(8, 2, 3), nn.Tanh())


@pytest.fixture(autouse=True)
def units(monkeypatch):
    """As on a processor that has them for bfloat16."""
    monkeypatch.setattr(module, "has_bf16_units", lambda device: True)


def test_rows_and_the_model_as_it_was():
    net = model().eval()
    state, types = copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    x = torch.randn(2, 4, 6, 6)
    rng = torch.get_rng_state()
    found = ganfast.compare(net, x, seconds=20)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [type(m) for m in net.modules()] == types
    assert not net.training
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert [row.mode for row in found.like_for_like] == ["train: forward + backward", "eval: forward"]
    for row in found.like_for_like:
        assert row.eager > 0
        assert row.ganfast > 0
        assert row.eager_peak > 0
        assert row.ganfast_peak > 0
        assert row.output_error < 1e-5
    assert found.like_for_like[0].gradient_error < 1e-4
    assert [row.layers for row in found.layers.groups] == [("0", "1", "2"), ("3", "4")]
    text = str(found)
    for words in ("eager in float64", "0 1 2", "conv_transpose_act + batch_norm_act", "ratio", "peak memory"):
        assert words in text
    assert len(found.mixed) == 2
    assert "ganfast.accelerate" in text.splitlines()[-1]


class Clock:
    """Stands in for the time and for what is measured: a row takes what it takes, and what it is given."""

    def __init__(self, monkeypatch, costs):
        self.now, self.costs, self.measured = 0.0, costs, []
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

        def measure(plain, inputs, mode, mixed, exact, seconds, recompute):
            self.measured.append((mode.split(":")[0], "bf16" if mixed else "as it is"))
            self.now += max(self.costs[mode.split(":")[0], mixed], seconds)
            return module.Measured(mode, "bf16" if mixed else "as it is", 1.0, 0.5, 0.0, 1, 1, 0.0, 0.0, None, None), plain

        monkeypatch.setattr(module, "_measure", measure)


def _row(eager: float, fast: float, mode: str = "train: forward + backward") -> module.Measured:
    return module.Measured(mode, "", eager, fast, 0.0, 1, 1, 0.0, 0.0, None, None)


@pytest.mark.parametrize(
    ("plain", "mixed", "said"),
    [
        ((1.0, 0.8), None, "train: forward + backward: ganfast.accelerate, 1.25x as fast as now;"),
        ((1.0, 1.0), None, "train: forward + backward: leave it as it is, 1.00x as fast as now (ganfast.accelerate 1.00x)"),
        ((1.0, 0.8), (0.5, 0.4), "channels_last + ganfast.accelerate, 2.50x as fast as now (ganfast.accelerate 1.25x, bfloat16 "),
        ((1.0, 0.8), (0.5, 0.5), "train: forward + backward: bfloat16 autocast + channels_last, 2.00x as fast as now ("),
        ((1.0, 0.8), (0.5, 0.49), "train: forward + backward: bfloat16 autocast + channels_last, 2.00x as fast as now ("),
        ((1.0, 0.8), (3.0, 2.0), "train: forward + backward: ganfast.accelerate, 1.25x as fast as now ("),
        ((1.0, 1.2), (3.0, 2.0), "leave it as it is, 1.00x as fast as now ("),
    ],
)
def test_the_last_line_says_what_to_do(plain, mixed, said):
    found = module.Comparison("", "")
    found.like_for_like = [_row(*plain), _row(3.0, 1.0, "eval: forward")]
    found.mixed = [] if mixed is None else [_row(*mixed)]
    last = str(found).splitlines()[-1]
    assert last.startswith("what to do: train: ") and said in last and "eval: forward: ganfast.accelerate, 3.00x" in last
    assert "noisy" not in last
    found.like_for_like[0] = found.like_for_like[0]._replace(spread=0.9)
    assert "noisy, measure longer" in found.advice()


def test_without_units_for_bfloat16_its_rows_are_left_out_with_a_word(monkeypatch):
    monkeypatch.setattr(module, "has_bf16_units", lambda device: False)
    clock = Clock(monkeypatch, dict.fromkeys([("train", False), ("eval", False)], 1.0))
    found = ganfast.compare(model(), torch.randn(2, 4, 6, 6))
    assert clock.measured == [("train", "as it is"), ("eval", "as it is")]
    assert any("no units for bfloat16" in note for note in found.notes)


BOTH = "up: eval: forward, bfloat16 autocast + channels_last and eval: forward, like for like;"
ALL = [("train", "bf16"), ("train", "as it is"), ("eval", "bf16"), ("eval", "as it is")]


@pytest.mark.parametrize(("cost", "names"), [(1.0, ""), (9.0, "up: eval: forward, like for like;"), (30.0, BOTH)])
def test_the_useful_rows_come_first_and_a_missing_one_is_named_with_the_seconds_it_wants(monkeypatch, cost, names):
    """30 s for a slow model: what bfloat16 would add is always said, and the seconds that are named are enough."""
    clock = Clock(monkeypatch, {("train", True): 2 * cost, ("train", False): 3 * cost, ("eval", True): cost, ("eval", False): cost})
    found = ganfast.compare(model(), torch.randn(2, 4, 6, 6), seconds=30)
    assert clock.measured == ALL[: len(clock.measured)] and len(clock.measured) >= 2
    assert "bfloat16 autocast + channels_last 1.00x" in found.advice() and found.layers is not None
    assert (len(clock.measured) < 4) == bool(names) == ("not measured, as the 30 s are up" in str(found))
    if names:
        assert names in str(found)
        asked = int(re.search(r"--seconds (\d+)\) is enough", str(found))[1])
        clock.now, clock.measured = 0.0, []
        assert "not measured" not in str(ganfast.compare(model(), torch.randn(2, 4, 6, 6), seconds=asked)) and clock.measured == ALL


def test_no_row_in_bfloat16_for_a_model_that_is_no_float32_one():
    found = ganfast.compare(model().double(), torch.randn(2, 4, 6, 6).double(), seconds=0.2)
    assert not found.mixed and "bfloat16 autocast + channels_last not measured: the model is no float32 one" in str(found)


def test_an_error_shows(monkeypatch):
    """A wrong layer on the fast side must be seen in both errors."""
    real = module.accelerate

    def wrong(net, **options):
        net[3].weight.data[0] *= 1.01
        return real(net, **options)

    monkeypatch.setattr(module, "accelerate", wrong)
    row = ganfast.compare(model(), torch.randn(2, 4, 6, 6), seconds=0.2).like_for_like[0]
    assert row.output_error > 1e-4 > 100 * row.eager_output_error
    assert row.gradient_error > 1e-4 > 100 * row.eager_gradient_error


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, x, n, options=None):
        y = self.net(x) + 0.1 * torch.randn(n, 2, 1, 1)
        return {"images": y, "more": (y.mean(), 3)}


def test_random_models_are_held_to_eager_itself():
    found = ganfast.compare(Random(), torch.randn(2, 4, 6, 6), 2, seconds=0.2)
    assert found.like_for_like[0].output_error < 1e-5
    assert "against eager itself" in str(found)


@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_model_that_ran_before_and_keeps_a_tensor_with_a_graph(normed):
    net = nn.Sequential(normed(nn.Conv2d(4, 4, 3)), nn.ReLU())
    net(torch.randn(2, 4, 6, 6))
    weight = net[0].weight
    row = ganfast.compare(net, torch.randn(2, 4, 6, 6), seconds=0.2).like_for_like[0]
    assert net[0].weight is weight and not weight.is_leaf
    assert row.output_error < 1e-5 and row.gradient_error < 1e-4


def test_an_accelerated_model_is_compared_with_its_plain_self():
    net = ganfast.accelerate(model())
    types = [type(m) for m in net.modules()]
    ganfast.compare(net, torch.randn(2, 4, 6, 6), seconds=0.2)
    assert [type(m) for m in net.modules()] == types


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ganfast.compare(nn.Conv2d, torch.ones(1)), TypeError, "wants a torch.nn.Module"),
        (lambda: ganfast.compare(model, torch.ones(1)), TypeError, "is a function, wants a torch.nn.Module. Call what makes one"),
        (lambda: ganfast.compare(model()), ValueError, "no inputs"),
        (lambda: ganfast.compare(model(), torch.ones(1, 4, 8, 8), seconds=0), ValueError, "seconds is 0, wants a positive number"),
        (lambda: ganfast.compare(model(), torch.ones(1, 3, 8, 8)), RuntimeError, "refuses these inputs: RuntimeError: Given transposed"),
        (lambda: ganfast.compare(model(), torch.ones(1, 4, 8, 8, dtype=torch.long)), RuntimeError, "refuses these inputs"),
    ],
)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


FILE = """
from torch import nn

WIDTH = 4
broken = 3

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.ConvTranspose2d(4, WIDTH, 4, 2, 1), nn.ReLU())

made = Net()

def fails():
    raise KeyError("no weights here")

def nothing():
    pass
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    path = tmp_path / "my_networks.py"
    path.write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield path
    sys.modules.pop("my_networks", None)


@pytest.mark.parametrize("target", ["my_networks.py:Net", "my_networks.py:made", "my_networks:Net"])
def test_the_command(target, own_file, capsys):
    cli.main(["compare", target, "--shape", "2,4,6,6", "--seconds", "0.2", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "like for like" in said
    assert "conv_transpose_act" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["my_networks.py:Nat", "--shape", "2,4,6,6"], "Did you mean 'Net'"),
        (["nothing.py:Net", "--shape", "2,4,6,6"], "no file nothing.py"),
        (["my_networks.py", "--shape", "2"], "file.py:name"),
        (["my_networks.py:Net", "--shape", "2,x"], "wants sizes"),
        (["my_networks.py:broken", "--shape", "2"], "is a int"),
        (["my_networks.py:fails", "--shape", "2"], "KeyError: 'no weights here'"),
        (["my_networks.py:nothing", "--shape", "2"], "my_networks.py:nothing() gave a NoneType, wants a torch.nn.Module"),
        (["my_nets:Net", "--shape", "2"], "python finds no module my_nets from this folder. A file is named with its path: my_nets.py:Net"),
        (["my_networks.py:Net", "--shape", "2,3,6,6"], "refuses these inputs"),
        (["my_networks.py:Net", "--shape", "2,4,6,6", "--seconds", "-1"], "seconds is -1.0"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, own_file, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *arguments, "--device", "cpu"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in said
    assert said.count("\n") == 1
