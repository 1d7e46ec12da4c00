"""Graphs and cuBLAS's workspaces: what stands in for CUDA here is the order of the calls, and the law of the recorded graphs."""

import contextlib
import gc
import warnings

import pytest
import torch
from torch import nn

import ganfast
from ganfast import _timing
from ganfast.step import graph as graph_module
from tests.step.common import Gan, images
from tests.step.recorded import RecordedGraphs


class FakeGraph:
    def __init__(self, events):
        self.events = events

    def replay(self):
        self.events.append("replay")

    def register_generator_state(self, generator):
        pass

    def __del__(self):
        self.events.append("death")


@pytest.fixture
def events(monkeypatch):
    """The calls into CUDA that matter, in order."""
    found = []

    @contextlib.contextmanager
    def recording(graph, **_):
        found.append("begin")
        yield
        found.append("end")

    class Stream:
        def __init__(self, *_):
            pass

        def wait_stream(self, other):
            pass

    for name, value in (("CUDAGraph", lambda: FakeGraph(found)), ("graph", recording), ("Stream", Stream), ("current_stream", Stream)):
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "default_generators", [None])
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: found.append("clear"), raising=False)
    return found


def test_workspaces_are_cleared_right_before_and_after_a_recording(events):
    graphs = graph_module.CudaGraphs(torch.device("cuda", 0))
    graphs.record(lambda: events.append("call"), [])[1]()
    assert events[:6] == ["clear", "begin", "call", "end", "clear", "replay"]
    del events[:]

    def failing():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        graphs.record(failing, [])
    assert events[:3] == ["clear", "begin", "clear"] and events.count("clear") % 2 == 0  # and after one that failed


def test_so_they_are_around_a_measurement(events):
    replay = _timing.CudaRuntime().capture(lambda: events.append("call"), 2)
    assert events == ["call"] * 2 + ["clear", "begin", "call", "call", "end", "clear"]
    del replay


def test_a_measurement_lets_its_first_graph_go_before_it_records_the_second():
    events = []

    class Runtime(_timing.CudaRuntime):
        def capture(self, call, copies):
            events.append("capture")
            return FakeGraph(events).replay

        def seconds(self, call):
            return 1e-5

    sampler = _timing.DeviceClock(Runtime())(lambda: None)
    assert events == ["capture", "death", "capture"] and sampler.clock == "graph"


def test_the_stand_in_knows_the_law():
    graphs = RecordedGraphs()
    first, second = (graphs.record(lambda: torch.ones(1) + 1, [])[1] for _ in range(2))
    first()
    second()
    del first
    gc.collect()
    with pytest.raises(AssertionError, match="died while this one, recorded later"):
        second()


def moved(network: nn.Module) -> None:
    for p in network.parameters():
        p.data = p.data.clone()


def test_outdated_graphs_go_before_the_next_is_recorded(device):
    """Whatever arguments they were for: recorded anew, then met again with the others, replayed in turns."""
    gan = Gan(device)
    step = ganfast.capture(gan.step, images(device, 4), max_graphs=12)
    for _ in range(2):
        for n in (4, 3, 4, 3):
            step(images(device, n))
        moved(gan.generator)
        for n in (3, 4, 3):
            step(images(device, n))
    step.reset()
    for n in (4, 3, 4):
        step(images(device, n))
    assert step.graphs == 2


@pytest.mark.parametrize("where", ["loss", "output of a part", "another network's loss"])
def test_a_loss_kept_from_an_earlier_step_is_named(device, where):
    layer, other = nn.Linear(2, 2).to(device), nn.Linear(2, 1).to(device)
    x = torch.ones(3, 2, device=device)

    def step(x):
        layer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        return loss

    kept = {"loss": lambda: step(x), "output of a part": lambda: layer(x), "another network's loss": lambda: other(layer(x)).sum()}[where]()
    with pytest.raises(ganfast.CaptureError, match=r"holds weight of shape \(2, 2\): delete the old loss"):
        ganfast.capture(step, x)
    kept = kept.detach()
    captured = ganfast.capture(step, x)
    assert captured(x) == layer(x).square().mean() and kept is not None


def test_what_only_garbage_or_an_older_weight_norm_holds_is_not_refused(device):
    """A loss in a cycle that nobody reaches; the weight that torch's older norm leaves in a layer, with the graph of its last forward."""
    layer = nn.Linear(2, 2).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have its newer one
        normed = torch.nn.utils.weight_norm(nn.Linear(2, 2)).to(device)
    x = torch.ones(3, 2, device=device)

    def step(x):
        layer.zero_grad(), normed.zero_grad()
        loss = normed(layer(x)).square().mean()
        loss.backward()
        return loss

    gc.disable()
    try:
        cycle = [step(x)]
        cycle.append(cycle)
        del cycle
        captured = ganfast.capture(step, x)
    finally:
        gc.enable()
    assert captured(x) == normed(layer(x)).square().mean()


def test_a_loss_that_the_step_itself_keeps_is_its_own(device):
    """As models of the pix2pix family do; met again at the second recording, and after a reset."""

    class Model:
        def __init__(self):
            self.layer, self.loss = nn.Linear(2, 2).to(device), None

        def step(self, x):
            self.layer.zero_grad()
            self.loss = self.layer(x).square().mean()
            self.loss.backward()
            return self.loss

    model = Model()
    step = ganfast.capture(model.step, torch.ones(3, 2, device=device))
    for rows in (3, 4):
        assert step(torch.ones(rows, 2, device=device)) == model.layer(torch.ones(rows, 2, device=device)).square().mean()
    step.reset()
    step(torch.ones(3, 2, device=device))
    assert step.graphs == 1


def test_what_holds_no_graph_is_not_refused(device):
    """Gradients, hooks on parameters, a loss with its graph freed and gone, results of frozen networks and under no_grad."""
    layer, frozen = nn.Linear(2, 2).to(device), nn.Linear(2, 2).to(device).requires_grad_(False)
    x, seen = torch.ones(3, 2, device=device), []
    layer.weight.register_hook(lambda g: g)
    frozen_result = frozen(x)

    def step(x):
        layer.zero_grad()
        layer(frozen(x)).mean().backward()

    step(x)
    with torch.no_grad():
        seen.append(layer(x))
    ganfast.capture(step, x)(x)
    assert frozen_result is not None and layer.weight.grad is not None
