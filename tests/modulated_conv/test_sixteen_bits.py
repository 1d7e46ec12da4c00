"""What 16 bits must not show: the scale of weights and styles, where eps counts, and results of a style that x alone could not take."""

import functools

import pytest
import torch

from ganfast.functional import modulated_conv
from tests.modulated_conv.common import FULL, case, grouped, with_epilogue
from tests.modulated_conv.test_modulated_conv import BACKENDS, TOLERANCE, close, learning, with_gradients

WHAT = ("y", "x", "weight", "style", "noise", "bias")
# name: what weight and styles are multiplied by, eps
SCALES = {
    "eps of 1": (1, 1, 1.0),
    "weights of 1e-5": (1e-5, 1, 1e-8),
    "weights of 1e-6": (1e-6, 1, 1e-8),
    "styles of 1e-6": (1, 1e-6, 1e-8),
    "one against the other": (1e-12, 1e12, 1e-2),
    "huge": (1e15, 1e18, 1.0),
    "no eps": (1e-9, 1e-9, 0.0),
    "no weights": (0, 1, 1e-8),
    "no styles": (1, 0, 1e-8),
}


def compared(backend, tensors, options, gy):
    """The gradients' sizes too, each in units of its own largest value."""
    want = with_gradients(grouped, [t.double() for t in tensors], with_epilogue(options), gy)
    got = with_gradients(functools.partial(modulated_conv, backend=backend), tensors, options, gy)
    for what, g, w in zip(WHAT, got, want, strict=True):
        assert g.isfinite().all(), what
        largest = w.abs().max()
        if largest > 0:
            close(g.double() / largest, w / largest, 2 * TOLERANCE[tensors[0].dtype], what)
        else:
            assert (g == 0).all(), what


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_demodulated_whatever_the_scales(backend, name, dtype):
    """Each image has a scale of its own."""
    of_weight, of_style, eps = SCALES[name]
    x, weight, style, options = case("up", dtype, channels=(16, 8))
    del options["noise"], options["bias"]
    weight, style = weight.float() * of_weight, style.float() * of_style * torch.tensor([[1.0], [8.0]])
    noise, bias = torch.zeros(2, 1, 10, 8), torch.zeros(8)
    compared(backend, (x, weight, style), options | {"eps": eps, "noise": noise, "bias": bias}, torch.randn(2, 8, 10, 8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_style_that_x_could_not_take_in_float16(backend):
    """x * style is 200,000, weight * style 1."""
    x, weight, style = torch.full((1, 4, 4, 4), 200.0).half(), torch.full((2, 4, 1, 1), 1e-3).half(), torch.full((1, 4), 1000.0).half()
    y = modulated_conv(x, weight, style, demodulate=False, backend=backend)
    torch.testing.assert_close(y, torch.full((1, 2, 4, 4), 800.0).half(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("channels", [2, 12])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_that_overflows_leaves_the_others_as_they_are(backend, kernel, channels):
    x, weight, style = torch.ones(2, 1, 4, 4).half(), torch.full((channels, 1, kernel, kernel), 10.0), torch.tensor([[1.0], [1e4]])
    y = modulated_conv(x, weight, style, demodulate=False, backend=backend)
    torch.testing.assert_close(y[0], torch.full_like(y[0], 10 * kernel**2))
    assert y[1].isinf().all()


@pytest.mark.parametrize("channels", [2, 12])
@pytest.mark.parametrize("kernel", [1, 3])
def test_an_image_is_the_same_alone_and_in_a_batch(kernel, channels):
    x, weight, style = torch.randn(3, 5, 6, 6).half(), torch.randn(channels, 5, kernel, kernel).half(), torch.rand(3, 5) + 0.5
    whole = modulated_conv(x, weight, style, demodulate=False, backend="reference")
    assert torch.equal(whole[:1], modulated_conv(x[:1], weight, style[:1], demodulate=False, backend="reference"))


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_style_stays_in_its_image_in_float16(backend, kernel, weight_dtype):
    """Weight times style, 60,000 at most, fits; one image has styles that, or the results of which, do not, and one has infinite ones."""
    x, weight = torch.rand(4, 4, 5, 5).clamp(0.5).half(), torch.rand(6, 4, kernel, kernel).clamp(0.5).to(weight_dtype)
    weight[:, 0] *= 6
    style = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1e4, 6e4, 6e4, 5e4], [1e4, 1e-3, 1.0, 6e4], [torch.inf, 1.0, 1.0, 1.0]])
    want = grouped(x.double(), weight.double(), style.double(), demodulate=False)
    y = modulated_conv(x, weight, style, demodulate=False, backend=backend)
    fits = want.abs() < 60000
    assert fits[0].all() and not fits[1].all() and y[fits].isfinite().all()
    torch.testing.assert_close(y[0].double(), want[0], rtol=4e-3, atol=4e-3)
    assert y[3].isinf().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("of_style", [1e3, 1e-6, 0], ids=str)
@pytest.mark.parametrize("name", ["rgb", "plain", "up"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_raw_whatever_the_styles(backend, name, of_style, dtype):
    x, weight, style, options = case(name, dtype, channels=(16, 8))
    x, weight, style = x * 100, weight.float() * 0.1 / (of_style or 1), style.float() * of_style * torch.tensor([[1.0], [8.0]])
    options |= {"demodulate": False, "noise": options["noise"].float(), "bias": options["bias"].float()}
    size = modulated_conv(x, weight, style, **options).shape
    compared(backend, (x, weight, style), options, torch.randn(size))


@pytest.mark.parametrize("options", [{"eps": 1.0}, {"demodulate": False}], ids=["demodulated", "raw"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_penalty_on_the_styles_gradient(backend, options):
    """The largest entries are constants to the second order too."""
    x, weight, style, given = case("up", torch.bfloat16, channels=(16, 8))
    options = given | FULL | options | {"noise": None, "bias": None}
    direction, found = torch.randn(2, 8, 10, 8), []
    for call, kind in ((grouped, torch.float64), (functools.partial(modulated_conv, backend=backend), torch.bfloat16)):
        inputs = learning((x, weight / 10, style * 5), kind)
        (gs,) = torch.autograd.grad((call(*inputs, **options) * direction.to(kind)).sum(), inputs[2], create_graph=True)
        found.append(torch.autograd.grad(gs.square().sum(), inputs))
    for what, got, want in zip(WHAT[1:], *reversed(found)):
        if "demodulate" in options and what == "style":
            assert got.abs().max() == want.abs().max() == 0  # y is linear in it
            continue
        assert torch.nn.functional.cosine_similarity(got.double().flatten(), want.flatten(), 0) > 0.98, what
        assert 0.95 < got.double().norm() / want.norm() < 1.05, what
