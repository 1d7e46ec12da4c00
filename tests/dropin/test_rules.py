"""What a graph's calls mean beyond their names: who writes to what, in which regime, in which order of arguments."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
import ganfast.nn as gnn
from ganfast.dropin.backend import ganfast as backend
from tests.dropin import small

W = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
B = torch.randn(6, generator=torch.Generator().manual_seed(1))


def critic() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 1, 1)
    )  # fmt: skip


@pytest.mark.parametrize("door", ["function", "module", "by name"])
def test_a_penalty_inside_what_is_compiled_keeps_its_second_derivatives(door):
    """Dynamo leaves the graph at autograd.grad, and would trace the ops' backwards."""
    net = critic()

    def r1(x):
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return g.square().sum()

    class Penalty(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return r1(x)

    def gradients(call):
        net.zero_grad()
        call(small.images(2)).backward()
        return [p.grad for p in net.parameters()]

    want = gradients(r1)
    compiled = {"function": lambda: ganfast.accelerate(r1), "module": lambda: ganfast.accelerate(Penalty()),
                "by name": lambda: torch.compile(r1, backend=backend)}[door]()  # fmt: skip
    for got, right in zip(gradients(compiled), want, strict=True):
        assert (got is None) == (right is None)
        if right is not None:
            torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-5)


def detached_view(x, w):
    h = F.leaky_relu(F.conv2d(x, w))
    with torch.no_grad():
        v = h.reshape(h.shape)
    return h * v


def view_of_another_dtype(x, w):
    y = F.relu(F.conv2d(x, w))
    return (y.view(torch.int32) & 1).float() + y


def own_order(x, w):
    ones, zeros = torch.ones(4), torch.zeros(4)
    return F.relu(torch.batch_norm(F.conv2d(x, w), ones * 2, ones, zeros, ones, True, 0.1, 1e-5, False))


def scaled_elu(x, w):
    return torch._C._nn.elu(F.conv2d(x, w), 1.0, 1.5)


def divided(x, w):
    x, y = x.clone(), None
    y = F.conv2d(x, w)
    x //= 0.5
    return F.relu(y)


def weight_changed(x, w):
    w = w.clone()
    y = F.conv2d(x, w)
    w.detach().remainder_(0.5)
    return F.relu(y) + 0 * w.sum()


def in_a_list(x, w):
    w = w.detach().clone()
    y = F.conv2d(x, w)
    torch._foreach_mul_([w], 0.5)
    return F.relu(y)


def added_to_itself(x, w):
    y = F.conv2d(x[:1, :, :3, :3], w)
    return F.relu(y + y) * y


def transposed_bias(x, w):
    z = x.flatten(1)[:, :30].reshape(-1, 5, 6).transpose(1, 2)
    return F.leaky_relu(z + B[:, None], 0.2).transpose(1, 2).view(-1)


