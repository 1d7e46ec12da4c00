"""`upsample_conv_act` against nearest interpolation and a convolution: every backend, gradients to second order, bad input."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint

import ganfast.nn as gnn
from ganfast.functional import batch_norm_act, upsample_conv_act
from ganfast.testing import assert_close_to_reference

_CONV = (None, F.conv1d, F.conv2d, F.conv3d)
# name: n, c_in, c_out, size, kernel, scale, padding, groups
CASES = {
    "x2 3x3": (2, 8, 12, (6, 5), 3, 2, 1, 1),
    "rgb": (3, 16, 3, (8, 8), 3, 2, 1, 1),
    "x3 5x5": (2, 4, 6, (4, 7), 5, 3, 2, 1),
    "even kernel, no padding": (1, 4, 6, (5, 4), 4, 2, 0, 1),
    "1x1": (2, 4, 6, (3, 3), 1, 2, 0, 1),
    "groups": (2, 8, 4, (5, 3), 3, 2, 1, 4),
    "1-D": (2, 6, 4, (11,), 5, 4, 2, 1),
    "3-D": (1, 4, 6, (3, 2, 4), 3, 2, 1, 2),
    "mixed scales": (2, 4, 6, (5, 3), 3, (3, 1), 1, 1),
    "no scale": (2, 4, 6, (5, 3), 3, 1, 1, 1),
}


def plain(x, weight, bias, scale, padding, groups):
    return torch.tanh(_CONV[x.dim() - 2](F.interpolate(x, scale_factor=scale), weight, bias, 1, padding, 1, groups))


def leaves(case, dtype, channels_last=False):
    n, c_in, c_out, size, k, *_, groups = case
    kernel = [k] * len(size)
    x, weight, bias = (
        torch.randn(n, c_in, *size),
        torch.randn(c_out, c_in // groups, *kernel) / (c_in * k ** len(size)) ** 0.5,
        torch.randn(c_out),
    )
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return [t.to(dtype).requires_grad_() for t in (x, weight, bias)]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "cpu", "auto"])
@pytest.mark.parametrize("name", CASES)
def test_equals_interpolate_and_convolution(name, backend, dtype, channels_last):
    *_, scale, padding, groups = CASES[name]
    own = leaves(CASES[name], dtype, channels_last)
    double = [t.detach().double().requires_grad_() for t in own]
    want = plain(*double, scale, padding, groups)
    eager = plain(*own, scale, padding, groups)
    got = upsample_conv_act(*own, scale_factor=scale, padding=padding, groups=groups, act="tanh", backend=backend)
    gy = torch.randn(want.shape)
    results = [[y, *torch.autograd.grad(y, t, gy.to(y.dtype))] for y, t in ((got, own), (eager, own), (want, double))]
    assert_close_to_reference(*zip(("y", "gx", "gweight", "gbias"), *results, strict=True))


@pytest.mark.parametrize("name", ["x2 3x3", "groups", "3-D"])
def test_gradgradcheck(name):
    *_, scale, padding, groups = CASES[name]
    call = lambda *t: upsample_conv_act(*t, scale_factor=scale, padding=padding, groups=groups, act="tanh")
    small = (1, groups, groups, (3, 2, 2)[: len(CASES[name][3])], 3, scale, padding, groups)
    inputs = leaves(small, torch.float64)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_partials_feed_the_norm():
    x, weight, _ = leaves(CASES["x2 3x3"], torch.float32)
    z, partials = upsample_conv_act(x, weight, return_partials=True)
    got = batch_norm_act(z, None, None, training=True, partials=partials)
    torch.testing.assert_close(got, F.batch_norm(z, None, None, training=True))


def test_module_is_the_convolution_it_replaces():
    torch.manual_seed(1)
    module = gnn.UpsampleConvAct2d(8, 12, 3, padding=1, act="relu")
    conv = torch.nn.Conv2d(8, 12, 3, padding=1)
    conv.load_state_dict(module.state_dict())
    x = torch.randn(2, 8, 5, 6)
    assert isinstance(module, torch.nn.Conv2d)
    assert "act=relu, scale_factor=2" in repr(module)
    torch.testing.assert_close(module(x), conv(F.interpolate(x, scale_factor=2)).relu())
    torch.testing.assert_close(module(x[0]), module(x)[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16


def test_compiles_whole():
    module = gnn.UpsampleConvAct2d(4, 6, 3, padding=1, act="silu")
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"padding": 3}, "padding is 3, wants less than the kernel's 3"),
        ({"scale_factor": 0}, "scale_factor is 0, wants positive"),
        ({"scale_factor": 2.0}, "scale_factor is 2.0, wants an int"),
        ({"groups": 5}, "groups is 5, wants a divisor of Cout"),
        ({"act": "rely"}, "Did you mean 'relu'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        upsample_conv_act(torch.randn(1, 4, 3, 3), torch.randn(6, 4, 3, 3), **options)


def test_bad_tensors():
    with pytest.raises(ValueError, match=r"x has 6 channels. Transposed weights are stored \[Cin, Cout"):
        upsample_conv_act(torch.randn(1, 6, 3, 3), torch.randn(6, 4, 3, 3))
    with pytest.raises(TypeError, match=r"x is a builtins.list"):
        upsample_conv_act([1.0], torch.randn(6, 4, 3, 3))
    with pytest.raises(ValueError, match="padding is 'same'"):
        gnn.UpsampleConvAct2d(4, 6, 3, padding="same")


def test_an_empty_batch():
    x, weight = torch.randn(0, 3, 5, 7, requires_grad=True), torch.randn(4, 3, 3, 3)
    y = upsample_conv_act(x, weight)
    assert y.shape == (0, 4, 10, 14)
    y.sum().backward()


def test_what_both_ways_refuse():
    weight = torch.randn(4, 3, 3, 3)
    with pytest.raises(ValueError, match="x has no pixels"):
        upsample_conv_act(torch.randn(2, 3, 0, 7), weight)
    for size in (5, 32):
        with pytest.raises(TypeError, match="bias has dtype"):
            upsample_conv_act(torch.randn(2, 3, size, size), weight, torch.randn(4).bfloat16())


def test_checkpointing_does_not_see_the_tuner(monkeypatch, tmp_path):
    monkeypatch.setenv("GANFAST_TUNE", "1")
    monkeypatch.setenv("GANFAST_CACHE", str(tmp_path))
    module = gnn.UpsampleConvAct2d(3, 4, 3, act="relu")
    x = torch.randn(4, 3, 9, 9, requires_grad=True)
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).sum().backward()
    (want,) = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(x.grad, want)
