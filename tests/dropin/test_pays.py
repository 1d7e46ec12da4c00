"""Groups that are measured faster as torch's own calls run so, and measuring leaves no mark."""

import copy

import pytest
import torch
from torch import nn

import ganfast
from ganfast import _tune
from ganfast.dropin import pays
from ganfast.penalties import r1_penalty
from tests.dropin.common import x_for


def network() -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.utils.spectral_norm(nn.Conv2d(4, 6, 3))
    return nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(True), nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 3, padding=1), nn.Tanh())


@pytest.fixture
def asked(monkeypatch):
    """The tuner's questions of groups; its answer is `asked.answer`, after every candidate ran twice. Of whole graphs: `whole`, with the
    answer `asked.whole_answer`."""

    class Asked(list):
        answer, whole_answer = "fused", "fused"

    found = Asked()
    found.whole = []

    def choose(question, candidates, x, family="", check=None, margin=0.0):
        if set(candidates) != {"fused", "eager"}:
            return next(iter(candidates)), True
        graph = question.startswith("graph")
        (found.whole if graph else found).append(question)
        with torch.no_grad():  # as the tuner
            for call in (*candidates.values(), *candidates.values()):
                call()
        return found.whole_answer if graph else found.answer, True

    monkeypatch.setattr(_tune, "choose", choose)
    monkeypatch.setattr(_tune, "off_reason", lambda: "")
    return found


