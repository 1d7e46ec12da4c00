"""group_norm_act's derivatives, what traces it, its layers, what is refused, planted errors."""

import copy
import io

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from ganfast.functional import group_norm_act, layer_norm_act
from ganfast.ops.batch_norm_act.modulated_reference import spread, statistics
from ganfast.ops.group_norm_act import autograd, kernels

BACKENDS = ["reference", "torch", "cpu"]


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("act", ["linear", "leaky_relu", "silu", "snake"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_orders(backend, act, outside):
    leaves = [double(2, 4, 3, 2), double(4), double(4), (torch.rand(4).double() + 0.5).requires_grad_(), double(2, 4), double(2, 4)]
    leaves = leaves if outside else leaves[:4]

    def call(x, weight, bias, alpha, scale=None, shift=None):
        alpha = alpha if act == "snake" else None
        return group_norm_act(x, 2, weight, bias, act=act, alpha=alpha, scale=scale, shift=shift, backend=backend)

    if act != "snake":
        leaves[3] = leaves[3].detach()
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3), (2, 4, 2, 1, 2)], ids=str)
def test_every_rank(shape, backend):
    leaves = double(*shape), double(4)
    call = lambda x, weight: group_norm_act(x, 2, weight, act="tanh", backend=backend)
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True) and torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_third_order():
    x, want = double(2, 4, 3), None
    for backend in BACKENDS:
        y = group_norm_act(x, 2, act="silu", backend=backend)
        for _ in range(3):
            (y,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        want = y if want is None else want
        torch.testing.assert_close(y, want)
    assert want.abs().max() > 1e-3


def test_planted_errors_would_be_caught(monkeypatch):
    """Statistics as constants in the second order; a slope of another activation in the first."""
    right, x = autograd.gradients, double(3, 4, 3)
    call = lambda x: group_norm_act(x, 2, act="silu", backend="cpu")

    def constants(gy, x, *args):
        mean, var = (spread(v, x) for v in statistics(x.detach(), 2))
        return right(gy, x, mean, torch.rsqrt(var + args[-1]), *args[2:-1], None)

    monkeypatch.setattr(autograd, "gradients", constants)
    assert torch.autograd.gradcheck(call, (x,)) and not torch.autograd.gradgradcheck(call, (x,), raise_exception=False)
    monkeypatch.undo()
    half, want = torch.randn(3, 4, 50).bfloat16().requires_grad_(), []
    passes = kernels.bwd
    for slope in (lambda s: s, torch.ones_like):
        monkeypatch.setattr(kernels, "bwd", lambda *args, slope=slope: passes(*args[:9], slope(args[9]), *args[10:]))
        want += torch.autograd.grad(call(half).sum(), half)
    assert (want[0] - want[1]).abs().max() > 0.1


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last, outside):
    x = torch.randn(2, 8, 4, 4)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    scale, shift = (torch.rand(2, 8), torch.rand(2, 8)) if outside else (None, None)
    group_norm_act(x, 4, backend="cpu")  # loads the extension
    for backend in ("cpu", "reference"):
        vectors = (torch.rand(8), torch.rand(8), scale, shift, None)
        forward = (x, *vectors, 4, 1e-5, "silu", 0.0, channels_last, True, backend)
        torch.library.opcheck(torch.ops.ganfast.group_norm_act_fwd.default, forward)
        _, mean, invstd, slope = kernels.fwd(*forward)
        backward = (x, x, mean, invstd, *vectors, slope if backend == "cpu" else None, 4, "silu", 0.0, channels_last, backend)
        torch.library.opcheck(torch.ops.ganfast.group_norm_act_bwd.default, backward)


def test_autocast_casts_nothing():
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = group_norm_act(x, 4, act="silu")
    assert y.dtype == torch.float32
    y.sum().backward()
    assert x.grad.dtype == torch.float32


LAYERS = {
    "group": (lambda: nn.GroupNorm(4, 8), lambda **o: gnn.GroupNormAct(4, 8, **o), (3, 8, 5, 5)),
    "group of rows": (lambda: nn.GroupNorm(4, 8, affine=False), lambda **o: gnn.GroupNormAct(4, 8, affine=False, **o), (3, 8)),
    "layer": (lambda: nn.LayerNorm((4, 8)), lambda **o: gnn.LayerNormAct((4, 8), **o), (3, 4, 8)),
}


