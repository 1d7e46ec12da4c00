"""What a backward computes is what this run of the engine uses: `wanted_gradients` and `no_weight_gradients`."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrizations

import ganfast.functional as GF
import ganfast.nn as gnn
from ganfast import _autograd
from ganfast._autograd import no_weight_gradients
from tests.test_backends import Recorder

BACKENDS = ["torch", "cpu"]


def conv(backend):
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    weight, bias = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    return GF.conv_act(x, weight, bias, act="tanh", backend=backend), x, weight, bias


def transposed(backend):
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    weight, bias = torch.randn(3, 4, 4, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    return GF.conv_transpose_act(x, weight, bias, stride=2, act="tanh", backend=backend), x, weight, bias


def upsampling(backend):
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    weight, bias = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    return GF.upsample_conv_act(x, weight, bias, act="tanh", backend=backend), x, weight, bias


OPS = pytest.mark.parametrize("op", [conv, transposed, upsampling])


def passes(call) -> dict[str, int]:
    """How often each gradient's pass ran. "data": of either kind of convolution."""
    with Recorder() as recorder:
        call()
    ran = [name.removeprefix("conv_transpose_act_") for name, _ in recorder.calls]
    return {"data": ran.count("data_grad") + ran.count("fwd"), "weight": ran.count("weight_grad")}


@OPS
@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_was_asked_for_runs(op, backend):
    y, x, weight, bias = op(backend)
    ran = lambda *inputs, **kwargs: passes(lambda: torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True, **kwargs))
    assert ran(x) == ran(x, create_graph=True) == ran(x, bias) == {"data": 1, "weight": 0}
    assert ran(x, weight) == ran(x, weight, bias) == {"data": 1, "weight": 1}
    assert passes(lambda: y.backward(torch.ones_like(y), inputs=[x], retain_graph=True)) == {"data": 1, "weight": 0}
    assert passes(lambda: y.backward(torch.ones_like(y))) == {"data": 1, "weight": 1}
    assert all(t.grad is not None for t in (x, weight, bias))


def test_the_last_layer_alone():
    """As an adaptive loss weight asks: nothing flows on to what lies before."""
    first, last, bias = (torch.randn(*size, requires_grad=True) for size in ((3, 3, 3, 3), (2, 3, 3, 3), (2,)))
    y = GF.conv_act(GF.conv_act(torch.randn(1, 3, 6, 6), first), last, bias, act="tanh").sum()
    ran = lambda *inputs: passes(lambda: torch.autograd.grad(y, inputs, retain_graph=True))
    assert ran(last) == {"data": 0, "weight": 1} and ran(bias) == {"data": 0, "weight": 0} and ran(first) == {"data": 1, "weight": 1}


def test_inputs_that_are_no_tensors_or_need_nothing_shift_nothing():
    x, alpha = torch.randn(2, 3, 6, 6), torch.rand(4, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    y = GF.conv_act(x, weight, act="prelu", alpha=alpha)
    want = F.prelu(F.conv2d(x, weight), alpha)
    for inputs in ([alpha], [weight], [weight, alpha]):
        got, plain = (torch.autograd.grad(v.square().sum(), inputs, retain_graph=True) for v in (y, want))
        torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", ["spectral_norm", "weight_norm"])
def test_a_weight_made_anew_by_each_forward(make):
    torch.manual_seed(0)
    ours, theirs = gnn.ConvAct2d(3, 4, 3, act="tanh"), torch.nn.Conv2d(3, 4, 3)
    theirs.load_state_dict(ours.state_dict())
    states = [getattr(parametrizations, make)(module) for module in (ours, theirs)]
    states[1].load_state_dict(states[0].state_dict())
    for module in states:
        module.eval()  # no power iteration: the same weight each time
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    y, want = ours(x), torch.tanh(theirs(x))
    assert passes(lambda: torch.autograd.grad(y.sum(), x, retain_graph=True)) == {"data": 1, "weight": 0}
    got, plain = (torch.autograd.grad(v.square().sum(), [x, *m.parameters()]) for v, m in ((y, ours), (want, theirs)))
    torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-4)