@pytest.mark.parametrize("answer", ["fused", "eager"])
def test_measuring_leaves_no_mark(asked, answer):
    asked.answer = answer
    fast, plain = ganfast.accelerate(network()), network()
    for step in range(3):
        for model in (fast, plain):
            model.zero_grad()
            model(x_for() + step).square().sum().backward()
        assert len(asked) == 2  # once a group
    for (name, a), b in zip(fast.named_parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    for (name, a), b in zip(fast.named_buffers(), plain.buffers()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert [row.ran == "eager" for row in ganfast.explain(fast).groups] == [answer == "eager"] * 2
    assert len(asked.whole) == (answer == "fused")


def test_a_graph_that_is_slower_as_a_whole_runs_torchs_calls(asked, monkeypatch):
    asked.whole_answer = "eager"
    monkeypatch.setattr(pays, "_SHORT", 1e9)
    fast, plain = ganfast.accelerate(network()), network()
    state = torch.get_rng_state()
    for step in range(3):
        torch.testing.assert_close(fast(x_for() + step), plain(x_for() + step))
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b in zip(fast.named_buffers(), plain.buffers()):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    rows = ganfast.explain(fast).groups
    assert [row.ran for row in rows] == ["eager"] * 2 and all("whole graph" in row.note for row in rows)
    assert len(asked.whole) == 1


def test_the_first_call_of_a_graph_that_is_slower_as_a_whole_runs_torchs_calls_too(asked):
    """To the bit, statistics and dropout too: a run that goes on makes its first call where the unbroken one makes a later one."""
    asked.whole_answer = "eager"
    parts = lambda: nn.Sequential(network(), nn.Dropout(0.3), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    fast, plain = ganfast.accelerate(parts().train()), parts().train()
    found = []
    for model in (fast, plain):
        torch.manual_seed(1)
        y = model(x_for())
        y.square().sum().backward()
        found.append([y, torch.rand(2), *(p.grad for p in model.parameters()), *model.buffers()])
    assert asked.whole and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_torchs_calls_are_not_ganfasts_op_on_its_torch_backend(asked):
    asked.answer = "eager"
    layer = ganfast.accelerate(nn.Conv2d(4, 4, 1))
    layer(x_for())
    assert [row.ran for row in ganfast.explain(layer).groups] == ["eager"]
    with ganfast.use_backend("torch"):
        layer(x_for())
    assert [row.ran for row in ganfast.explain(layer).groups] == ["torch"]


def test_a_lone_layer_and_new_looks(asked):
    asked.answer = "eager"
    layer = ganfast.accelerate(nn.Conv2d(4, 4, 1))
    plain = ganfast.restore(copy.deepcopy(layer))
    for x in (x_for(), x_for(size=6), x_for()):
        torch.testing.assert_close(layer(x), plain(x))
    with torch.no_grad():
        layer(x_for())
    assert len(asked) == 3


def test_memory_asked_for_is_kept(asked):
    asked.answer = "eager"
    ganfast.accelerate(network(), recompute=True)(x_for())
    assert not asked


@pytest.mark.parametrize("which", ["input", "weight"])
def test_layers_whose_gradient_is_wrong_are_never_chosen(asked, which):
    """torch 2.13's instance_norm, a channels_last batch of one."""
    asked.answer = "eager"
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.ReLU())
    exact, fast = copy.deepcopy(plain).double(), ganfast.accelerate(copy.deepcopy(plain))
    x, gy = torch.randn(1, 3, 12, 12), torch.randn(1, 8, 12, 12)
    last = {"memory_format": torch.channels_last}
    mine = x.contiguous(**last) if which == "input" else x.clone()
    if which == "weight":
        fast.to(**last)
    gradients = []
    for net, image in ((exact, x.double()), (fast, mine)):
        image.requires_grad_()
        net(image).backward(gy.to(image.dtype))
        gradients.append([image.grad, *(p.grad for p in net.parameters())])
    for got, wanted in zip(gradients[1], gradients[0]):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-3)
    assert not asked


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_layers_that_can_break_the_heap_are_not_even_measured(asked, layer):
    asked.answer = "eager"
    fast = ganfast.accelerate(nn.Sequential(layer(3, 8, 1, stride=2), nn.BatchNorm2d(8), nn.ReLU()))
    fast(torch.randn(3, 3, 6, 6).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert not asked


def test_a_graph_whose_groups_were_tried_and_lost_needs_no_dynamo(asked, monkeypatch):
    """Its calls may leave dynamo: the forward that was made for the trial is none that runs."""
    asked.whole_answer = "eager"
    monkeypatch.setattr(pays, "_SHORT", 1e9)
    fast = ganfast.accelerate(network()).eval()
    with torch.no_grad():
        fast(x_for())
    assert not fast._compiled_call_impl.compiled.is_needed()


def test_a_graph_that_was_too_long_to_be_asked_about_stays_so_in_a_run_that_goes_on(monkeypatch):
    """The machine is quiet now, and the clock would find it short: the answer would be another, and the run's last digits too."""
    from ganfast import _timing

    monkeypatch.setenv("GANFAST_TUNE", "1")
    x = torch.randn(1, 4, 8, 8)
    ways = {"fused": lambda t: (t,), "plain": lambda t: (t,)}
    asked = []
    monkeypatch.setattr(_tune, "choose", lambda question, *_, **__: (asked.append(question) or "eager", True))
    monkeypatch.setattr(_timing, "measure_once", lambda call: 10.0)
    question = "graph of 1 groups, 1 fused, of this test"
    assert pays.whole_pays(question, "graph of this test", ways["fused"], ways["plain"], (x,), set()) and not asked
    kept = _tune.choices()
    monkeypatch.setattr(_timing, "measure_once", lambda call: 1e-4)
    assert pays.whole_pays(question, "graph of this test", ways["fused"], ways["plain"], (x,), set()) and not asked
    assert any(name.startswith(question) for name in kept["answers"])
    assert not pays.whole_pays("another " + question, "graph of this test", ways["fused"], ways["plain"], (x,), set()) and asked


def test_the_bias_before_a_norm_is_no_reason_to_call_a_way_wrong(monkeypatch):
    """Its gradient is rounding alone: in 16 bits two ways differ by as much as it is."""
    compared = []

    def choose(question, candidates, x, family="", check=None, margin=0.0):
        results = [[None if t is None else t.shape for t in call()] for call in candidates.values()]
        compared.append(results)
        return "fused", True

    monkeypatch.setattr(_tune, "choose", choose)
    monkeypatch.setattr(_tune, "off_reason", lambda: "")
    for norm, without in {nn.InstanceNorm2d(6): True, nn.BatchNorm2d(6): True, nn.BatchNorm2d(6).eval(): False}.items():
        ganfast.accelerate(nn.Sequential(nn.Conv2d(4, 6, 3), norm, nn.ReLU()))(x_for())
        eager, fused = next(found for found in compared if len(found) == 2)
        assert eager == fused and eager[1] == (6, 4, 3, 3) and (eager[2] is None) == without
        compared.clear()


@pytest.mark.parametrize("act", [nn.LeakyReLU(0.2), nn.SiLU()], ids=["leaky_relu", "silu"])
def test_a_penalty_runs_every_group_as_one(act, asked):
    """Without a question: a trial takes the gradient once, and torch's convolutions lose in the gradient of a gradient. Beside it the
    tuner's answer stands."""
    asked.answer = "eager"
    plain = nn.Sequential(nn.Conv2d(4, 6, 3), act, nn.Conv2d(6, 1, 3), nn.Flatten())
    fast = ganfast.accelerate(copy.deepcopy(plain))
    assert fast(x_for()).shape == plain(x_for()).shape
    ran = lambda: {row.ran == "eager" for row in ganfast.explain(fast).groups}
    questions = len(asked)
    assert questions > 0 and ran() == {True}
    found = [torch.autograd.grad(r1_penalty(model, x_for()), list(model.parameters())[:3]) for model in (fast, plain)]
    assert len(asked) == questions and False in ran()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(fast(x_for()), plain(x_for()))
