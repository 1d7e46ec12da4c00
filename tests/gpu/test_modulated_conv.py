"""modulated_conv on a GPU: every backend there against the grouped form in float64, two orders, both layouts, every dtype."""

import pytest
import torch

from ganfast.functional import modulated_conv
from ganfast.testing import nan_filled
from tests.gpu.test_gpu import DTYPES
from tests.modulated_conv.common import FULL, case, grouped

pytestmark = pytest.mark.gpu
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
@pytest.mark.parametrize("name", ["plain", "up", "down", "1x1 up", "full down"])
def test_two_orders(name, backend, dtype, layout):
    x, weight, style, options = case(name, channels=(32, 16))
    noise, bias, filter = options.pop("noise"), options.pop("bias"), options.pop("filter")
    x = x.to(dtype)
    exact = [t.double().requires_grad_() for t in (x, weight, style, noise, bias)]
    there = [t.cuda().requires_grad_() for t in (x.contiguous(memory_format=LAYOUTS[layout]), weight, style, noise, bias)]
    results, gy = [], None
    for (x_, w_, s_, e_, b_), call, more in ((exact, grouped, {}), (there, modulated_conv, {"backend": backend})):
        with nan_filled():
            low_pass = None if filter is None else filter.to(x_.device)
            y = call(x_, w_, s_, **options, **FULL, **more, filter=low_pass, noise=e_, bias=b_)
            gy = torch.randn(y.shape) if gy is None else gy
            (gs,) = torch.autograd.grad(y, s_, gy.to(y), create_graph=True)
            again = torch.autograd.grad(gs.square().sum(), (x_, w_, s_))
        results.append([v.detach().cpu().double() for v in (y, gs, *again)])
    for what, want, got in zip(("y", "gs", "x", "weight", "style"), *results, strict=True):
        assert got.isfinite().all(), what
        scale = want.abs().max().item()
        if what == "y":  # convolutions in float32 may be TF32
            torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=2e-2 if dtype == torch.bfloat16 else 4e-3)
        assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0) > 0.98, what


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_large_styles_in_16_bits(backend):
    x, weight, style, options = case("up", torch.float16, channels=(64, 8))
    options = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    y = modulated_conv(x.cuda(), weight.float().cuda() * 50, style.float().cuda() * 1e4, **options, backend=backend)
    want = grouped(x.double(), weight.double() * 50, style.double() * 1e4, **{k: v.double().cpu() if isinstance(v, torch.Tensor) else v
                                                                           for k, v in options.items()})  # fmt: skip
    torch.testing.assert_close(y.cpu().double(), want, rtol=0, atol=1e-2 * want.abs().max().item())


def test_offsets_beyond_32_bits():
    x = torch.zeros(1, 2**15 + 8, 256, 256, dtype=torch.bfloat16, device="cuda")
    x[:, -1] = 1
    style = torch.ones(1, x.shape[1], device="cuda")
    from ganfast.ops.modulated_conv import triton

    y = triton.modulated_conv_scale_fwd_triton(x, 3 * style, False)
    assert (y[0, -1] == 3).all() and y[0, :-1].amax() == 0
    del y
    gx, gstyle = triton.modulated_conv_scale_bwd_triton(x, x, style, False)
    assert gstyle[0, -1] == 256 * 256 and (gstyle[0, :-1] == 0).all() and (gx[0, -1] == 1).all()
