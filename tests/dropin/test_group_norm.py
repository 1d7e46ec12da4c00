"""Group norms in a graph, where autocast or the layout is what a GPU makes of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses import FakeTensorMode

import ganfast
from ganfast.dropin.groups import Found


def of_autocast(value: torch.dtype) -> Found:
    """The groups of silu(group_norm(x)), x in bfloat16, whose values autocast makes of this dtype: float32 on a GPU."""
    graph, mode = fx.Graph(), FakeTensorMode()

    def seen(node: fx.Node, dtype: torch.dtype) -> fx.Node:
        with mode:
            node.meta["example_value"] = torch.empty(2, 8, 4, 4, dtype=dtype)
        return node

    x = seen(graph.placeholder("x"), torch.bfloat16)
    y = seen(graph.call_function(F.group_norm, (x, 4)), value)
    graph.output(seen(graph.call_function(F.silu, (y,)), value))
    return Found(graph, lambda node, name: name, False)


@pytest.mark.parametrize("value", [torch.float32, torch.bfloat16])
def test_autocasts_dtype_is_kept(value):
    (group,) = of_autocast(value).groups
    assert group.layers == ("group_norm", "silu")
    x = torch.randn(2, 8, 4, 4).bfloat16()
    y = group(x)
    assert y.dtype == value
    torch.testing.assert_close(y, F.silu(F.group_norm(x.to(value), 4)))


def test_one_pixel_a_group_as_eager_has_it(monkeypatch):
    monkeypatch.setenv("GANFAST_TUNE", "0")
    model = nn.Sequential(nn.Conv2d(3, 8, 4), nn.GroupNorm(8, 8), nn.SiLU())
    x = torch.randn(3, 3, 4, 4)
    want = model(x)
    torch.testing.assert_close(ganfast.accelerate(model)(x), want)
    assert ganfast.explain(model).groups


def test_a_group_norm_called_by_itself():
    """As `encode` and `decode` of an autoencoder call theirs, round the model's own call."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(4, 8)

        def encode(self, x):
            return self.norm(x)

    model, x = Encoder(), torch.randn(2, 8, 6, 6)
    want = model.encode(x)
    with ganfast.use_backend("cpu"):
        torch.testing.assert_close(ganfast.accelerate(model).encode(x), want)
    assert [group.layers for group in ganfast.explain(model).groups] == [("norm",)]


def test_what_ran_is_told():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(4, 8)

        def forward(self, x, scale, shift):
            return F.silu(self.norm(x) * (1 + scale) + shift)

    model, scale = Block(), torch.randn(2, 8, 1, 1)
    with ganfast.use_backend("cpu"):
        ganfast.accelerate(model)(torch.randn(2, 8, 6, 6), scale, scale)
    (group,) = ganfast.explain(model).groups
    assert group.ran == "cpu" and group.became == "group_norm_act"
