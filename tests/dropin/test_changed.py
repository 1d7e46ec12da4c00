"""What forwards read is looked at again at every call: layers, helpers, functions, constants, classes; and the groups that are found."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin import forwards, kept
from tests.dropin.kept import Base, build
from tests.dropin.small import layers


def same(module, plain, *args, **kwargs):
    """Outputs, what becomes of the inputs, and buffers."""
    mine, its = [[a.clone() if isinstance(a, torch.Tensor) else a for a in args] for _ in range(2)]
    with torch.no_grad():
        torch.testing.assert_close(module(*mine, **kwargs), plain(*its, **kwargs), rtol=1e-4, atol=1e-5)
    assert [getattr(a, "shape", a) for a in mine] == [getattr(a, "shape", a) for a in its]
    for a, b in (*zip(mine, its), *zip(module.buffers(), plain.buffers())):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b)


def pair(name, module=kept):
    return ganfast.accelerate(module.build(name)), module.build(name)


def add_a_layer(m):
    torch.manual_seed(1)
    m.deep[1].append(nn.Conv2d(3, 3, 1))


def swap_layers(m):
    m.deep[0], m.deep[1] = nn.ModuleList(), m.deep[0]


def add_a_stage(m):
    torch.manual_seed(1)
    m.stage0.append(nn.Conv2d(3, 3, 1))


def own_helper(m):
    m.helper = lambda x: x + 1


def class_helper(m):
    getattr(type(m), "_ganfast_class", type(m)).helper = lambda self, x: x + 2


def counted(x):
    kept.LIST.append(1)
    return x * (len(kept.LIST) + 1 >> 1)  # the module and its plain twin are called in turn


def untie(m):
    m.b = nn.Parameter(torch.full((1,), 5.0))


CHANGES = {
    "deep": [add_a_layer, swap_layers],
    "parameters": [
        lambda m: m.weights.append(torch.full((1,), 4.0)),
        lambda m: m.named.update({"b": torch.full((1,), 4.0)}),
        lambda m: setattr(m, "extra", None),
    ],
    "helped": [own_helper, class_helper],
    "tied": [untie],
    "fetched": [add_a_stage],
    "functions": [lambda m: m.acts.append(torch.sigmoid), lambda m: m.acts.append(counted)],
    "numbered": [lambda m: setattr(m, "number", np.float32(3)), lambda m: setattr(m, "number", -0.0), lambda m: setattr(m, "number", 2)],
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name):
    for change in CHANGES[name]:
        module, plain = pair(name)
        x = torch.randn(2, 3, 4, 4)
        same(module, plain, x)
        for m in (module, plain):
            change(m)
        same(module, plain, x)
        same(module, plain, x)


def test_functions_of_torch_replaced_later_are_seen(monkeypatch):
    module, plain = pair("functions")
    x = torch.randn(2, 3, 4, 4)
    same(module, plain, x)
    monkeypatch.setattr(F, "tanh", torch.sigmoid)
    same(module, plain, x)


def test_one_and_one_point_and_true_are_told_apart():
    module, plain = pair("number")
    x = torch.randn(2, 3, 4, 4)
    for by in (1, 1.0, True, 1):
        same(module, plain, x, by)
    with pytest.raises(TypeError, match="multiple values"):
        module(x, x=x)


class Registry(Base):
    known = []  # noqa: RUF012

    def __init_subclass__(cls, key, **kwargs):
        super().__init_subclass__(**kwargs)
        Registry.known.append(key)


class Registered(Registry, key="a"):
    def forward(self, x):
        return F.relu(self.conv(x))


class Numbered(Base):
    def __new__(cls, n):
        return super().__new__(cls)

    def __init__(self, n):
        super().__init__()

    def forward(self, x):
        return F.relu(self.conv(x))


def test_a_registry_of_subclasses_hears_of_none():
    module = ganfast.accelerate(Registered())
    module(torch.randn(2, 3, 4, 4))
    assert layers(module) == [("conv", "relu()")]
    assert Registry.known == ["a"]


def test_a_layer_with_a_call_of_its_own():
    made = []
    for _ in range(2):
        made.append(build("helped"))
        made[-1].conv = kept.Calls()
    module, plain = ganfast.accelerate(made[0]), made[1]
    for _ in range(3):
        same(module, plain, torch.randn(2, 3, 4, 4))


def factory(act):
    def forward(self, x):
        return act(self.conv(x))

    def change(value):
        nonlocal act
        act = value

    return forward, change


def test_what_a_function_closes_over_is_compared():
    (mine, change_mine), (its, change_its) = factory(F.relu), factory(F.relu)
    module, plain = (type("M", (Base,), {"forward": forward})() for forward in (mine, its))
    ganfast.accelerate(module)
    x = torch.randn(2, 3, 4, 4)
    same(module, plain, x)
    assert layers(module) == [("conv", "relu()")]
    change_mine(torch.tanh)
    change_its(torch.tanh)
    same(module, plain, x)


def test_a_class_made_with_arguments():
    module = ganfast.accelerate(Numbered(1))
    same(module, Numbered(1), torch.randn(2, 3, 4, 4))
    assert layers(module) == [("conv", "relu()")]


def test_a_source_that_is_not_at_hand():
    space = {"Base": Base, "F": F}
    exec("class M(Base):\n def forward(self, x):\n  return F.relu(self.conv(x))", space)
    module = ganfast.accelerate(space["M"]())
    same(module, space["M"](), torch.randn(2, 3, 4, 4))
    assert layers(module) == [("conv", "relu()")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("functions", [("conv", "leaky_relu()"), ("other", "norm", "tanh()")]),
        ("methods", [("conv", "relu()"), ("other", "sigmoid()")]),
        ("loops", [("layers.0", "silu()"), ("layers.1", "silu()")]),
        ("flags", [("conv", "norm", "relu()")]),
        ("global_function", [("conv", "elu()")]),
        ("mode", [("conv", "relu()")]),
        ("fetched", [g for s in ("stage0", "stage1") for g in ((s,), (s, "add()"), (s, "add()"), (s, "relu()"))]),
        ("used_twice", [("conv",)]),
        ("twice_the_same_norm", [("conv",), ("norm", "relu()", "add()"), ("other", "norm", "relu()")]),
    ],
)
def test_groups_are_found_and_run(name, expected):
    module, plain = pair(name, forwards)
    x = torch.randn(2, 3, 5, 5)
    for training in (True, False):
        for m in (module, plain):
            torch.manual_seed(1)
            m.train(training)(x)
    assert sorted(layers(module)) == expected
    torch.testing.assert_close(module.norm.running_mean, plain.norm.running_mean)
    torch.testing.assert_close(module.norm.running_var, plain.norm.running_var)


def test_arguments_options_and_layers_that_come_and_go():
    module, plain = pair("flags", forwards)
    x, y = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    same(module, plain, x)
    same(module, plain, x, y)
    same(module, plain, x, y=y, double=True)
    same(module, plain, x, None, True)
    for m in (module, plain):
        m.options["slope"] = 0.7
    same(module, plain, x)
    for m in (module, plain):
        torch.manual_seed(2)
        m.down = nn.Conv2d(3, 3, 1)
    same(module, plain, x)
    for m in (module, plain):
        m.down = None
    same(module, plain, x)
    graphs = ganfast.explain(module).graphs
    same(module, plain, x)
    assert ganfast.explain(module).graphs == graphs  # one that fits again is taken again


def test_endless_settings_do_not_make_endless_graphs():
    module, plain = pair("flags", forwards)
    x = torch.randn(2, 3, 5, 5)
    for i in range(12):
        for m in (module, plain):
            m.options["slope"] = 0.1 * i
        same(module, plain, x)
    assert ganfast.explain(module).graphs <= 4


def test_global_constants(monkeypatch):
    module, plain = pair("functions", forwards)
    x = torch.randn(2, 3, 5, 5)
    same(module, plain, x)
    monkeypatch.setattr(forwards, "SLOPE", 0.9)
    same(module, plain, x)


def test_layers_added_to_a_list_are_run():
    module, plain = pair("loops", forwards)
    x = torch.randn(2, 3, 5, 5)
    same(module, plain, x)
    for m in (module, plain):
        torch.manual_seed(4)
        m.layers.append(nn.Conv2d(3, 3, 1))
        m.sizes.append(3)
    assert module(x).shape[1] == 12
    same(module, plain, x)


def test_an_activation_kept_on_the_module():
    module, plain = pair("fetched", forwards)
    x = torch.randn(2, 3, 5, 5)
    for act in (F.relu, torch.tanh, forwards.noisy, F.silu):
        results = []
        for m in (module, plain):
            m.act = act
            torch.manual_seed(0)
            random.seed(0)
            results.append(m(x))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
