"""Convolution + activation, a discriminator's layer, against eager's two modules in both layouts; and R3GAN's residual block."""

import pytest
import torch
from torch import nn

import ganfast.functional as GF
import ganfast.nn as gnn
from benchmarks.bench_conv_transpose_act import ACTS, ALPHA, same_parameters
from benchmarks.case_types import BlockCase, ConvCase, convolution_bytes, label, on
from benchmarks.cases import BLOCK, CONV, SECOND_ORDER
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, Subject, takes_max_autotune
from tests.families.r3gan import SLOPE, ResidualBlock

_CASES = on(DEVICE, CONV)


class _Block(nn.Module):
    """The end of a residual block. What is added is a constant: its gradient would be y's own."""

    def __init__(self, conv: nn.Conv2d, residual: torch.Tensor, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.act = conv, act
        self.register_buffer("residual", residual)

    def forward(self, x):
        if self.act is None:
            return self.conv(x, residual=self.residual)
        return self.act(self.conv(x)) + self.residual


def _layer(case: ConvCase) -> Subject:
    sizes = (case.c_in, case.c_out, case.kernel, case.stride, case.padding)
    eager = nn.Sequential(nn.Conv2d(*sizes, groups=case.groups), ACTS[case.act]())
    fused = gnn.ConvAct2d(*sizes, groups=case.groups, act=case.act, alpha=ALPHA.get(case.act))
    same_parameters(eager, fused)
    if case.residual:
        residual = torch.randn(case.batch, case.c_out, *case.size)  # these convolutions keep the size
        eager, fused = _Block(eager[0], residual, eager[1]), _Block(fused, residual.clone())
    return Subject(eager, fused, torch.randn(case.batch, case.c_in, *case.size))


def _measure(bench, case, dtype, mode):
    item = torch.finfo(DTYPES[dtype]).bits // 8
    flops = {"fwd": case.flops(), "fwd+bwd": 3 * case.flops()}.get(mode)
    row = {"op": "conv_act", "c_in": case.c_in, "bytes": convolution_bytes(case.elements(), mode, item), "flops": flops}
    bench.modules(_layer, case, dtype, mode, row, dims=2, tiny=case.tiny(), max_autotune=takes_max_autotune(case, dtype, mode))


@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _CASES, ids=label)
def test_layer(bench, case, dtype, mode):
    _measure(bench, case, dtype, mode)


@pytest.mark.parametrize("case", [case for case in _CASES if case.name in SECOND_ORDER], ids=label)
def test_second_order(bench, case):
    _measure(bench, case, "fp32", "second order")


class _FusedBlock(ResidualBlock):
    def forward(self, x):
        y = x
        for conv, act in ((self.expand, self.act1), (self.mix, self.act2)):
            y = GF.conv_act(y, conv.layer.weight.to(x.dtype), padding=conv.layer.padding, groups=conv.layer.groups)
            y = GF.bias_act(y, act.bias, act="leaky_relu", alpha=SLOPE, gain=act.gain)
        return GF.conv_act(y, self.project.layer.weight.to(x.dtype), residual=x)


def _block(case: BlockCase) -> Subject:
    sizes = case.channels, case.inner // case.channels, case.inner // case.groups
    eager, fused = ResidualBlock(*sizes), _FusedBlock(*sizes)
    same_parameters(eager, fused)
    return Subject(eager, fused, torch.randn(case.batch, case.channels, *case.size))


@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", on(DEVICE, BLOCK), ids=label)
def test_block(bench, case, dtype, mode):
    row = {"op": "r3gan_block", "bytes": None, "flops": case.flops() * (3 if mode == "fwd+bwd" else 1)}
    bench.modules(_block, case, dtype, mode, row, dims=2, tiny=case.tiny())