WRITES = [divided, weight_changed, in_a_list]  # to what a backward would read
FORWARDS = [
    detached_view, view_of_another_dtype, own_order, scaled_elu, divided, weight_changed, in_a_list, added_to_itself, transposed_bias,
]  # fmt: skip


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_a_forward(forward):
    fast, results = ganfast.accelerate(forward), []
    for call in (forward, fast, fast):
        w, x = W.clone().requires_grad_(), small.images(2).requires_grad_()
        if forward in WRITES:
            with torch.no_grad():
                results.append([call(x, w)])
        else:
            y = call(x, w)
            results.append([y, *torch.autograd.grad(y.square().sum(), [x, w], allow_unused=True)])
    for got in results[1:]:
        for a, b in zip(got, results[0], strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
                assert a.stride() == b.stride()


def test_a_bias_that_is_changed_before_the_backward():
    """A result of the caller's, of which eager's convolution keeps nothing."""
    for call in (F.conv2d, ganfast.accelerate(lambda x, w, b: F.conv2d(x, w, b))):
        b = torch.zeros(4, requires_grad=True) * 1
        y = call(small.images(2), W.clone().requires_grad_(), b)
        with torch.no_grad():
            b.mul_(2)
        y.sum().backward()


def test_a_trial_of_the_whole_graph_leaves_no_mark(monkeypatch):
    """A forward that begins in place on a result of the caller's, and one whose backward torch has not."""
    from ganfast import _tune
    from ganfast.dropin import pays

    def choose(question, candidates, x, family="", check=None, margin=0.0):
        for call in (*candidates.values(), *candidates.values()):
            call()
        return "fused" if "fused" in candidates else next(iter(candidates)), True

    monkeypatch.setattr(_tune, "choose", choose)
    monkeypatch.setattr(_tune, "off_reason", lambda: "")
    monkeypatch.setattr(pays, "_SHORT", 1e9)

    def in_place(x, w):
        return F.leaky_relu(F.conv2d(F.relu(x, inplace=True), w), 0.2)

    def no_backward(x, w):
        return torch.igamma(F.conv2d(x, w).abs() + 1, torch.ones(()))

    for forward in (in_place, no_backward):
        x, w = small.images(2).requires_grad_(), W.clone().requires_grad_()
        fast = ganfast.accelerate(forward)
        for _ in range(2):
            inputs = [x * 1, x * 1]
            got, want = (call(given, w) for call, given in zip((fast, forward), inputs))
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(*inputs)
        if forward is in_place:
            got.sum().backward()


def test_copies_that_take_over_every_attribute_have_layers_of_their_own():
    """DataParallel's replicas of a child, for one."""
    model = ganfast.accelerate(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 1)))
    x = small.images(2)
    model(x), model[0](x)
    for part in (model, model[0]):
        twin = part._replicate_for_data_parallel()
        twin._modules = {name: copy.deepcopy(child) for name, child in part._modules.items()}
        with torch.no_grad():
            for child in twin._modules.values():
                for p in child.parameters():
                    p.zero_()
        assert twin(x).abs().max() == 0 < part(x).abs().max()


class OwnReduce(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n, self.conv = n, nn.Conv2d(3, n, 3)

    def forward(self, x):
        return F.relu(self.conv(x))

    def __reduce__(self):
        return self.__class__, (self.n,), self.__dict__


class OwnNew(nn.Module):
    def __new__(cls, n):
        return super().__new__(cls)

    def __init__(self, n):
        super().__init__()
        self.n, self.conv = n, nn.Conv2d(3, n, 3)

    def forward(self, x):
        return F.relu(self.conv(x))

    def __getnewargs__(self):
        return (self.n,)


@pytest.mark.parametrize("cls", [OwnReduce, OwnNew])
def test_copies_of_classes_with_ways_of_their_own(cls):
    model = ganfast.accelerate(cls(4))
    x = small.images(2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), model(x))


def test_a_users_own_compile_stays():
    model = critic()
    model.compile(backend="eager")
    own = model._compiled_call_impl
    ganfast.accelerate(model)(small.images(2))
    assert ganfast.restore(model)._compiled_call_impl is own


def test_a_call_that_raises_costs_no_graph():
    model = ganfast.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    for _ in range(3):
        model(small.images(2))
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 5, 8, 8))
    assert ganfast.explain(model).graphs == 1


def test_ganfasts_own_layers_in_an_accelerated_model():
    """Second derivatives, where dynamo would trace the ops' autograd functions."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        gnn.ConvAct2d(3, 4, 3, act="leaky_relu", alpha=0.2), gnn.BatchNormAct2d(4, act="silu"), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2),
        gnn.ConvTransposeAct2d(4, 2, 4, 2, 1, act="tanh"),
    )  # fmt: skip
    model = ganfast.accelerate(copy.deepcopy(plain))
    for _ in range(2):
        small.same(model, plain, small.images(2))
    assert ganfast.explain(model).graphs <= 2 and ("2", "3") in small.layers(model)
