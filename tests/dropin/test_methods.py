"""What is called besides the model itself: methods, children, slices, layers in a loop, functions."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin import small


class Vae(nn.Module):
    """Is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.SiLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh()
        )
        self.plus = nn.Parameter(torch.randn(4))

    def encode(self, x):
        return self.encoder(x) + self.plus.view(1, -1, 1, 1)

    def decode(self, z):
        return self.decoder(z)


class Style(nn.Module):
    """Methods that hold the arithmetic themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping, self.synthesis = nn.Linear(3, 4), Synthesis()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def features(self, x):
        return F.leaky_relu(F.conv2d(x, self.weight), 0.2)

    def forward(self, z):
        return self.synthesis(self.mapping(z))


class Synthesis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.constant, self.conv = nn.Parameter(torch.randn(1, 4, 4, 4)), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, w):
        return torch.tanh(self.conv(self.constant * w[:, :, None, None]))


def test_methods_that_call_children():
    plain, model = small.pair(Vae)
    x = small.images(2)
    for m in (model, plain):
        m.steps = lambda x, m=m: m.decode(m.encode(x))
    for _ in range(2):
        small.assert_alike(small.orders(model.steps, x), small.orders(plain.steps, x))
    small.assert_alike(dict(model.named_buffers()), dict(plain.named_buffers()))
    groups = [("encoder.0", "encoder.1"), ("encoder.2", "encoder.3", "encoder.4")]
    assert small.layers(model) == [*groups, ("decoder.0", "decoder.1", "decoder.2"), ("decoder.3", "decoder.4")]
    assert ganfast.explain(model).graphs == 2


def test_a_child_with_a_forward_of_its_own_and_a_method_without():
    plain, model = small.pair(Style)
    w, x = torch.randn(2, 4), small.images(2)
    small.assert_alike(small.orders(model.synthesis, w), small.orders(plain.synthesis, w))
    assert small.layers(model) == [("synthesis.conv", "tanh()")]
    small.assert_alike(small.orders(model.features, x), small.orders(plain.features, x))  # plain python, right but not fused
    features = ganfast.accelerate(model.features)
    small.assert_alike(small.orders(features, x), small.orders(plain.features, x))
    assert small.layers(features) == [("conv2d()", "leaky_relu()")]
    small.same(model, plain, torch.randn(2, 3))


def test_slices_in_a_loop_compile_once():
    plain, model = small.pair(small.critic)
    x, work = small.images(2), []
    for _ in range(3):
        small.assert_alike(*(small.orders(lambda t, m=m: m[:3](t) + m[:3](t), x) for m in (model, plain)))
        work.append((ganfast.explain(model).graphs, ganfast.explain(model).seconds))
    assert work[0] == work[1] == work[2] and work[0][0] == 1
    h = plain[:2](x).detach()
    small.assert_alike(small.orders(model[2:5], h), small.orders(plain[2:5], h))
    small.same(model, plain, x)
    assert ("0", "1") in small.layers(model) and ("2", "3", "4") in small.layers(model)
    assert ganfast.explain(model).graphs == 3


def test_layers_in_a_loop():
    plain, model = small.pair(small.generator)

    def looped(m, z):
        maps = []
        for layer in m:
            z = layer(z)
            maps.append(z * 1)
        return z, sum(t.mean() for t in maps)

    z, work = torch.randn(2, 8, 1, 1), []
    for _ in range(3):
        small.assert_alike(*(small.orders(lambda t, m=m: looped(m, t), z) for m in (model, plain)))
        work.append((ganfast.explain(model).graphs, ganfast.explain(model).seconds))
    assert work[0] == work[1] == work[2]
    small.assert_alike(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_one_layer_by_its_name():
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    for _ in range(2):
        small.assert_alike(small.orders(model.first[0], x), small.orders(plain.first[0], x))
    assert small.layers(model) == [("first.0",)]
    small.same(model, plain, x)
    assert ("first.0", "first.1", "first.2") in small.layers(model)


def test_two_models_that_share_a_child():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.2))
    first, second = nn.Sequential(body, nn.Conv2d(4, 1, 1)), nn.Sequential(body, nn.Conv2d(4, 2, 1), nn.Tanh())
    plain = copy.deepcopy((first, second))
    for m in (first, second):
        ganfast.accelerate(m)
    for m, p in zip((first, second), plain):
        small.same(m, p, small.images(2))
    ganfast.restore(first)
    small.same(second, plain[1], small.images(3))
    assert ("0.0", "0.1") in small.layers(second)


WEIGHT = torch.randn(4, 3, 3, 3)


def function(x, scale: float = 1.0):
    return F.leaky_relu(F.conv2d(x, WEIGHT, padding=1), 0.2) * scale


class Called:
    def __init__(self) -> None:
        self.weight = WEIGHT.clone()

    def __call__(self, x):
        return F.leaky_relu(F.conv2d(x, self.weight, padding=1), 0.2)

    def method(self, x):
        return torch.tanh(F.conv2d(x, self.weight, padding=1))


CALLABLES = {
    "function": lambda: function,
    "keyword": lambda: functools.partial(function, scale=2.0),
    "lambda": lambda: lambda x: torch.tanh(F.conv2d(x, WEIGHT)),
    "object": Called,
    "bound method": lambda: Called().method,
    "module's forward": lambda: small.critic()[:2].forward,
}


@pytest.mark.parametrize("name", CALLABLES)
def test_what_is_no_module(name):
    torch.manual_seed(0)
    original = CALLABLES[name]()
    fast = ganfast.accelerate(original)
    for n in (2, 3, 2):
        small.assert_alike(small.orders(fast, small.images(n)), small.orders(original, small.images(n)))
    explained = ganfast.explain(fast)
    assert fast is not original and len(explained.groups) == 1 and explained.graphs == 2 and small.fallbacks(fast) == []
    assert ganfast.restore(fast) is original
    assert ganfast.restore(ganfast.accelerate(fast)) is original


def test_two_functions_made_alike_have_graphs_of_their_own():
    make = lambda scale: ganfast.accelerate(lambda x: torch.tanh(F.conv2d(x, WEIGHT) * scale))
    first, second = make(1.0), make(3.0)
    x = small.images(2)
    for fast, scale in ((first, 1.0), (second, 3.0), (first, 1.0)):
        torch.testing.assert_close(fast(x), torch.tanh(F.conv2d(x, WEIGHT) * scale), rtol=1e-4, atol=1e-5)


class Modes(nn.Module):
    """The first call of many has little to do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, really: bool = True):
        return F.leaky_relu(self.conv(x), 0.2) if really else x * 2


def test_a_first_call_that_does_little_costs_the_later_ones_nothing():
    plain, model = small.pair(Modes)
    x = small.images(2)
    model(x, really=False)
    small.same(model, plain, x)
    assert small.layers(model) == [("conv", "leaky_relu()")]


class Shares(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x):
        return torch.tanh(self.body(x))


@pytest.mark.parametrize("first", [0, 1])
def test_a_child_of_two_models_stays_accelerated_when_one_is_restored(first):
    plain, _ = small.pair()
    body = copy.deepcopy(plain)
    models = [ganfast.accelerate(Shares(body)) for _ in range(2)]
    left = models[1 - first]
    small.same(left.body, plain, small.images(2))
    ganfast.restore(models[first])
    small.same(left.body, plain, small.images(2))
    assert small.layers(left) and small.layers(models[first]) == small.layers(left)  # the child's, which both have
    small.same(left, Shares(plain), small.images(2))
    assert "_compiled_call_impl" not in models[first].__dict__
    ganfast.restore(left)
    assert not any("_compiled_call_impl" in m.__dict__ for m in (*left.modules(), *models[first].modules()))
    small.same(left, Shares(plain), small.images(2))
