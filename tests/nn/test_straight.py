"""Which forwards are traced, which are left as written and with what words, and that a trace holds only while what it read does."""

import math
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.nn import tracing

SLOPE = 0.3
ACT = F.elu


def scaled(x, by):
    return x * by


def noisy(x):
    return x + random.random()


class Base(nn.Module):
    def __init__(self, **flags):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.register_buffer("offset", torch.full((1,), 0.1))
        self.plain = torch.ones(1)
        self.options = {"slope": 0.1}
        self.sizes = [1, 2]
        self.thing = object()
        self.down = None
        self.calls, self.act, self.copy = 0, F.relu, None
        self.stage0, self.stage1 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        for name, value in flags.items():
            setattr(self, name, value)

    def helper(self, x):
        return self.norm(self.conv(x))


def build(name: str, **flags) -> nn.Module:
    """A module with the function of this name as its forward."""
    return type(f"M_{name}", (Base,), {"forward": globals()[name]})(**flags)


def chains(module):
    return [tuple(chain.labels) for chain in tracing.trace(module, type(module).forward, tracing.first_key(type(module).forward)).chains]


def functions(self, x):
    x = F.leaky_relu(self.conv(x), SLOPE)
    return torch.tanh(self.norm(self.other(x)))


def methods(self, x):
    return self.other(self.conv(x).relu_()).sigmoid()


def loops(self, x):
    outs = []
    for i, (layer, _size) in enumerate(zip(self.layers, self.sizes)):
        x = F.silu(layer(x)) + i
        outs.append(x)
    return torch.cat([*outs, x * math.sqrt(2)], dim=1)


def flags(self, x, y=None, double=False):
    x = F.relu(self.helper(x))
    if y is not None:
        x = x + y
    if double:
        x = x * 2
    if self.down is not None:
        x = self.down(x)
    return scaled(x, self.options["slope"]) + self.scale * self.offset


def global_function(self, x):
    return ACT(self.conv(x))


def fetched(self, x):
    for i in range(2):
        x = self.act(getattr(self, f"stage{i}")(x))
        x = getattr(self, "stage" + str(i))(x) + getattr(self, "stage%d" % i)(x) + getattr(self, "stage{}".format(i))(x)  # noqa: UP031, UP032
    act = self.act
    return act(x) + torch.randn_like(x)


def keeps_a_function(self, x):
    act = noisy
    return act(F.relu(self.conv(x)))


def keeps_a_method(self, x):
    norm = self.helper
    return F.relu(norm(x))


def mode(self, x):
    x = F.relu(self.conv(x))
    return F.dropout(x, 0.5, self.training) if self.training else x


def used_twice(self, x):
    z = self.conv(x)
    return F.relu(z) + z


def twice_the_same_norm(self, x):
    a, b = self.conv(x), self.other(x)
    second = F.relu(self.norm(b))
    return F.relu(self.norm(a)) + second


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("functions", [("conv", "leaky_relu()"), ("other", "norm", "tanh()")]),
        ("methods", [("conv", "relu_()"), ("other", "sigmoid()")]),
        ("loops", [("layers.0", "silu()"), ("layers.1", "silu()")]),
        ("flags", [("conv", "norm", "relu()")]),
        ("global_function", [("conv", "elu()")]),
        ("mode", [("conv", "relu()")]),
        ("fetched", [("stage0", "relu()"), *[("stage0",)] * 3, ("stage1", "relu()"), *[("stage1",)] * 3]),
        ("used_twice", [("conv",)]),
        ("twice_the_same_norm", [("conv",), ("other", "norm", "relu()"), ("norm", "relu()")]),
    ],
)
def test_chains_are_found_and_run(name, expected):
    module, plain = build(name), build(name)
    assert chains(module) == expected
    ganfast.accelerate(module)
    x = torch.randn(2, 3, 5, 5)
    for training in (True, False):
        module.train(training)
        plain.train(training)
        torch.manual_seed(1)
        got = module(x)
        torch.manual_seed(1)
        torch.testing.assert_close(got, plain(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.norm.running_mean, plain.norm.running_mean)
    torch.testing.assert_close(module.norm.running_var, plain.norm.running_var)


def test_what_a_trace_read_is_compared_at_every_call():
    module, plain = ganfast.accelerate(build("flags")), build("flags")
    x, y = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    same = lambda *args, **kwargs: torch.testing.assert_close(module(*args, **kwargs), plain(*args, **kwargs), rtol=1e-4, atol=1e-5)
    same(x)
    same(x, y)
    same(x, y=y, double=True)
    same(x, None, True)
    for m in (module, plain):
        m.options["slope"] = 0.7
    same(x)
    for m in (module, plain):
        torch.manual_seed(2)
        m.down = nn.Conv2d(3, 3, 1)
    same(x)
    for m in (module, plain):
        m.down = None
    same(x)
    made = sum(map(len, module._ganfast.made.values()))
    same(x)
    assert sum(map(len, module._ganfast.made.values())) == made  # an earlier trace that holds again is taken again


def test_global_constants_are_compared_at_every_call(monkeypatch):
    module, plain = ganfast.accelerate(build("functions")), build("functions")
    x = torch.randn(2, 3, 5, 5)
    module(x)
    plain(x)
    monkeypatch.setitem(globals(), "SLOPE", 0.9)
    torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)


