"""upfirdn against its definition, in both layouts, every dtype, to second order."""

import functools

import numpy as np
import pytest
import scipy.signal
import torch

from ganfast.functional import downsample, filter, upfirdn, upsample
from tests.upfirdn.common import CASES, by_definition, case

BACKENDS = ["reference", "torch", "cpu"]
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}, torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.float64: {"rtol": 1e-6, "atol": 1e-6},
}  # fmt: skip


@pytest.mark.parametrize("flip", [False, True], ids=["convolution", "correlation"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_by_definition(backend, name, flip):
    x, taps, options = case(name)
    got = upfirdn(x, taps, **options, flip=flip, gain=1.7, backend=backend)
    torch.testing.assert_close(got.double(), by_definition(x, taps, **options, flip=flip, gain=1.7), rtol=1e-5, atol=1e-5)
    assert got.is_contiguous()


@pytest.mark.parametrize("channels", [2, 16])
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("line")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_last(backend, name, channels):
    x, taps, options = case(name, channels=channels)
    got = upfirdn(x.contiguous(memory_format=torch.channels_last), taps, **options, backend=backend)
    torch.testing.assert_close(got, upfirdn(x, taps, **options, backend="reference"), rtol=1e-5, atol=1e-5)
    if x.shape[2:].numel() > 1:
        assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["blur", "up", "full down", "both", "line up"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes(backend, name, dtype):
    x, taps, options = case(name, dtype)
    got = upfirdn(x, taps, **options, backend=backend)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), by_definition(x, taps, **options), **TOLERANCE[dtype])


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("line")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scipys_own(backend, name):
    """Without padding scipy's filter is a convolution with everything that it reaches: taps - 1 zeros at both ends, down's first result."""
    x, taps, options = case(name)
    k = len(taps)
    got = upfirdn(x, taps, up=options["up"], down=options["down"], padding=[k - 1, k - 1], backend=backend)
    want = scipy.signal.upfirdn(taps.numpy(), x.numpy(), options["up"], options["down"])
    n = min(got.shape[-1], want.shape[-1])
    assert abs(got.shape[-1] - want.shape[-1]) <= options["up"]  # scipy leaves out the zeros after the last value
    np.testing.assert_allclose(got.numpy()[..., :n], want[..., :n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["blur", "full up", "both", "far", "cut off up", "line both"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_two_orders(backend, name):
    x, taps, options = case(name, torch.float64)
    x.requires_grad_()
    call = lambda t: upfirdn(t, taps, **options, gain=0.5, backend=backend)
    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_is_the_adjoint_with_nothing_saved_of_x(backend):
    x, taps, options = case("both")
    x.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        y = upfirdn(x, taps, **options, backend=backend)
    assert saved == [taps.numel()]
    gy = torch.randn_like(y)
    (gx,) = torch.autograd.grad(y, x, gy)
    torch.testing.assert_close((gx * x).sum(), (gy * y).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_threads_do_not_show(layout):
    x, taps = torch.randn(3, 8, 40, 64).contiguous(memory_format=layout), torch.randn(4)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found += [upfirdn(x, t, up=2, padding=2, backend="cpu") for t in (taps, taps.outer(taps))]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("dims", [1, 2])
def test_the_usual_three_keep_the_picture_in_place(dims, taps):
    """A constant stays one away from the borders, and sizes are what they say."""
    x, kernel = torch.ones(1, 2, *[24] * dims), torch.ones(taps) / taps
    inner = lambda y, cut: y[(..., *[slice(cut, -cut)] * dims)]
    for y, size in ((filter(x, kernel), 24), (downsample(x, kernel), 12)):
        assert y.shape[2:] == (size,) * dims
        torch.testing.assert_close(inner(y, 6 if size == 24 else 3), torch.ones_like(inner(y, 6 if size == 24 else 3)))
    assert upsample(x, kernel).shape[2:] == (48,) * dims
    assert upsample(x, kernel, up=3, padding=1).shape[2:] == (74,) * dims
    if taps % 2 == 0:
        torch.testing.assert_close(inner(upsample(x, kernel), 12), torch.ones(1, 2, *[24] * dims))


def test_pairs_are_x_and_y():
    x, kernel = torch.randn(1, 1, 6, 8), torch.ones(1)
    assert upfirdn(x, kernel, up=[2, 1]).shape[2:] == (6, 16)
    assert upfirdn(x, kernel, down=(1, 3)).shape[2:] == (2, 8)
    assert upfirdn(x, kernel, padding=[1, 2]).shape[2:] == (10, 10)
    assert upfirdn(x, kernel, padding=[1, 2, 3, 4]).shape[2:] == (13, 11)


def test_an_empty_batch():
    x = torch.randn(0, 3, 6, 6, requires_grad=True)
    y = upfirdn(x, torch.ones(4), up=2, padding=[2, 1, 2, 1])
    assert y.shape == (0, 3, 12, 12)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_one_graph(backend):
    for name in ("up", "line both"):
        x, taps, options = case(name)
        x.requires_grad_()
        want = upfirdn(x, taps, **options, backend=backend)
        gradients = torch.autograd.grad(want.square().sum(), x)
        torch._dynamo.reset()
        call = functools.partial(upfirdn, filter=taps, **options, backend=backend)
        got = torch.compile(call, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got.square().sum(), x), gradients)
    geometry = ([2, 1], [1, 3], [1, 2], [2, 0])
    x = torch.randn(1, 2, 5, 9).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.ganfast.upfirdn_fwd.default, (x, torch.randn(3, 4), *geometry, False, 2.0, True, backend))
