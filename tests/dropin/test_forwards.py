"""Which forwards are traced, which are left as written and with what words, and that a trace holds only while what it read does."""

import importlib
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.nn import tracing
from tests.nn import forwards
from tests.nn.forwards import Base, build


def chains(module):
    return [tuple(chain.labels) for chain in tracing.trace(module, type(module).forward, tracing.first_key(type(module).forward)).chains]


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
    monkeypatch.setattr(forwards, "SLOPE", 0.9)
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
        ("private", "not what was imported"),
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


def test_a_source_that_has_changed_since_it_was_imported(tmp_path, monkeypatch):
    """What inspect finds is then not what runs."""
    monkeypatch.syspath_prepend(tmp_path)
    source = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n def __init__(self):\n"
    source += "  super().__init__()\n  self.conv = nn.Conv2d(3, 3, 1)\n"
    path = tmp_path / "changing_network.py"
    path.write_text(source + " def forward(self, x):\n  return torch.relu(self.conv(x))\n")
    network = importlib.import_module("changing_network").Net
    assert ganfast.explain(ganfast.accelerate(network())).fused == [("conv", "relu()")]
    path.write_text(source + " def forward(self, x):\n  return torch.tanh(self.conv(x))\n")
    assert "not what was imported" in ganfast.explain(ganfast.accelerate(network())).unseen[""]


def test_a_source_that_is_not_at_hand():
    space = {"Base": Base, "F": F}
    exec("class M(Base):\n def forward(self, x):\n  return F.relu(self.conv(x))", space)
    module = ganfast.accelerate(space["M"]())
    assert "source is not at hand" in ganfast.explain(module).unseen[""]


def test_an_activation_kept_on_the_module_is_compared_at_every_call():
    module, plain = ganfast.accelerate(build("fetched")), build("fetched")
    x = torch.randn(2, 3, 5, 5)
    for act in (F.relu, torch.tanh, forwards.noisy, F.silu):
        results = []
        for m in (module, plain):
            m.act = act
            torch.manual_seed(0)
            random.seed(0)
            results.append(m(x))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
