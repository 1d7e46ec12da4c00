"""Chains against the layers run one after the other, both modes, with gradients and where the fold does not pay."""

import copy

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from ganfast.nn import chains
from ganfast.nn.chains import conv_transpose_batch_norm_act
from ganfast.testing import assert_close_to_reference

_PLAIN = {1: (nn.ConvTranspose1d, nn.BatchNorm1d), 2: (nn.ConvTranspose2d, nn.BatchNorm2d), 3: (nn.ConvTranspose3d, nn.BatchNorm3d)}
_OURS = {
    1: (gnn.ConvTransposeAct1d, gnn.BatchNormAct1d),
    2: (gnn.ConvTransposeAct2d, gnn.BatchNormAct2d),
    3: (gnn.ConvTransposeAct3d, gnn.BatchNormAct3d),
}
# name: dims, options of the convolution, options of the norm, channels_last
CASES = {
    "dcgan": (2, {"bias": False}, {}, False),
    "channels_last": (2, {"bias": False}, {}, True),
    "bias": (2, {}, {}, False),
    "groups": (2, {"groups": 2}, {}, True),
    "no affine": (2, {}, {"affine": False}, False),
    "1-D": (1, {"groups": 4}, {}, False),
    "3-D": (3, {"bias": False}, {}, False),
}


def build(name, training, dtype=torch.float32):
    """(eager chain, our two layers with the same parameters and statistics, x)"""
    dims, conv_options, norm_options, channels_last = CASES[name]
    conv, norm = (
        cls(*sizes, **options) for cls, sizes, options in zip(_PLAIN[dims], ((8, 12, 4, 2, 1), (12,)), (conv_options, norm_options))
    )
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    eager = nn.Sequential(conv, norm, nn.SiLU()).to(dtype).train(training)
    ours = [
        cls(*sizes, **options)
        for cls, sizes, options in zip(_OURS[dims], ((8, 12, 4, 2, 1), (12,)), (conv_options, norm_options | {"act": "silu"}))
    ]
    for mine, source in zip(ours, eager):
        mine.to(dtype).load_state_dict(source.state_dict())
        mine.train(training)
    x = torch.randn(16, 8, *[5, 4, 3][:dims], dtype=dtype)
    return eager, ours, x.contiguous(memory_format=torch.channels_last) if channels_last else x


def results(call, modules, x, cast=None):
    x = x.detach().to(cast or x.dtype).requires_grad_()
    parameters = [p for m in modules for p in m.parameters()]
    y = call(x)
    torch.manual_seed(3)
    return [y, *torch.autograd.grad(y, [x, *parameters], torch.randn(y.shape).to(y.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_layers_in_turn(name, training, dtype, monkeypatch):
    eager, ours, x = build(name, training, dtype)
    double = copy.deepcopy(eager).double()
    monkeypatch.setattr(chains, "_FOLDING", 0)
    folds, fold = [], chains._fold
    monkeypatch.setattr(chains, "_fold", lambda *a: folds.append(a) or fold(*a))
    got = results(lambda v: conv_transpose_batch_norm_act(*ours, v), ours, x)
    assert len(folds) == (0 if training else 1)
    names = ["y", "gx", *(f"g{i}" for i in range(len(got) - 2))]
    assert_close_to_reference(*zip(names, got, results(eager, eager, x), results(double, double, x, torch.float64), strict=True))


def test_no_fold_where_the_weight_outweighs_the_output(monkeypatch):
    eager, ours, x = build("dcgan", False)
    monkeypatch.setattr(chains, "_fold", None)
    x = x[:1, :, :1, :1]
    torch.testing.assert_close(conv_transpose_batch_norm_act(*ours, x), eager(x))


def test_parameters_stay_the_same_objects():
    _, ours, x = build("bias", False)
    before = [(p, p.clone()) for m in ours for p in m.parameters()]
    conv_transpose_batch_norm_act(*ours, x)
    assert all(a is b and torch.equal(a, copy_) for (a, copy_), b in zip(before, [p for m in ours for p in m.parameters()], strict=True))


def test_an_activation_between_the_two_is_refused():
    with pytest.raises(ValueError, match="conv has act='relu', wants linear"):
        conv_transpose_batch_norm_act(gnn.ConvTransposeAct2d(4, 4, 4, act="relu"), gnn.BatchNormAct2d(4), torch.randn(2, 4, 3, 3))


def test_hooks_see_both_modules_in_eval_mode():
    eager, ours, x = build("dcgan", False)
    seen = []
    for module in ours:
        module.register_forward_hook(lambda m, *_: seen.append(type(m).__name__))
    torch.testing.assert_close(conv_transpose_batch_norm_act(*ours, x), eager(x), rtol=1e-4, atol=1e-5)
    assert seen == ["ConvTransposeAct2d", "BatchNormAct2d"]


def test_a_weight_made_by_a_hook_is_made_anew():
    _, ours, x = build("dcgan", False)
    conv = torch.nn.utils.spectral_norm(ours[0])
    conv.eval()
    with torch.no_grad():
        conv.weight_orig.mul_(3).add_(1)
        torch.testing.assert_close(conv_transpose_batch_norm_act(conv, ours[1], x), ours[1](conv(x)))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_empty_batch(training):
    _, ours, x = build("dcgan", training)
    assert conv_transpose_batch_norm_act(*ours, x[:0]).shape == (0, 12, 10, 8)


def test_under_autocast():
    eager, ours, x = build("bias", False)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = conv_transpose_batch_norm_act(*ours, x), eager(x)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
