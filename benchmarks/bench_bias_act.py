"""Bias + activation + gain + clamp against eager's four operations in both layouts. No second order: these activations have none."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast.functional as GF
from benchmarks.bench_conv_transpose_act import ALPHA, same_parameters
from benchmarks.case_types import BiasCase, label, on
from benchmarks.cases import BIAS
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, Subject

_CASES = on(DEVICE, BIAS)
# Accesses per element of the fused passes: forward x, y; backward gy, y, gx.
_ACCESSES = {"fwd": 2, "fwd+bwd": 5}


class _Bias(nn.Module):
    def __init__(self, case: BiasCase) -> None:
        super().__init__()
        self.case = case
        self.bias = nn.Parameter(torch.randn(case.channels))
        residual = None if case.factor is None else torch.randn(case.batch, case.channels, *case.size)
        self.register_buffer("residual", residual)


class _Eager(_Bias):
    """Out of place the addition alone: the rest overwrites, as a careful user writes it."""

    def forward(self, x):
        case = self.case
        y = x + self.bias.view(1, -1, *[1] * len(case.size))
        y = F.leaky_relu(y, ALPHA[case.act], inplace=True) if case.act == "leaky_relu" else F.relu(y, inplace=True)
        y = y if case.gain == 1 else y * case.gain
        y = y if case.clamp is None else y.clamp(-case.clamp, case.clamp)
        return y if case.factor is None else (y + self.residual) * case.factor


class _Fused(_Bias):
    def forward(self, x):
        case = self.case
        added = {} if case.factor is None else {"residual": self.residual, "factor": case.factor}
        return GF.bias_act(x, self.bias, act=case.act, alpha=ALPHA.get(case.act), gain=case.gain, clamp=case.clamp, **added)


def layer(case: BiasCase) -> Subject:
    eager, fused = _Eager(case), _Fused(case)
    same_parameters(eager, fused)
    if case.factor is not None:
        fused.residual.copy_(eager.residual)
    x = torch.randn(case.batch, case.channels, *case.size)
    z = x + eager.bias.detach().view(1, -1, *[1] * len(case.size))
    return Subject(eager, fused, x + 0.2 * (z.abs() < 0.05))  # off the kink, also as bfloat16 rounds: gradients may differ there


@pytest.mark.parametrize("mode", _ACCESSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _CASES, ids=label)
def test_bias(bench, case, dtype, mode):
    accesses = _ACCESSES[mode] + (case.factor is not None)  # a residual is read once, forward
    moved = case.elements() * torch.finfo(DTYPES[dtype]).bits // 8 * accesses
    row = {"op": "bias_act", "bytes": moved, "flops": None}
    bench.modules(layer, case, dtype, mode, row, dims=len(case.size), tiny=case.tiny())
