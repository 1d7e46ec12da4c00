"""Traces of forwards that work in place, change between calls, or reach for what the module keeps."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.nn import kept
from tests.nn.kept import Base, Block, build


def same(module, plain, *args, **kwargs):
    """Outputs, what becomes of the inputs, and buffers."""
    mine, its = [[a.clone() if isinstance(a, torch.Tensor) else a for a in args] for _ in range(2)]
    with torch.no_grad():
        torch.testing.assert_close(module(*mine, **kwargs), plain(*its, **kwargs), rtol=1e-4, atol=1e-5)
    assert [getattr(a, "shape", a) for a in mine] == [getattr(a, "shape", a) for a in its]
    for a, b in (*zip(mine, its), *zip(module.buffers(), plain.buffers())):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b)


def traced(name, **kwargs):
    module = ganfast.accelerate(build(name))
    assert "" not in (unseen := ganfast.explain(module).unseen), unseen
    return module, build(name)


@pytest.mark.parametrize(
    "name",
    [
        "skip_in_place",
        "view_in_place",
        "attribute_in_place",
        "input_in_place",
        "buffer_in_place",
        "size_in_place",
        "shape_before",
        "sums_in_place",
    ],
)
def test_steps_in_place_stay_in_place(name):
    module, plain = traced(name)
    for seed in range(3):
        torch.manual_seed(seed)
        same(module, plain, torch.randn(2, 3, 4, 4))


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


def class_forward(m):
    getattr(type(m), "_ganfast_class", type(m)).forward = lambda self, x: x + 3


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
    "helped": [own_helper, class_helper, class_forward],
    "tied": [untie],
    "fetched": [add_a_stage],
    "functions": [lambda m: m.acts.append(torch.sigmoid), lambda m: m.acts.append(counted)],
    "numbered": [lambda m: setattr(m, "number", np.float32(3)), lambda m: setattr(m, "number", -0.0), lambda m: setattr(m, "number", 2)],
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name):
    for change in CHANGES[name]:
        module, plain = traced(name)
        x = torch.randn(2, 3, 4, 4)
        same(module, plain, x)
        for m in (module, plain):
            change(m)
        same(module, plain, x)
        same(module, plain, x)


def test_functions_of_torch_replaced_later_are_seen(monkeypatch):
    module, plain = traced("functions")
    x = torch.randn(2, 3, 4, 4)
    same(module, plain, x)
    monkeypatch.setattr(F, "tanh", torch.sigmoid)
    same(module, plain, x)


def test_one_and_one_point_and_true_are_told_apart():
    module, plain = traced("number")
    x = torch.randn(2, 3, 4, 4)
    for by in (1, 1.0, True, 1):
        same(module, plain, x, by)
    with pytest.raises(TypeError, match="multiple values"):
        module(x, x=x)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loop_attribute", "reads scale of a layer"),
        ("loop_method", "reads helper of a layer"),
        ("subscript_method", "reads helper of a layer"),
        ("subscript_flag", "reads training of a layer"),
        ("alias_appended", "reads append of a layer"),
        ("alias_of_the_last_turn", "reads append of a layer"),
        ("alias_added", "changes an attribute or a list"),
        ("handed_on", "hands a layer"),
        ("returned", "returns a layer"),
        ("own_iteration", "a container of its own"),
        ("child_attribute", "self.block.n may change"),
        ("child_tensor", "self.block.aux may change"),
        ("default_list", "default argument"),
        ("same_object", "compares with `is`"),
        ("hidden_global", "comprehension's variable"),
        ("backend_flag", "torch.backends.cudnn.benchmark"),
        ("odd_global", "reads TEXT.append from outside"),
        ("fetched_attribute", "reads training of a layer"),
        ("spelt_size", "makes text of a tensor"),
    ],
)
def test_what_is_kept_is_not_reached_for(name, words, monkeypatch):
    module, plain = ganfast.accelerate(build(name)), build(name)
    said = ganfast.explain(module).unseen[""]
    assert re.search(words, said), said
    for i in range(3):
        x = torch.randn(2, 3, 4, 4)
        if name != "default_list":  # one list for both
            same(module, plain, x)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", bool(i % 2))
        for m in (module, plain):
            m.own.most = i
            for block in m.modules():
                if isinstance(block, Block):
                    block.scale = 2.0 + i


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
    assert ("conv", "relu()") in ganfast.explain(module).fused
    assert Registry.known == ["a"]


def test_a_layer_with_a_call_of_its_own_is_not_looked_into():
    made = []
    for _ in range(2):
        made.append(build("helped"))
        made[-1].conv = kept.Calls()
    module, plain = ganfast.accelerate(made[0]), made[1]
    assert "__call__ of its own" in ganfast.explain(module).unseen[""]
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
    assert ("conv", "relu()") in ganfast.explain(ganfast.accelerate(module)).fused
    x = torch.randn(2, 3, 4, 4)
    same(module, plain, x)
    change_mine(torch.tanh)
    change_its(torch.tanh)
    same(module, plain, x)


def test_a_class_made_with_arguments_is_traced():
    assert ("conv", "relu()") in ganfast.explain(ganfast.accelerate(Numbered(1))).fused
