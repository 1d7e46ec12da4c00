"""modulated_conv's Triton passes, interpreted, against the grouped form and the passes' definition."""

import pytest
import torch

from ganfast.functional import modulated_conv
from ganfast.ops.modulated_conv import reference
from tests.modulated_conv.common import FULL, case, grouped
from tests.triton_interpreter import assert_close, assert_layout, backend, in_layout, interpreted  # noqa: F401

pytestmark = pytest.mark.triton
NUMBERS = {"snake": (True, 1.3, None), "leaky_relu": (False, 2**0.5, 0.9), "linear": (False, 1.0, None), "elu": (True, 0.7, 1.1)}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", ["plain", "up", "1x1 up", "full down"])
@pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "raw"])
def test_the_grouped_form(name, demodulate):
    x, weight, style, options = case(name)
    options |= FULL | {"demodulate": demodulate, "flip": name == "up"}
    inputs = [t.requires_grad_() for t in (x, weight, style, options["noise"], options["bias"])]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    want = grouped(*exact[:3], **options | {"noise": exact[3], "bias": exact[4]})
    gy = draw(*want.shape)
    got = modulated_conv(*inputs[:3], **options, backend="triton")
    assert_close(got.detach(), want.detach(), "y", 64)
    gradients = torch.autograd.grad(got, inputs, gy), torch.autograd.grad(want, exact, gy.double())
    for what, g, w in zip(("x", "weight", "style", "noise", "bias"), *gradients, strict=True):
        assert_close(g, w, what, 128)


@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 70, 6, 9), (3, 6, 1, 1)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("wide", [False, True], ids=["32", "64"])
@pytest.mark.thinned(4)
def test_scale_and_finish(shape, channels_last, dtype, wide, monkeypatch):
    from ganfast import _triton

    monkeypatch.setattr(_triton, "wide_from", 1 if wide else 2**31)
    passes = backend("modulated_conv")
    n, c, h, w = shape
    x, g = (in_layout(draw(*shape, seed=i).to(dtype), channels_last) for i in (1, 2))
    style, noise, bias = draw(n, c, seed=3), draw(n, 1, h, w, seed=4), draw(c, seed=5)
    assert_close(passes.modulated_conv_scale_fwd_triton(x, style, channels_last), reference.scaled(x.double(), style.double()), "scaled")
    exact = reference.scale_gradients(g.double(), x.double(), style.double())
    for what, got, want in zip(("gx", "gstyle"), passes.modulated_conv_scale_bwd_triton(g, x, style, channels_last), exact, strict=True):
        assert_close(got, want, what, 64)
        assert what != "gx" or n == c == 1 or h * w == 1 or not assert_layout(got, channels_last)
    for act, (learns, gain, clamp) in NUMBERS.items():
        for given in ((style, noise, bias), (style, None, None), (None, noise, None)):
            args = (*given, bias.abs() + 0.1 if learns else None)
            numbers = (act, 0.2, gain, clamp)
            double = [None if v is None else v.double() for v in args]
            y = passes.modulated_conv_finish_fwd_triton(x, *args, *numbers, channels_last)
            assert_close(y, reference.finished(x.double(), *double, *numbers), act, 64)
            again = x.clone()
            passes.modulated_conv_finish_fwd_triton_(again, *args, *numbers, channels_last)
            assert torch.equal(again, y)
            found = passes.modulated_conv_finish_bwd_triton(g, x, *args, *numbers, channels_last)
            wanted = reference.finish_gradients(g.double(), x.double(), *double, *numbers)
            for what, got, want in zip(("gt", "gd", "gnoise", "gbias", "galpha"), found, wanted, strict=True):
                assert got.numel() == 0 if want is None else not assert_close(got, want, f"{act} {what}", 256)


@pytest.mark.parametrize("shape", [(4, 5, 3, 3), (3, 700, 1, 1), (2, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("transposed", "turn"), [(False, False), (True, False), (False, True), (True, True)])
def test_prepare(shape, dtype, transposed, turn):
    passes = backend("modulated_conv")
    weight, scale, gq = draw(*shape), draw(shape[0], seed=1).abs() + 0.1, draw(*shape[:2], seed=2)
    for by in (None, scale):
        double = None if by is None else by.double()
        w, q = passes.modulated_conv_prepare_fwd_triton(weight, by, transposed, turn, dtype)
        want_w, want_q = reference.prepared(weight.double(), double, transposed, turn)
        assert_close(q, want_q, "q")
        if w.numel():
            assert_close(w, want_w, "w")
        gw = draw(*want_w.shape, seed=3).to(dtype)
        for given in ((gw, gq), (gw, None), (None, gq)):
            got = passes.modulated_conv_prepare_bwd_triton(weight, *given, by, transposed, turn)
            want = reference.prepare_gradient(
                *(None if v is None else v.double() for v in given), weight.double(), double, transposed, turn
            )
            assert_close(got, want, "gweight")


def test_prepare_of_a_channels_last_weight():
    passes = backend("modulated_conv")
    weight, gq = in_layout(draw(4, 6, 3, 3), True), draw(4, 6, seed=1)
    w, q = passes.modulated_conv_prepare_fwd_triton(weight, None, False, False, torch.float32)
    assert w.numel() == 0
    assert_close(q, weight.double().square().sum((2, 3)), "q")
    got = passes.modulated_conv_prepare_bwd_triton(weight, weight, gq, None, False, False)
    assert_close(got, reference.prepare_gradient(weight.double(), gq.double(), weight.double(), None, False, False), "gweight")
    assert_layout(got, True)
