"""The residual, its factor and the activation's signs in the epilogues of conv_transpose_act's Triton kernels, interpreted, against
plain torch in float64."""

import pytest
import torch

from ganfast import _activations
from tests.conv_transpose_act.test_triton import convolve
from tests.triton_interpreter import assert_close, assert_layout, backend, in_layout, interpreted  # noqa: F401

pytestmark = pytest.mark.triton

# kernel: (x, c_out, kernel, stride, padding, configuration)
KERNELS = {
    "ptr": ((2, 5, 3, 4), 6, (4, 4), 2, 1, ""),
    "ptr 1d": ((2, 5, 7), 6, (4,), 2, 1, ""),
    "gemm": ((3, 17, 1, 1), 5, (3, 2), 1, 0, ""),
    "few": ((1, 6, 9, 7), 3, (4, 4), 2, 1, "few-128"),
    "tma, 2 slices": ((5, 16, 3, 11), 64, (4, 4), 2, 1, "tma-8x4x4x64x16-w4s2"),
    "tma, 4 slices": ((5, 16, 3, 11), 64, (4, 4), 2, 1, "tma-4x8x8x64x16-w4s2"),
    "tma": ((1, 16, 4, 6), 64, (4, 4), 2, 1, "tma-1x4x8x64x16-w4s2"),
}
LAYOUTS = [(kernel, False) for kernel in KERNELS if kernel[:3] != "tma"] + [(kernel, True) for kernel in KERNELS if kernel != "ptr 1d"]


@pytest.mark.parametrize("kernel, last", LAYOUTS)
@pytest.mark.parametrize(
    "act, first, factor, kept",
    [("leaky_relu", False, 0.7, "signs"), ("tanh", True, -2.0, "z"), ("relu", True, 1.0, ""), ("linear", False, 1.0, "")],
)
def test_forward(kernel, last, act, first, factor, kept):
    shape, c_out, taps, stride, padding, config = KERNELS[kernel]
    generator = torch.Generator().manual_seed(3)
    dtype = torch.float16 if kernel[:3] == "tma" else torch.float32
    rank = len(taps)
    geometry = ([stride] * rank, [padding] * rank, [0] * rank, [1] * rank)
    x = in_layout(torch.randn(shape, generator=generator).to(dtype), last)
    weight = in_layout(torch.randn(shape[1], c_out, *taps, generator=generator).to(dtype), last) / 4
    bias = torch.randn(c_out, generator=generator)
    z = convolve(x, weight, bias, geometry, 1)
    residual = in_layout(torch.randn(z.shape, generator=generator).to(dtype), last)
    want_z = z + residual if first else z
    acted = _activations.act_fwd(want_z, act, None, 0.2)
    want = (acted if first else acted + residual) * factor
    y, found, _ = backend("conv_transpose_act").conv_transpose_act_fwd_triton(
        x, weight, bias, None, *geometry, 1, act, 0.2, last, kept == "z", False, config,
        residual=residual, residual_first=first, factor=factor, keep_signs=kept == "signs",
    )  # fmt: skip
    assert_close(y, want, "y")
    assert_layout(y, last)
    if kept == "z":
        assert_close(found, want_z, "z")
        assert_layout(found, last)
    elif kept == "signs":
        clear = acted.abs() > 1e-2  # an element so near zero may fall on either side
        assert found.dtype == torch.bool and torch.equal(found[clear], _activations.signs_of(acted, act)[clear])
        assert_layout(found, last)
    else:
        assert found.shape == (0,)


def test_an_odd_address(monkeypatch):
    """The copy engine reads from multiples of 16 bytes: a residual that begins elsewhere is copied once."""
    from ganfast.ops.conv_transpose_act import triton_tma

    read, plain = [], triton_tma._describe
    monkeypatch.setattr(triton_tma, "_describe", lambda tensor, *args: read.append(tensor.data_ptr()) or plain(tensor, *args))
    x, weight = (in_layout(torch.randn(shape).half(), True) for shape in ((1, 16, 4, 4), (16, 64, 2, 2)))
    residual = torch.randn(1 + 8 * 8 * 64).half()[1:].view(1, 8, 8, 64).permute(0, 3, 1, 2)
    geometry = ([2, 2], [0, 0], [0, 0], [1, 1])
    y, *_ = backend("conv_transpose_act").conv_transpose_act_fwd_triton(
        x, weight, None, None, *geometry, 1, "linear", 0.0, True, False, False, "tma-1x4x4x64x16-w4s2", residual=residual
    )
    assert_close(y, convolve(x, weight, None, geometry, 1) + residual, "y", scale=8.0)
    assert residual.data_ptr() % 16 and not any(pointer % 16 for pointer in read)