def test_layers_added_to_a_list_are_run():
    module, plain = ganfast.accelerate(build("loops")), build("loops")
    for m in (module, plain):
        torch.manual_seed(4)
        m.layers.append(nn.Conv2d(3, 3, 1))
        m.sizes.append(3)
    x = torch.randn(2, 3, 5, 5)
    assert module(x).shape[1] == 12
    torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)


def test_endless_settings_are_not_all_traced():
    module, plain = ganfast.accelerate(build("flags")), build("flags")
    x = torch.randn(2, 3, 5, 5)
    for i in range(40):
        for m in (module, plain):
            m.options["slope"] = 0.1 * i
        torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)
    assert sum(map(len, module._ganfast.made.values())) <= 17


def draws(self, x):
    return F.relu(self.conv(x)) * (1 if random.random() < 0.5 else 2)


def draws_inside(self, x):
    return noisy(F.relu(self.conv(x)))


def draws_a_tensor(self, x):
    return F.relu(self.conv(x)) + torch.randn(3, 1, 1)


def sets_an_attribute(self, x):
    self.seen = F.relu(self.conv(x))
    return self.seen


def counts(self, x):
    self.calls += 1
    return F.relu(self.conv(x)) * self.calls


def changes_a_list(self, x):
    self.sizes[0] = 3
    return F.relu(self.conv(x))


def appends(self, x):
    self.sizes.append(1)
    return F.relu(self.conv(x))


def context(self, x):
    with torch.no_grad():
        return F.relu(self.conv(x))


def prints(self, x):
    print("x")
    return F.relu(self.conv(x))


def branches_on_values(self, x):
    return F.relu(self.conv(x)) if x.sum() > 0 else x


def branches_on_a_size(self, x):
    return F.relu(self.conv(x)) if x.shape[-1] > 3 else x


def asks_for_a_type(self, x):
    return F.relu(self.conv(x)) if isinstance(x, torch.Tensor) else x


def asks_for_a_mode(self, x):
    return F.relu(self.conv(x)) if torch.is_grad_enabled() else x


def checkpoints(self, x):
    return F.relu(torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False))


def any_arguments(self, *xs):
    return F.relu(self.conv(xs[0]))


def numpy_too(self, x):
    return F.relu(self.conv(x)) * np.random.rand()


def an_unregistered_tensor(self, x):
    return F.relu(self.conv(x)) * self.plain


def an_object(self, x):
    return F.relu(self.conv(x)) if self.thing else x


def its_own_hand(self, x):
    return noisy(self) if x is None else F.relu(self.conv(x))


def tries(self, x):
    try:
        return F.relu(self.conv(x))
    except RuntimeError:
        return x


def defines(self, x):
    act = lambda t: F.relu(t)
    return act(self.conv(x))


def through_the_back_door(self, x):
    return F.relu(self.conv.forward(x))


def dynamic_names(self, x):
    name = "conv"
    return F.relu(getattr(self, name)(x))


def names_of_more_than_layers(self, x):
    return F.relu(getattr(self, f"co{'nv'}")(x))


def makes_a_layer(self, x):
    return nn.ReLU()(self.conv(x))


