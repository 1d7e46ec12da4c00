"""modulated_conv against the grouped form, forward and backward, in every dtype and both layouts."""

import functools

import pytest
import torch

from ganfast.functional import modulated_conv
from ganfast.testing import nan_filled
from tests.modulated_conv.common import CASES, FULL, case, grouped, with_epilogue

BACKENDS = ["reference", "torch", "cpu"]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3, torch.float64: 1e-10}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def close(got, want, tolerance, what=""):
    """Errors in units of the largest value."""
    scale = max(want.abs().max().item(), 1e-3)
    torch.testing.assert_close(got.double() / scale, want.double() / scale, rtol=0, atol=tolerance, msg=lambda m: f"{what}: {m}")


def learning(tensors, dtype=None):
    return [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]


def with_gradients(call, tensors, options, gy):
    """(y, gradients of x, weight, style, noise, bias and, where it is a tensor, alpha)"""
    inputs = learning(tensors) + [v.detach().requires_grad_() for k, v in options.items() if isinstance(v, torch.Tensor) and k != "filter"]
    named = iter(inputs[3:])
    options = {k: next(named) if isinstance(v, torch.Tensor) and k != "filter" else v for k, v in options.items()}
    y = call(*inputs[:3], **options)
    return [y.detach(), *torch.autograd.grad(y, inputs, gy.to(y.dtype))]


@pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "raw"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_grouped_form(backend, name, demodulate):
    flip = len(name) % 2 == 0
    x, weight, style, options = case(name)
    options |= {"demodulate": demodulate, "flip": flip} | FULL
    exact = [t.double() for t in (x, weight, style)]
    gy = torch.randn(grouped(*exact, **with_epilogue(options)).shape)
    want = with_gradients(grouped, exact, with_epilogue(options), gy)
    with nan_filled():
        got = with_gradients(functools.partial(modulated_conv, backend=backend), (x, weight, style), options, gy)
        alone = modulated_conv(x, weight, style, **options, backend=backend)
    assert torch.equal(alone, got[0]) or backend == "torch"
    for what, g, w in zip(("y", "x", "weight", "style", "noise", "bias"), got, want, strict=True):
        close(g, w, 2e-5, what)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["plain", "up", "1x1 down"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes_and_layouts(backend, name, dtype, layout):
    x, weight, style, options = case(name, dtype, channels=(5, 6))
    parameters = weight.to(memory_format=LAYOUTS[layout]), style.to(torch.promote_types(dtype, torch.float32))
    options |= {"act": "prelu", "alpha": torch.rand(6).to(parameters[1].dtype), "clamp": 1.5}
    exact = [t.double() for t in (x, weight, style)]
    gy = torch.randn(grouped(*exact, **with_epilogue(options)).shape)
    want = with_gradients(grouped, exact, with_epilogue(options), gy)
    call = functools.partial(modulated_conv, backend=backend)
    with nan_filled():
        got = with_gradients(call, (x.contiguous(memory_format=LAYOUTS[layout]), *parameters), options, gy)
    assert got[0].dtype == dtype and got[0].is_contiguous(memory_format=LAYOUTS[layout])
    if dtype.itemsize == 2:  # an element at the clamp or the kink falls on either side of it
        close(got[0], want[0], TOLERANCE[dtype])
        for what, g, w in zip(("x", "weight", "style", "noise", "bias", "alpha"), got[1:], want[1:], strict=True):
            assert torch.nn.functional.cosine_similarity(g.double().flatten(), w.flatten(), 0) > 0.99, what
    else:
        for what, g, w in zip(("y", "x", "weight", "style", "noise", "bias", "alpha"), got, want, strict=True):
            close(g, w, TOLERANCE[dtype], what)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_large_styles_are_finite_and_right(backend, dtype):
    """x * style alone would be beyond float16's 65504."""
    x, weight, style, options = case("up", dtype, channels=(64, 8))
    style, gy = style.float() * 4e4, torch.randn(2, 8, 10, 8)
    weight = weight.float() * 50
    exact = [x.double(), weight.double(), style.double()]
    want = with_gradients(grouped, exact, with_epilogue(options | FULL), gy)
    got = with_gradients(functools.partial(modulated_conv, backend=backend), (x, weight, style), options | FULL, gy)
    for what, g, w in zip(("y", "x", "weight", "style", "noise", "bias"), got, want, strict=True):
        assert g.isfinite().all(), what
        assert torch.nn.functional.cosine_similarity(g.double().flatten(), w.flatten(), 0) > 0.99, what
    close(got[0], want[0], TOLERANCE[dtype])
    assert got[2].dtype == got[3].dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_sums_are_finite_and_right_in_float16(backend):
    """Sums of 64 * 9 products, none of them large, that would be twice 65504 by a weight that is divided by its largest entry alone."""
    x, weight, style, options = case("plain", channels=(64, 8))
    x, weight, style = (500 + x).half(), weight.abs(), torch.ones_like(style) * 1e4
    got = modulated_conv(x, weight, style, **options, backend=backend)
    close(got, grouped(x.double(), weight.double(), style.double(), **with_epilogue(options)), 5e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_planes_of_many_tiles_whatever_the_threads(layout):
    """Long runs, tails, several tiles an image; sums do not depend on the threads."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g)
    tensors = draw(2, 9, 67, 71).contiguous(memory_format=LAYOUTS[layout]), draw(11, 9, 3, 3), 1 + draw(2, 9)
    options = {"padding": 1, "noise": draw(2, 1, 67, 71), "bias": draw(11), "clamp": 1.0} | FULL
    gy, found, threads = draw(2, 11, 67, 71), [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(with_gradients(functools.partial(modulated_conv, backend="cpu"), tensors, options, gy))
    finally:
        torch.set_num_threads(threads)
    want = with_gradients(grouped, [t.double() for t in tensors], with_epilogue(options), gy)
    for place, (one, three, w) in enumerate(zip(*found, want)):
        close(one, w, 1e-4, str(place))
        if place in (4, 5):  # of the passes alone, without a convolution's own threads
            assert torch.equal(one, three)


@pytest.mark.parametrize("shape", [(), (1,), (6, 5), (1, 6, 5), (2, 1, 1, 1), (1, 1, 6, 1), (1, 1, 6, 5)], ids=str)
def test_noise_broadcasts(shape):
    x, weight, style = torch.randn(2, 3, 6, 5), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    noise = torch.randn(shape, requires_grad=True)
    got = modulated_conv(x, weight, style, padding=1, noise=noise)
    close(got.detach(), grouped(x, weight, style, padding=1, noise=noise.detach()), 1e-5)
    got.square().sum().backward()
    assert noise.grad.shape == noise.shape and noise.grad.abs().sum() > 0


@pytest.mark.parametrize(("up", "taps"), [(2, 4), (3, 5)])
def test_the_picture_stays_in_its_place(up, taps):
    """A point's centre of mass, whatever the filter's border: that of the pixels it becomes."""
    x, weight = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 3, 3)
    x[0, 0, 4, 3], weight[0, 0, 1, 1] = 1, 1
    taps = torch.ones(taps) / taps
    y = modulated_conv(x, weight, torch.ones(1, 1), demodulate=False, up=up, filter=taps, padding=1)
    assert y.shape[2:] == (9 * up, 9 * up)
    torch.testing.assert_close(y.sum(), torch.tensor(float(up**2)))
    places = torch.arange(9.0 * up) + 0.5
    centre = (y[0, 0].sum(1) @ places) / y.sum(), (y[0, 0].sum(0) @ places) / y.sum()
    torch.testing.assert_close(torch.stack(centre), torch.tensor([4.5 * up, 3.5 * up]))
    down = modulated_conv(torch.ones(1, 1, 9 * up, 9 * up), weight, torch.ones(1, 1), demodulate=False, down=up, filter=taps, padding=1)
    assert down.shape[2:] == (9, 9)
    torch.testing.assert_close(down[0, 0, 2:-2, 2:-2], torch.ones(5, 5))


def test_an_empty_batch():
    x, weight, style = torch.randn(0, 3, 4, 4), torch.randn(5, 3, 3, 3, requires_grad=True), torch.randn(0, 3)
    y = modulated_conv(x, weight, style, up=2, padding=1, bias=torch.zeros(5))
    assert y.shape == (0, 5, 8, 8)
    y.sum().backward()
    assert (weight.grad == 0).all()


def test_autocast_casts_the_image():
    x, weight, style, options = case("up")
    want = modulated_conv(x, weight, style, **options)
    learn = learning((x, weight, style))
    with torch.autocast("cpu", torch.bfloat16):
        got = modulated_conv(*learn, **options)
    assert got.dtype == torch.bfloat16
    close(got.detach(), want, 4e-2)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(got.sum(), learn))


def test_no_image_of_weights_is_made():
    """Nothing that is saved, and no result, has a weight for every image."""
    x, weight, style = learning((torch.randn(8, 16, 4, 4), torch.randn(16, 16, 3, 3), torch.randn(8, 16)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        modulated_conv(x, weight, style, padding=1)
    assert max(saved) == weight.numel()


@pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "raw"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_few_channels_take_a_small_weight_for_every_image(layout, demodulate):
    x, weight, style, options = case("rgb", torch.float64, channels=(5, 3))
    x = x.contiguous(memory_format=LAYOUTS[layout])
    options |= {"demodulate": demodulate, "act": "silu"}
    gy = torch.randn(2, 3, 4, 5)
    want = with_gradients(grouped, (x, weight, style), options, gy)
    got = with_gradients(modulated_conv, (x, weight, style), options, gy)
    for what, g, w in zip(("y", "x", "weight", "style", "noise", "bias"), got, want, strict=True):
        close(g, w, 1e-12, what)
    assert got[0].is_contiguous(memory_format=LAYOUTS[layout])
    inputs = learning((x, weight, style))
    assert torch.autograd.gradgradcheck(lambda *t: modulated_conv(*t, **options), inputs, fast_mode=True)
