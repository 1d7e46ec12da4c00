"""upfirdn's Triton kernel, interpreted, against its definition."""

import pytest
import torch

from ganfast.functional import upfirdn
from tests.triton_interpreter import assert_close, assert_layout, in_layout, interpreted  # noqa: F401
from tests.upfirdn.common import CASES, by_definition, case

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("flip", [False, True], ids=["convolution", "correlation"])
@pytest.mark.parametrize("name", CASES)
def test_contiguous(name, flip):
    x, taps, options = case(name)
    got = upfirdn(x, taps, **options, flip=flip, gain=1.7, backend="triton")
    assert_close(got, by_definition(x, taps, **options, flip=flip, gain=1.7), name)
    assert_layout(got, False)


@pytest.mark.parametrize("name", ["up", "full both", "far", "long", "cut off up"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_channels_last(name, dtype):
    x, taps, options = case(name, dtype, channels=5)
    got = upfirdn(in_layout(x, True), taps, **options, backend="triton")
    assert_close(got, by_definition(x, taps, **options), name, floor=16 if dtype == torch.float32 else 8192)
    assert_layout(got, True)


@pytest.mark.parametrize("name", ["both", "long down", "line both"])
def test_gradients_are_the_same_kernel(name):
    x, taps, options = case(name)
    x.requires_grad_()
    gy = torch.randn_like(upfirdn(x, taps, **options, backend="reference"))
    (got,), (want,) = (torch.autograd.grad(upfirdn(x, taps, **options, backend=b), x, gy) for b in ("triton", "reference"))
    assert_close(got, want.double(), name)


def test_addresses_of_64_bits(monkeypatch):
    from ganfast import _triton

    monkeypatch.setattr(_triton, "wide_from", 1)
    x, taps, options = case("full up")
    assert_close(upfirdn(x, taps, **options, backend="triton"), by_definition(x, taps, **options), "wide")