@pytest.mark.parametrize("alpha", [None, 0.3, "learned"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, alpha):
    plain, fused, shape = LAYERS[name]
    plain = plain()
    if plain.weight is not None:
        nn.init.uniform_(plain.weight)
    options = {"act": "leaky_relu", "alpha": torch.tensor([0.3]) if alpha == "learned" else alpha}
    layer = fused(**options)
    missing = layer.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == (["alpha"] if alpha == "learned" else []) and isinstance(layer, type(plain))
    x = torch.randn(shape)
    want = nn.functional.leaky_relu(plain(x), 0.01 if alpha is None else 0.3)
    torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(copy.deepcopy(layer)(x), want)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), want)
    torch.testing.assert_close(torch.jit.script(layer)(x), want)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(layer))(x), want)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), want)
    assert "act=leaky_relu" in repr(layer)


NORMS = {
    "group": (lambda **o: gnn.GroupNormAct(4, 8, **o), nn.GroupNorm(4, 8), (3, 8, 5, 5)),
    "batch": (lambda **o: gnn.BatchNormAct2d(8, **o), nn.BatchNorm2d(8), (3, 8, 5, 5)),
    "batch of rows": (lambda **o: gnn.BatchNormAct1d(8, **o), nn.BatchNorm1d(8), (3, 8)),
    "instance": (lambda **o: gnn.InstanceNormAct2d(8, **o), nn.InstanceNorm2d(8), (3, 8, 5, 5)),
    "instance, unbatched": (lambda **o: gnn.InstanceNormAct1d(8, **o), nn.InstanceNorm1d(8), (8, 5)),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_layers_take_an_affine_and_a_residual(name, first):
    make, plain, shape = NORMS[name]
    layer, x, residual = make(act="silu", residual_first=first, factor=0.5), torch.randn(shape), torch.randn(shape)
    over = shape[: len(shape) - len(shape[2:])] if shape[0] == 3 else shape[:1]
    scale, shift = torch.rand(over), torch.rand(over)
    ones = [1] * (len(shape) - len(over))
    z = plain(x) * scale.view(*over, *ones) + shift.view(*over, *ones)
    want = (nn.functional.silu(z + residual) if first else nn.functional.silu(z) + residual) * 0.5
    given = {"scale": scale, "shift": shift, "residual": residual}
    torch.testing.assert_close(layer(x, **given), want)
    torch.testing.assert_close(torch.jit.script(layer)(x, **given), want)
    assert "factor=0.5" in repr(layer)


BAD = {
    "groups that do not divide": (lambda x: group_norm_act(x, 3), ValueError, "groups is 3, wants a divisor of x's 8 channels: 1, 2, 4, 8"),
    "no groups": (lambda x: group_norm_act(x, 0), ValueError, "groups is 0, wants a divisor"),
    "groups of another type": (lambda x: group_norm_act(x, 4.0), TypeError, "groups is 4.0, wants an int"),
    "a weight of another length": (lambda x: group_norm_act(x, 4, torch.ones(4)), ValueError, "weight has shape (4,), wants (8,)"),
    "one value in a group": (lambda x: group_norm_act(x[:1, :, 0, 0], 8), ValueError, "x has one value in a group (shape (1, 8)"),
    "too many dimensions": (lambda x: group_norm_act(x[None, None], 4), ValueError, "x has 6 dimensions, wants 2 to 5"),
    "integers": (lambda x: group_norm_act(x.long(), 4), TypeError, "x has dtype torch.int64"),
    "a negative eps": (lambda x: group_norm_act(x, 4, eps=-1.0), ValueError, "eps is -1.0, wants no negative number"),
    "an activation's typo": (lambda x: group_norm_act(x, 4, act="swish"), ValueError, "act='swish' is unknown"),
    "another shape": (lambda x: layer_norm_act(x, (5, 4)), ValueError, "wants it to end in normalized_shape (5, 4)"),
    "a layer's weight": (lambda x: layer_norm_act(x, 5, torch.ones(5, 1)), ValueError, "(5, 1), wants normalized_shape (5,)"),
    "one value": (lambda x: layer_norm_act(x[..., :1], 1), ValueError, "normalized_shape is (1,), one value"),
    "a backend that is not here": (lambda x: group_norm_act(x, 4, backend="cuda"), RuntimeError, "backend 'cuda' cannot run"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, message = BAD[name]
    with pytest.raises(error) as raised:
        call(torch.randn(3, 8, 5, 5))
    assert message in str(raised.value)
