"""Each layer is an instance of the module it replaces: same arguments, parameters, state_dict, results."""

import copy
import pickle

import pytest
import torch
from torch import nn

import ganfast.nn as gnn

_CONVS = [
    (gnn.ConvTransposeAct1d, nn.ConvTranspose1d, (9,)),
    (gnn.ConvTransposeAct2d, nn.ConvTranspose2d, (5, 4)),
    (gnn.ConvTransposeAct3d, nn.ConvTranspose3d, (3, 2, 4)),
]
_NORMS = [
    (gnn.BatchNormAct1d, nn.BatchNorm1d, (7,)),
    (gnn.BatchNormAct2d, nn.BatchNorm2d, (5, 4)),
    (gnn.BatchNormAct3d, nn.BatchNorm3d, (3, 2, 4)),
]


@pytest.mark.parametrize("fused, plain, size", _CONVS, ids=lambda v: getattr(v, "__name__", None))
def test_conv_transpose(fused, plain, size):
    arguments = (4, 6, 3, 2, 1, 1, 2)
    ours, theirs = fused(*arguments, act="leaky_relu", alpha=0.2), plain(*arguments)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, *size)
    assert isinstance(ours, plain)
    torch.testing.assert_close(ours(x), nn.functional.leaky_relu(theirs(x), 0.2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x[0]), ours(x)[0], rtol=1e-5, atol=1e-5)
    wanted = [2 * s for s in size]
    torch.testing.assert_close(ours(x, output_size=wanted), nn.functional.leaky_relu(theirs(x, wanted), 0.2), rtol=1e-5, atol=1e-5)
    y, partials = ours(x, return_partials=True)
    torch.testing.assert_close(partials[0, 1], y.transpose(0, 1).flatten(1).mean(1), rtol=1e-4, atol=1e-5)


_ORDINARY = [(gnn.ConvAct1d, nn.Conv1d, (9,)), (gnn.ConvAct2d, nn.Conv2d, (8, 7)), (gnn.ConvAct3d, nn.Conv3d, (5, 4, 6))]


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("fused, plain, size", _ORDINARY, ids=lambda v: getattr(v, "__name__", None))
def test_conv(fused, plain, size, padding_mode):
    x = torch.randn(2, 4, *size, requires_grad=True)
    for stride, padding in ((2, 1), (1, "same"), (1, "valid")):
        arguments = (4, 6, 3, stride, padding, 1, 2, True, padding_mode)
        ours, theirs = fused(*arguments, act="leaky_relu", alpha=0.2), plain(*arguments)
        theirs.load_state_dict(ours.state_dict())
        assert isinstance(ours, plain)
        got, want = ours(x), nn.functional.leaky_relu(theirs(x), 0.2)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        gradients = [torch.autograd.grad(y.square().sum(), [x, *m.parameters()]) for y, m in ((got, ours), (want, theirs))]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(x[0]), ours(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval", "cumulative", "untracked", "untracked eval", "no affine"])
@pytest.mark.parametrize("fused, plain, size", _NORMS, ids=lambda v: getattr(v, "__name__", None))
def test_batch_norm(fused, plain, size, mode):
    options = {"cumulative": {"momentum": None}, "no affine": {"affine": False}}.get(mode, {})
    if mode.startswith("untracked"):
        options = {"track_running_stats": False}
    ours, theirs = fused(3, act="relu", **options), plain(3, **options)
    assert isinstance(ours, plain) and list(ours.state_dict()) == list(theirs.state_dict())
    for module in (ours, theirs):
        module.train(not mode.endswith("eval"))
    for _ in range(3):
        x = torch.randn(4, 3, *size) * 2 + 1
        torch.testing.assert_close(ours(x), theirs(x).relu(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


def test_frozen_norm_in_a_training_model():
    ours, theirs = gnn.BatchNormAct2d(3), nn.BatchNorm2d(3)
    model = nn.Sequential(ours).train()
    ours.eval(), theirs.eval()
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert ours.num_batches_tracked == 0


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["ConvAct", "ConvTransposeAct", "UpsampleConvAct"])
def test_a_residual(kind, first):
    layer = getattr(gnn, f"{kind}2d")(3, 3, 3, padding=1, act="relu", residual_first=first, factor=0.5)
    x = torch.randn(2, 3, 4, 4)
    plain = copy.deepcopy(layer)
    plain.act, plain.residual_first, plain.factor = "linear", False, 1.0
    z = plain(x)
    residual = torch.randn_like(z)
    want = (z + residual).relu() * 0.5 if first else (z.relu() + residual) * 0.5
    torch.testing.assert_close(layer(x, residual=residual), want)
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x, residual=residual), want)
    assert "factor=0.5" in repr(layer) and ("residual_first=True" in repr(layer)) == first
    with pytest.raises(ValueError, match="but there is no residual"):
        layer(x)
    seen = [torch.jit.script(layer), torch.fx.symbolic_trace(_Adds(layer))]
    for module, given in zip(seen, ({"residual": residual}, {"other": residual})):
        torch.testing.assert_close(module(x, **given), want)


class _Adds(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, other):
        return self.layer(x, residual=other)


def test_alpha_is_a_constant_or_a_parameter():
    assert "alpha" not in gnn.ConvTransposeAct2d(2, 3, 2, act="leaky_relu", alpha=0.2).state_dict()
    learned = gnn.ConvTransposeAct2d(2, 3, 2, act="snake", alpha=torch.ones(3))
    assert isinstance(learned.alpha, nn.Parameter) and "alpha" in learned.state_dict()
    learned(torch.randn(1, 2, 4, 4)).sum().backward()
    assert learned.alpha.grad.shape == (3,)
    prelu = gnn.BatchNormAct2d(3, act="prelu")
    assert prelu.alpha.tolist() == [0.25]
    want = nn.functional.prelu(nn.BatchNorm2d(3)(torch.ones(2, 3, 4, 4)), torch.tensor([0.25]))
    torch.testing.assert_close(prelu(torch.ones(2, 3, 4, 4)), want)


def test_repr_copy_pickle_and_dtype():
    layer = gnn.ConvTransposeAct2d(2, 3, 4, 2, 1, act="tanh", dtype=torch.float64)
    assert "act=tanh" in repr(layer)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x), layer(x))
    low = layer.to(torch.bfloat16).to(memory_format=torch.channels_last)
    assert low(x.bfloat16().contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert "alpha=learned (3,)" in repr(gnn.BatchNormAct2d(3, act="snake", alpha=torch.ones(3)))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: gnn.ConvTransposeAct2d(2, 3, 4, act="lrelu"), "ConvTransposeAct2d: act='lrelu' is unknown.*'leaky_relu'|'relu'"),
        (lambda: gnn.BatchNormAct2d(3, act="relu", alpha=0.1), "BatchNormAct2d: alpha was given, but act='relu' has no parameter"),
        (lambda: gnn.ConvAct2d(2, 3, 4)(torch.randn(1, 3, 4, 4)), "conv_act: weight expects Cin=2, x has 3 channels"),
        (lambda: gnn.BatchNormAct2d(3)(torch.randn(2, 3)), "expected 4D input"),
        (lambda: gnn.ConvAct2d(2, 3, 4, factor=float("nan")), "ConvAct2d: factor is nan, wants a finite number"),
        (lambda: gnn.ConvTransposeAct2d(2, 3, 4)(torch.randn(1, 3, 4, 4)), "conv_transpose_act: weight expects Cin=2, x has 3 channels"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
