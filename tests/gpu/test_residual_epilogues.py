"""Residuals in the convolutions' epilogues on a GPU: values and gradients against the formula in float64."""

import pytest
import torch

from ganfast.testing import assert_close_to_reference, nan_filled
from tests.conv_act.test_residual import FP64, HALF, Row, _all, _plain, fused, inputs, leaves_of

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16
ROWS = [
    Row("pointers", "transpose", kernel=(4, 4), stride=2, act="leaky_relu", alpha=0.2, factor=HALF),
    Row("first", "transpose", kernel=(4, 4), stride=2, act="tanh", first=True, layout="channels_last", groups=2),
    Row("one pixel", "transpose", c_in=64, c_out=32, size=(1, 1), kernel=(4, 4), padding=0, act="relu", first=True),
    Row("few", "transpose", n=4, c_out=3, size=(33, 34), kernel=(4, 4), stride=2, act="leaky_relu", alpha=0.2, factor=0.5),
    Row("copy engine", "transpose", 8, 64, 128, (16, 16), (4, 4), 2, act="leaky_relu", alpha=0.2, layout="channels_last", dtype=BF16),
    Row("copy engine z", "transpose", 8, 64, 128, (16, 16), (4, 4), 2, act="silu", first=True, layout="channels_last", dtype=BF16),
    Row("volume", "transpose", n=1, c_in=3, c_out=4, size=(4, 5, 3), kernel=(3, 3, 3), act="elu"),
    Row("upsample", "upsample", act="leaky_relu", alpha=0.2, factor=HALF, layout="channels_last"),
    Row("convolution", act="leaky_relu", alpha=0.2, factor=HALF, layout="mixed"),
    Row("convolution first", act="relu", first=True, layout="channels_last", dtype=BF16),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("backend", ["triton", "cuda", "torch", "auto"])
def test_values_and_gradients(row, backend):
    tensors = inputs(row)
    z = _plain(row, **leaves_of(tensors, FP64), until="z").detach()
    near = z.abs() <= 8 * torch.finfo(row.dtype).eps * z.abs().max()  # of a kink: the side an element falls on is nobody's error
    gy = torch.randn_like(z).masked_fill(near, 0).to(row.dtype)
    on_gpu = leaves_of({name: t.cuda() for name, t in tensors.items()})
    with nan_filled():
        got = [t.cpu() for t in _all(lambda **t: fused(row, backend, **t), on_gpu, gy.cuda())]
    found = [_all(lambda **t: _plain(row, **t), leaves_of(tensors, dtype), gy) for dtype in (None, FP64)]
    assert_close_to_reference(*zip(["y", *tensors], got, *found, strict=True))
