"""The configurations that `auto` may pick on a CPU: each equals the plain call; and the static rule."""

import os
import subprocess
import sys

import pytest
import torch

from ganfast.ops.conv_transpose_act import choice, kernels, torch_backend, torch_faults
from ganfast.ops.conv_transpose_act import op as conv
from ganfast.testing import assert_close_to_reference

# kernel, stride, padding, output_padding, whether a pixel shuffle computes it
GEOMETRY = {
    "k4 s2 p1": ((4, 4), (2, 2), (1, 1), (0, 0), True),
    "k6 s2 p2": ((6, 6), (2, 2), (2, 2), (0, 0), True),
    "k2 s2": ((2, 2), (2, 2), (0, 0), (0, 0), True),
    "k3 s2 p1 o1": ((3, 3), (2, 2), (1, 1), (1, 1), True),
    "k5 s3 p1": ((5, 5), (3, 3), (1, 1), (0, 0), True),
    "k1 s2 o1": ((1, 1), (2, 2), (0, 0), (1, 1), True),
    "mixed kernel": ((4, 3), (2, 2), (1, 1), (0, 1), True),
    "k4 s2 p0": ((4, 4), (2, 2), (0, 0), (0, 0), False),
    "two strides": ((4, 3), (2, 1), (1, 1), (0, 0), False),
    "s1": ((3, 3), (1, 1), (1, 1), (0, 0), False),
}


def arguments(name, dtype, channels_last, c_out=3):
    kernel, stride, padding, output_padding, _ = GEOMETRY[name]
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    x, weight = torch.randn(2, 6, 5, 7), torch.randn(6, c_out, *kernel) / 6
    x, weight = (t.to(dtype).contiguous(memory_format=fmt) for t in (x, weight))
    return x, weight, torch.randn(c_out).to(dtype), stride, padding, output_padding


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", ["torch/nchw", "torch/nhwc", "torch/shuffle", "torch/float32"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_a_configuration_equals_the_plain_call(name, config, dtype, channels_last):
    x, weight, bias, *geometry = arguments(name, dtype, channels_last)
    stride, padding, _ = geometry
    assert torch_backend.can_shuffle(x.shape[2:], weight.shape[2:], *geometry, (1, 1), 1) == GEOMETRY[name][4]
    if config == "torch/shuffle" and not GEOMETRY[name][4]:
        return
    run = lambda x, w, b, backend: kernels.fwd(
        x, w, b, None, *geometry, (1, 1), 1, "silu", 0.0, channels_last, True, True, backend
    )  # fmt: skip
    got, plain = run(x, weight, bias, config), run(x, weight, bias, "torch")
    exact = run(x.double(), weight.double(), bias.double(), "reference")
    assert_close_to_reference(*zip(("y", "z"), got[:2], plain[:2], exact[:2], strict=True))
    assert got[0].stride() == plain[0].stride() and got[1].stride() == plain[1].stride()
    torch.testing.assert_close(got[2], plain[2], rtol=0.02, atol=0.02)
    if config == "torch/shuffle":
        return
    gz = torch.randn_like(got[0])

    def gradients(gz, x, weight, backend):
        common = (stride, padding, (1, 1), 1)
        gx = kernels.data_grad(gz, weight, *common, x.shape[2:], channels_last, backend)
        return gx, kernels.weight_grad(gz, x, weight, *common, channels_last, backend)

    mine = gradients(gz, x, weight, config)
    exact = gradients(gz.double(), x.double(), weight.double(), "torch")
    assert_close_to_reference(*zip(("gx", "gweight"), mine, gradients(gz, x, weight, "torch"), exact, strict=True))
    assert mine[0].stride() == x.stride() and mine[1].stride() == weight.stride()


@pytest.mark.parametrize("multiplies", [True, False])
def test_float32_is_offered_where_16_bit_products_are_emulated(monkeypatch, multiplies):
    monkeypatch.setattr(torch_faults, "lacks_kernels", lambda dtype: dtype == torch.float16)
    monkeypatch.setattr(torch_faults, "_multiplies_bfloat16", lambda: multiplies)
    spec = choice.Spec((1, 1), (1, 1), (0, 0), (1, 1), 1, "linear", 0.0, False, False, False, "auto", "auto", "auto")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        names = choice._ways(torch.randn(2, 16, 8, 8).to(dtype), torch.randn(16, 16, 3, 3).to(dtype), (8, 8), False, spec)
        assert ("torch/float32" in names) == (dtype == torch.bfloat16 and not multiplies)


@pytest.mark.parametrize("stride", [1, 2])
def test_float32_copies_round_once_and_torch_never_sees_16_bits(monkeypatch, stride):
    x, weight = torch.randn(2, 16, 8, 8).bfloat16(), torch.randn(16, 16, 3, 3).bfloat16()
    seen, plain = [], torch_backend.CONV[2]
    seeing = lambda x, *args: seen.append(x.dtype) or plain(x, *args)
    monkeypatch.setattr(torch_backend, "CONV", (None, None, seeing, None))
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = kernels.conv(x, weight, None, None, (stride, stride), (1, 1), (1, 1), 1, "linear", 0.0, False, False, "torch/float32")
    assert seen == [torch.float32] and torch.equal(y, plain(x.float(), weight.float(), None, stride, 1).bfloat16())


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dtype", "wanted"),
    [
        ((2, 8, 1, 1), 4, 1, 0, torch.float32, "cpu"),
        ((2, 8, 8, 8), 4, 2, 1, torch.float32, "cpu"),
        ((2, 8, 8, 8), 4, 2, 1, torch.bfloat16, "torch/shuffle"),
        ((2, 8, 8, 8), 4, 2, 0, torch.bfloat16, "cpu"),
        ((2, 8, 8), 4, 2, 1, torch.float32, "torch"),
    ],
)
def test_the_static_rule_for_few_channels(shape, kernel, stride, padding, dtype, wanted):
    weight = torch.randn(8, 3, *[kernel] * (len(shape) - 2), dtype=dtype)
    plan = conv.planned(torch.randn(shape, dtype=dtype), weight, None, stride, padding, 0, 1, 1, "linear", None, False, "auto", False)
    assert (plan.spec.backend, plan.final) == (wanted, True)
    many = torch.randn(8, 32, *[kernel] * (len(shape) - 2), dtype=dtype)
    expected = "cpu" if shape[2:] == (1, 1) else "torch"
    assert choice.static_forward(torch.randn(shape, dtype=dtype), many, plan.spec) == expected


def test_bfloat16_where_the_processor_has_no_kernels_for_it():
    """oneDNN told that there is no AVX-512: the first layer's GEMM, forward and backward, by the static rule."""
    code = """
import torch, ganfast.functional as GF
x, w = torch.randn(4, 10, 1, 1).bfloat16().requires_grad_(), torch.randn(10, 8, 4, 4).bfloat16().requires_grad_()
y = GF.conv_transpose_act(x, w)
gx, gw = torch.autograd.grad(y.float().sum(), (x, w))
assert torch.allclose(y.float(), torch.conv_transpose2d(x.float(), w.float()), rtol=0.05, atol=0.1)
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "GANFAST_TUNE": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
