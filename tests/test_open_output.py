"""`open_output`: y may be changed in place before its backward, as after a leaky_relu of torch's that is not in place."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from ganfast._memory import saved_bytes
from ganfast.functional import bias_act, conv_act, conv_transpose_act, upsample_conv_act
from tests.infinities import act_of_torch

FP64, BF16 = torch.float64, torch.bfloat16
WEIGHTS = {"weight": (4, 4, 3, 3), "bias": (4,)}
BATCH = {"x": (2, 4, 6, 5), **WEIGHTS}
SCALED = {"gain": 2**0.5, "clamp": 0.8}


def upsampled_conv(x, weight, bias):
    return F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)


def column(x, bias):
    return x + bias[:, None]


def scaled(y, gain=1.0, clamp=None):
    return y * gain if clamp is None else (y * gain).clamp(-clamp, clamp)


# name -> (shapes of what learns, torch's layer before the activation, ganfast's op, what of the op torch does after the activation)
OPS = {
    "conv": (BATCH, F.conv2d, conv_act, {}),
    "conv unbatched": ({"x": (4, 6, 5), **WEIGHTS}, F.conv2d, conv_act, {}),
    "conv_transpose": (BATCH, F.conv_transpose2d, conv_transpose_act, {}),
    "conv_transpose unbatched": ({"x": (4, 6, 5), **WEIGHTS}, F.conv_transpose2d, conv_transpose_act, {}),
    "upsample_conv": (BATCH, upsampled_conv, upsample_conv_act, {}),
    "bias": ({"x": (2, 4, 6), "bias": (4,)}, column, bias_act, {}),
    "bias, scaled and clamped": ({"x": (2, 4, 6), "bias": (4,)}, column, bias_act, SCALED),
    "bias, negative": ({"x": (2, 4, 6), "bias": (4,)}, column, bias_act, {"gain": -0.5}),
    "bias, last dimension": ({"x": (2, 6, 4), "bias": (4,)}, torch.add, functools.partial(bias_act, dim=-1), SCALED),
}
PIECEWISE = [("relu", None), ("leaky_relu", 0.2), ("prelu", 0.25)]
ACTS = [*PIECEWISE, ("leaky_relu", -0.2), ("leaky_relu", 0.0), ("linear", None), ("tanh", None), ("elu", 0.7), ("silu", None)]
each_op = pytest.mark.parametrize("name", OPS)
each_act = pytest.mark.parametrize(("act", "alpha"), ACTS, ids=str)
piecewise = pytest.mark.parametrize(("act", "alpha"), PIECEWISE, ids=str)


def fast(name, act, alpha, open_output=True, backend=None):
    _, _, op, after = OPS[name]
    return lambda *inputs: op(*inputs, act=act, alpha=alpha, open_output=open_output, backend=backend, **after)


def eager(name, act, alpha):
    _, layer, _, after = OPS[name]
    return lambda *inputs: scaled(act_of_torch(layer(*inputs), act, alpha), **after)


def leaves(name, dtype=torch.float32):
    return [torch.randn(size).to(dtype).requires_grad_() for size in OPS[name][0].values()]


def gradients(f, inputs, order, changed):
    """Of the loss of y / 2, halved in place where `changed`; of second order those of a penalty on the first."""
    y = f(*inputs)
    y = y.mul_(0.5) if changed else y * 0.5
    first = grad(y.square().sum(), inputs, create_graph=order == 2)
    return first if order == 1 else grad(sum(g.square().sum() for g in first), inputs, allow_unused=True)


@pytest.mark.pairs
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])
@each_act
@each_op
def test_y_changed_in_place(name, act, alpha, backend, order):
    """Against torch's with the halves in a new tensor: its relu and tanh keep y."""
    inputs = leaves(name, FP64)
    got = gradients(fast(name, act, alpha, backend=backend), inputs, order, True)
    torch.testing.assert_close(got, gradients(eager(name, act, alpha), inputs, order, False))


@piecewise
@pytest.mark.parametrize("name", [name for name in OPS if name != "bias, negative"])
def test_without_it_the_change_is_noticed(name, act, alpha):
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(fast(name, act, alpha, open_output=False), leaves(name), 1, True)


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("order", [1, 2])
@piecewise
@each_op
def test_signs_give_what_y_gives(name, act, alpha, order, dtype):
    """Bit for bit, in channels_last too; but for the bias's gradient, a sum in another order: 7e-7 apart at most, and all of what
    depends on it."""
    inputs = leaves(name, dtype)
    if inputs[0].dim() == 4:
        inputs[0] = inputs[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    got, want = (gradients(fast(name, act, alpha, open_output), inputs, order, False) for open_output in (True, False))
    near = 2e-6 if dtype == torch.float32 else 2**-7
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        inexact = order == 2 or i == len(got) - 1
        bound = {"rtol": near, "atol": near * b.abs().max().item()} if inexact else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(a, b, check_stride=True, **bound)


@piecewise
@each_op
def test_the_slope_at_nan(name, act, alpha):
    *inputs, bias = leaves(name)
    with torch.no_grad():
        bias[0] = torch.nan
    ones = lambda y: grad(y, (inputs[0], bias), torch.ones_like(y))
    got, want = (ones(fast(name, act, alpha, open_output)(*inputs, bias)) for open_output in (True, False))
    torch.testing.assert_close(got, want, rtol=2e-6, atol=0)
    assert all(g.isfinite().all() for g in got)


@pytest.mark.pairs
@pytest.mark.parametrize("learn", ["all", "weights", "x"])
@piecewise
@each_op
def test_a_byte_an_element_is_kept(name, act, alpha, learn):
    inputs = leaves(name)
    for t, of_x in zip(inputs, [True, False, False]):
        t.requires_grad_(learn == "all" or (learn == "x") == of_x)
    kept = lambda f: saved_bytes(torch.nn.ParameterList(inputs), lambda: f(*inputs))
    y = fast(name, act, alpha)(*inputs)
    if name not in ("upsample_conv", "bias, negative"):  # the one keeps its folded weight, or the upsampled image; the other x
        assert kept(fast(name, act, alpha)) == y.numel()
    assert kept(fast(name, act, alpha)) <= kept(eager(name, act, alpha))


@piecewise
@pytest.mark.parametrize("name", ["conv", "conv_transpose", "upsample_conv", "bias, scaled and clamped"])
@pytest.mark.thinned(3)
def test_compiled(name, act, alpha):
    torch.compiler.reset()
    inputs = leaves(name)

    def f(*inputs):
        y = fast(name, act, alpha)(*inputs)
        y += 1
        return y

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*(grad(g(*inputs).square().sum(), inputs) for g in (compiled, f)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["conv", "conv_transpose", "upsample_conv"])
def test_autocast(name):
    inputs, found = leaves(name), []
    for open_output in (True, False):
        with torch.autocast("cpu", BF16):
            found.append(gradients(fast(name, "leaky_relu", 0.2, open_output), inputs, 2, open_output))
    assert all(g.dtype == torch.float32 for g in found[0])
    torch.testing.assert_close(*found, rtol=0, atol=0)


@piecewise
def test_a_penalty_alone_hands_zeros_to_what_lies_before_a_bias(act, alpha):
    x, weight = torch.randn(2, 4, 6, 5, requires_grad=True), torch.randn(4, 4, 3, 3)
    before, bias = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    y = bias_act(F.conv2d(x, weight, before), bias, act=act, alpha=alpha, open_output=True)
    (gx,) = grad(y.sum(), x, create_graph=True)
    for g in grad(gx.square().sum(), (before, bias)):
        assert not g.any()