@torch.no_grad()
def decorated(self, x):
    return F.relu(self.conv(x))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("draws", "it uses random"),
        ("draws_inside", "it uses random"),
        ("draws_a_tensor", "torch.randn"),
        ("sets_an_attribute", "sets an attribute"),
        ("counts", "sets an attribute"),
        ("changes_a_list", "changes an attribute"),
        ("appends", "calls self.sizes.append"),
        ("context", "a `with`"),
        ("prints", "print"),
        ("branches_on_values", "torch.fx cannot trace it"),
        ("branches_on_a_size", "torch.fx cannot trace it"),
        ("asks_for_a_type", "isinstance"),
        ("asks_for_a_mode", "torch.is_grad_enabled"),
        ("checkpoints", "torch.utils.checkpoint"),
        ("any_arguments", "args"),
        ("numpy_too", "it uses np|numpy"),
        ("an_unregistered_tensor", "no parameter or buffer"),
        ("an_object", "reads a object"),
        ("its_own_hand", "hands self on"),
        ("tries", "a `try`"),
        ("defines", "a `lambda`"),
        ("through_the_back_door", "calls self.conv.forward"),
        ("dynamic_names", "hands self on"),
        ("names_of_more_than_layers", "may be another attribute's"),
        ("keeps_a_function", "it uses random"),
        ("keeps_a_method", "reads the method"),
        ("makes_a_layer", "nn.ReLU"),
        ("decorated", "decorated"),
    ],
)
def test_what_cannot_be_compared_is_left_as_written(name, words):
    torch.manual_seed(0)
    module, plain = ganfast.accelerate(build(name)), build(name)
    said = ganfast.explain(module).unseen[""]
    assert re.search(words, said), said
    assert ("conv",) in ganfast.explain(module).fused  # the layers below still run on ganfast
    for sign in (1, -1):
        x = sign * torch.rand(2, 3, 5, 5)
        for seed in range(3):
            results = []
            for m in (module, plain):
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
                results.append(m(x))
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_source_that_is_not_at_hand():
    space = {"Base": Base, "F": F}
    exec("class M(Base):\n def forward(self, x):\n  return F.relu(self.conv(x))", space)
    module = ganfast.accelerate(space["M"]())
    assert "source is not at hand" in ganfast.explain(module).unseen[""]


class Snake(nn.Module):
    def __init__(self, channels, log=False, eps=1e-9):
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(channels) if log else 0.5 + torch.rand(channels))
        self.log, self.eps = log, eps

    def forward(self, x):
        alpha = self.alpha.unsqueeze(0).unsqueeze(-1)
        if self.log:
            alpha = torch.exp(alpha)
        return x + (1.0 / (alpha + self.eps)) * torch.pow(torch.sin(x * alpha), 2)


class NotSnake(Snake):
    def forward(self, x):
        alpha = self.alpha.unsqueeze(0).unsqueeze(-1)
        return x + (1.0 / (alpha + self.eps)) * torch.pow(torch.sin(x * alpha), 4)


@pytest.mark.parametrize("log", [False, True])
def test_snake_is_found_by_what_it_computes(log):
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Conv1d(2, 4, 3), Snake(4, log), nn.Conv1d(4, 2, 3))
    torch.manual_seed(0)
    module = ganfast.accelerate(make())
    torch.manual_seed(0)
    plain = make()
    assert ganfast.explain(module).fused[0] == ("0", "1")
    x = torch.randn(2, 2, 20)
    torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)
    for m in (module, plain):
        m[1].eps = 0.5  # now it is another function
    torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)


def test_what_only_looks_like_snake_is_not():
    for layer in (NotSnake(4), Snake(4, eps=0.1)):
        module = ganfast.accelerate(nn.Sequential(nn.Conv1d(2, 4, 3), layer))
        assert ganfast.explain(module).fused == [("0",)]


def test_an_activation_kept_on_the_module_is_compared_at_every_call():
    module, plain = ganfast.accelerate(build("fetched")), build("fetched")
    x = torch.randn(2, 3, 5, 5)
    for act in (F.relu, torch.tanh, noisy, F.silu):
        results = []
        for m in (module, plain):
            m.act = act
            torch.manual_seed(0)
            random.seed(0)
            results.append(m(x))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