def test_weights_cast_by_autocast_and_captured_between_leaf_and_layer():
    x, leaf = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = GF.conv_act(x, leaf)
    assert passes(lambda: torch.autograd.grad(y.sum(), x, retain_graph=True)) == {"data": 1, "weight": 0}
    assert passes(lambda: torch.autograd.grad(y.sum(), leaf)) == {"data": 0, "weight": 1}
    middle = leaf * 2
    assert torch.autograd.grad(GF.conv_act(x, middle).sum(), middle)[0].any()


def test_a_hook_on_a_weight_is_served():
    y, _, weight, _ = conv("auto")
    seen = []
    weight.register_hook(seen.append)
    torch.autograd.grad(y.sum(), weight)
    assert len(seen) == 1 and seen[0].any()


def test_in_doubt_the_gradient_is_computed(monkeypatch):
    def refuse(_):
        raise RuntimeError("no answer")

    y, x, weight, _ = conv("auto")
    monkeypatch.setattr(torch._C, "_will_engine_execute_node", refuse)
    assert passes(lambda: torch.autograd.grad(y.sum(), [x, weight])) == {"data": 1, "weight": 1}


@OPS
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_weight_gradients(op, backend):
    y, x, weight, bias = op(backend)
    with no_weight_gradients():
        assert passes(lambda: y.sum().backward(retain_graph=True)) == {"data": 1, "weight": 0}
        assert weight.grad is None and bias.grad is None and x.grad is not None
    assert passes(lambda: y.sum().backward()) == {"data": 1, "weight": 1}
    assert weight.grad is not None and bias.grad is not None


def test_it_nests_and_ends_with_an_exception():
    inside = lambda: bool(_autograd._skips())
    with pytest.raises(KeyError), no_weight_gradients():
        with no_weight_gradients():
            assert inside()
        assert inside()
        raise KeyError
    assert not inside()
    shared = no_weight_gradients()
    with shared, shared:
        assert inside()
    assert not inside()


def test_another_thread_is_not_inside():
    entered, done, found = threading.Event(), threading.Event(), []

    def other():
        entered.wait(10)
        y, _, weight, _ = conv("auto")
        y.sum().backward()
        found.append(weight.grad is not None)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with no_weight_gradients():
        entered.set()
        assert done.wait(10)
    thread.join()
    assert found == [True]


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("skips", [True, False])
def test_the_outer_backward_has_every_weight_gradient(skips):
    """A gradient penalty by backward(create_graph=True) and by autograd.grad, against torch's own convolutions."""
    torch.manual_seed(0)
    ours = torch.nn.Sequential(gnn.ConvAct2d(3, 8, 4, 2, 1, act="tanh"), gnn.ConvAct2d(8, 4, 4, 2, 1, act="silu"), gnn.ConvAct2d(4, 1, 2))
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 4, 2, 1), torch.nn.Tanh(), torch.nn.Conv2d(8, 4, 4, 2, 1), torch.nn.SiLU(), torch.nn.Conv2d(4, 1, 2)
    )
    for source, target in zip(ours.parameters(), theirs.parameters(), strict=True):
        target.data.copy_(source.data)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)

    def penalty(model):
        if not skips:
            (gx,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        else:
            again = x.detach().requires_grad_()
            with no_weight_gradients():
                model(again).sum().backward(create_graph=True)
            gx = again.grad
        return gx.square().sum() + model(x).square().sum()

    got = penalty(ours)
    assert all(p.grad is None for p in ours.parameters())
    grads = torch.autograd.grad(got, list(ours.parameters()), allow_unused=True)
    want = torch.autograd.grad(penalty(theirs), list(theirs.parameters()), allow_unused=True)
    torch.testing.assert_close(grads, want, rtol=1e-4, atol=1e-4)
