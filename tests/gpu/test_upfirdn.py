"""upfirdn on a GPU: every backend there against float64, two orders, both layouts, every dtype."""

import pytest
import torch

from ganfast.functional import upfirdn
from ganfast.testing import nan_filled
from tests.gpu.test_gpu import DTYPES
from tests.upfirdn.common import CASES, case

pytestmark = pytest.mark.gpu
NAMES = {"small blur": "blur", "small full": "full both", "small long": "long", "small line": "line both", "small cut off": "cut off up"}


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton", "cuda"])
@pytest.mark.parametrize("name", NAMES)
def test_two_orders(name, backend, dtype, channels_last):
    x, taps, options = case(NAMES[name], dtype, channels=8)
    if channels_last and len(CASES[NAMES[name]][0]) == 1:
        pytest.skip("lines have one layout")
    exact, there = x.double().requires_grad_(), x.cuda()
    there = there.contiguous(memory_format=torch.channels_last) if channels_last else there
    there.requires_grad_()
    results = []
    for t, kernel, which in ((exact, taps, "reference"), (there, taps.cuda(), backend)):
        with nan_filled():
            y = upfirdn(t, kernel, **options, gain=0.7, backend=which)
            (gx,) = torch.autograd.grad(y.tanh().sum(), t, create_graph=True)
            (again,) = torch.autograd.grad(gx.square().sum(), t)
        results.append([v.detach().cpu().double() for v in (y, gx, again)])
    eps = torch.finfo(dtype).eps
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(want, got, rtol=32 * eps, atol=32 * eps * max(1.0, got.abs().max().item()))


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_offsets_beyond_32_bits(backend):
    x = torch.zeros(1, 2**15 + 8, 256, 256, dtype=torch.bfloat16, device="cuda")
    x[:, -1] = 1
    y = upfirdn(x, torch.ones(1, device="cuda"), padding=[1, 0, 0, 0], backend=backend)
    assert (y[0, -1, :, 1:] == 1).all() and (y[0, -1, :, 0] == 0).all() and (y[0, :-1].amax() == 0)
