"""Few output channels by one pixel, on a CPU: a matrix of each image's own."""

import pytest
import torch

from ganfast import _native
from ganfast.ops.modulated_conv import kernels
from ganfast.ops.modulated_conv.autograd import Few
from ganfast.testing import nan_filled

pytestmark = pytest.mark.skipif(_native.reason("cpu") is not None, reason=f"no CPU kernels: {_native.reason('cpu')}")
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# images, outputs, channels, size: remainders of channels and outputs, several tiles in a part, several parts, one pixel
SIZES = [(16, 5, 6, (40, 45)), (1, 3, 9, (37, 41)), (3, 8, 1, (1, 1)), (2, 1, 64, (3, 70))]


def arguments(size, dtype, layout):
    n, o, c, pixels = size
    x = torch.randn(n, c, *pixels).to(dtype).contiguous(memory_format=FORMATS[layout])
    return x, torch.randn(n, o, c, dtype=torch.promote_types(dtype, torch.float32)), layout == "nhwc"


def assert_near(got, want, dtype):
    assert ((got.double() - want).abs().max() / want.abs().max()).item() < TOLERANCE[dtype]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_product_and_its_gradients(size, dtype, layout):
    x, w, last = arguments(size, dtype, layout)
    with nan_filled():
        t = kernels.few_fwd(x, w, last)
        g = torch.randn(t.shape).to(dtype).contiguous(memory_format=FORMATS[layout])
        gx, gw = kernels.few_bwd(g, x, w, last)
        alone, none = kernels.few_bwd(g, None, w, last)
    exact = x.double(), w.double(), g.double()
    assert_near(t, torch.einsum("nchw,noc->nohw", *exact[:2]), dtype)
    assert_near(gx, torch.einsum("nohw,noc->nchw", exact[2], exact[1]), dtype)
    assert_near(gw, torch.einsum("nohw,nchw->noc", exact[2], exact[0]), torch.promote_types(dtype, torch.float32))
    assert torch.equal(alone, gx) and none.numel() == 0
    assert all(v.dtype == dtype and v.is_contiguous(memory_format=FORMATS[layout]) for v in (t, gx)) and gw.dtype == w.dtype


def test_sums_do_not_depend_on_the_threads():
    x, w, last = arguments((2, 3, 8, (60, 60)), torch.float32, "nchw")
    g, found, before = torch.randn(2, 3, 60, 60), [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(kernels.few_bwd(g, x, w, last)[1])
    torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("learns", [(True, True), (True, False), (False, True)], ids=str)
def test_derivatives_of_every_order(learns):
    x, w, last = arguments((2, 3, 4, (3, 2)), torch.float64, "nchw")
    inputs = [t.requires_grad_(need) for t, need in zip((x, w), learns)]
    call = lambda *t: Few.apply(*t, last)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_the_op_as_torch_sees_it():
    x, w, last = arguments((2, 3, 4, (3, 2)), torch.float32, "nhwc")
    g = torch.randn(2, 3, 3, 2).contiguous(memory_format=torch.channels_last)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.ganfast.modulated_conv_few_fwd.default, (x, w, last), test_utils=tests)
    for given in (x, None):
        torch.library.opcheck(torch.ops.ganfast.modulated_conv_few_bwd.default, (g, given, w, last), test_utils=tests)
