"""A residual on a GPU, on every backend."""

import pytest
import torch

from ganfast.functional import bias_act, conv_act, conv_transpose_act
from ganfast.ops.conv_transpose_act import reference
from ganfast.testing import nan_filled
from tests.gpu.test_gpu import CONV, DTYPES, conv_leaves, exact_float32  # noqa: F401

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton", "cuda"])
@pytest.mark.parametrize("act", ["linear", "leaky_relu", "silu"])
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("row", ["small rgb", "small odd"])
def test_a_residual(row, first, act, backend, dtype, channels_last):
    """Of a transposed convolution, an ordinary one and bias_act in a row: of every backend's epilogue."""
    *_, stride, padding, output_padding, dilation, _ = CONV[row]
    x, weight, bias = conv_leaves(CONV[row], dtype, channels_last)
    dims = [[v] * 2 for v in (stride, padding, output_padding, dilation)]
    residual = torch.randn_like(reference.conv_transpose(x, weight, bias, *dims, 1)).detach().requires_grad_()
    leaves = [x, weight, bias, residual]
    added = {"residual_first": first, "factor": 0.7}

    def fused(x, weight, bias, r):
        options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation, "act": act}
        y = conv_transpose_act(x, weight, bias, **options, residual=r, **added, backend=backend)
        y = conv_act(y, weight, stride=stride, padding=padding, act=act, residual=x, **added, backend=backend)
        return bias_act(y, act=act, residual=x, **added, backend=backend)

    def plain(x, weight, bias, r):
        activate = lambda z: {"linear": z, "silu": torch.nn.functional.silu(z)}.get(act, torch.nn.functional.leaky_relu(z, 0.01))
        end = lambda z, r: (activate(z + r) if first else activate(z) + r) * 0.7
        y = end(reference.conv_transpose(x, weight, bias, *dims, 1), r)
        return end(end(torch.nn.functional.conv2d(y, weight, None, stride, padding), x), x)

    def run(call, cast=None):
        own = [t.detach().to(cast or t.dtype).requires_grad_() for t in leaves]
        y = call(*own)
        return [y, *torch.autograd.grad(y.square().sum(), own)]

    with nan_filled():
        got = run(fused)
    loose = run(plain, torch.float64)
    for mine, want in zip(got, loose):  # kinks and squares apart: what the oracle's rows on a CPU hold each pass to
        tolerance = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
        assert (mine.double() - want).abs().mean() <= tolerance * want.abs().mean()
