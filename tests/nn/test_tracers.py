"""The layers under torch's older tools: torch.jit.trace, torch.jit.script and torch.fx."""

import copy
import io
import itertools
import warnings

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from ganfast._activations import ACTIVATIONS

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

_BUILD = {
    "ConvTransposeAct": lambda layer, **options: layer(4, 6, 4, 2, 1, **options),
    "ConvAct": lambda layer, **options: layer(4, 6, 3, 1, 1, **options),
    "UpsampleConvAct": lambda layer, **options: layer(4, 6, 3, **options),
    "BatchNormAct": lambda layer, **options: layer(6, **options),
    "InstanceNormAct": lambda layer, **options: layer(6, affine=True, **options),
}
_TOOLS = {
    "trace": torch.jit.trace,
    "script": lambda layer, x: torch.jit.script(layer),
    "fx": lambda layer, x: torch.fx.symbolic_trace(layer),
}
_ALPHAS = [act for act, entry in ACTIVATIONS.items() if entry.default_alpha is not None]


def _see(tool: str, layer: nn.Module, x: torch.Tensor) -> nn.Module:
    """What the tool makes of a layer; fails on a warning that names a file of ganfast's."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = _TOOLS[tool](layer, x)
    assert [w for w in said if "ganfast" in w.filename] == []
    return seen


def _check(tool: str, layer: nn.Module, x: torch.Tensor, *others: torch.Tensor) -> None:
    seen = _see(tool, copy.deepcopy(layer), x)
    state = {f"itself.{name}": value for name, value in layer.state_dict().items()} if tool == "fx" else layer.state_dict()
    seen.load_state_dict(state)  # a norm's trace counted batches
    for each in (x, *others):
        torch.testing.assert_close(seen(each), layer(each), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close([*seen.state_dict().values()], [*layer.state_dict().values()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tool", _TOOLS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", _BUILD)
def test_every_layer_in_both_modes(kind, dims, tool):
    channels = 6 if "Norm" in kind else 4
    x, other = torch.randn(2, channels, *[5] * dims), torch.randn(3, channels, *[7, 6, 4][:dims])
    alone = [other[0]] if kind != "BatchNormAct" and tool != "trace" else []  # a trace has its example's number of dimensions
    for training, options in itertools.product((True, False), ({"act": "relu"}, {"act": "snake", "alpha": torch.rand(6) + 0.1})):
        layer = _BUILD[kind](getattr(gnn, f"{kind}{dims}d"), **options).train(training)
        _check(tool, layer, x, other, *alone)


@pytest.mark.parametrize("tool", _TOOLS)
def test_every_activation(tool):
    x = torch.randn(2, 4, 5, 5) * 3
    alphas = [*((act, None) for act in ACTIVATIONS), *itertools.product(_ALPHAS, (0.7, 2, torch.rand(1) + 0.1, torch.rand(6) + 0.1))]
    for act, alpha in alphas:
        _check(tool, gnn.ConvAct2d(4, 6, 3, act=act, alpha=alpha), x)


@pytest.mark.parametrize("tool", _TOOLS)
@pytest.mark.parametrize(
    "layer",
    [
        gnn.ConvAct2d(6, 4, 3, 1, "same", 2, 2, padding_mode="reflect", act="tanh"),
        gnn.UpsampleConvAct2d(6, 4, scale_factor=(3, 1)),
        gnn.UpsampleConvAct2d(6, 4, scale_factor=(2,)),
        gnn.BatchNormAct2d(6, affine=False, track_running_stats=False, act="elu"),
    ],
    ids=["reflect", "scales", "one scale", "bare norm"],
)
def test_options(layer, tool):
    _check(tool, layer, torch.randn(2, 6, 7, 7), torch.randn(2, 6, 9, 8))


def _network() -> nn.Sequential:
    return nn.Sequential(gnn.ConvTransposeAct2d(4, 6, 4, 2, 1), gnn.BatchNormAct2d(6, act="prelu"), gnn.ConvAct2d(6, 3, 3, act="tanh"))


def test_a_script_shares_the_network_and_stands_without_ganfast():
    network, x = _network(), torch.randn(2, 4, 4, 4)
    layers = list(network)
    scripted = torch.jit.script(network)
    assert [a is b for a, b in zip(network, layers, strict=True)] == [True] * 3
    assert list(scripted.state_dict()) == list(network.state_dict())
    scripted(x).sum().backward()
    assert network[1].alpha.grad is not None
    saved = io.BytesIO()
    torch.jit.save(scripted, saved)
    saved.seek(0)
    loaded = torch.jit.load(saved).eval()
    torch.testing.assert_close(loaded(x), network.eval()(x), rtol=1e-4, atol=1e-5)
    assert "ganfast::" not in str(loaded.inlined_graph)
    wanted = gnn.ConvTransposeAct2d(4, 6, 3, 2, act="silu")
    torch.testing.assert_close(torch.jit.script(wanted)(x, [10, 10]), wanted(x, [10, 10]), rtol=1e-4, atol=1e-5)


def test_a_graph_of_fx_keeps_the_layers():
    network, x = _network(), torch.randn(2, 4, 4, 4)
    graph = torch.fx.symbolic_trace(network)
    assert [node.op for node in graph.graph.nodes] == ["placeholder", *["call_module"] * 3, "output"]
    assert network[1].num_batches_tracked == 0  # nothing ran
    for training in (True, False):  # the mode is not frozen
        graph.train(training)
        torch.testing.assert_close(graph(x), copy.deepcopy(network)(x))
    torch.testing.assert_close(torch.fx.symbolic_trace(graph)(x), network(x))
    torch.testing.assert_close(copy.deepcopy(torch.fx.symbolic_trace(network[0]))(x), network[0](x))


class _WithPartials(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = gnn.UpsampleConvAct2d(4, 6)
        self.norm = gnn.BatchNormAct2d(6, act="relu")

    def forward(self, x):
        y, partials = self.up(x, return_partials=True)
        return self.norm(y, partials=partials)


def test_partials():
    network, x = _WithPartials(), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), network(x))
    with pytest.raises(RuntimeError, match="Leave return_partials and partials out there"):
        torch.jit.trace(network, x)
    with pytest.raises(torch.jit.Error, match="Leave return_partials and partials out there"):
        torch.jit.script(network.norm)(network.up(x), torch.zeros(1, 3, 6))
    with pytest.raises(torch.jit.Error, match="Leave return_partials and partials out there"):
        torch.jit.script(network.up)(x, return_partials=True)


def test_fx_refuses_a_layer_with_hooks():
    layer = gnn.ConvAct2d(4, 6, 3)
    layer.register_forward_hook(lambda module, args, y: y * 2)
    with pytest.raises(RuntimeError, match="layer in the graph would run them once more"):
        torch.fx.symbolic_trace(nn.Sequential(layer))
