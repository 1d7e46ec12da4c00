"""Transposed convolution + activation, and with batch norm between them, against eager in both layouts."""

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from benchmarks.case_types import ConvTransposeCase, convolution_bytes, label, on
from benchmarks.cases import CHAIN, CONV_TRANSPOSE, SECOND_ORDER
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, Subject, takes_max_autotune

_TORCH = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FUSED = {1: gnn.ConvTransposeAct1d, 2: gnn.ConvTransposeAct2d, 3: gnn.ConvTransposeAct3d}
ACTS = {
    "linear": nn.Identity, "relu": lambda: nn.ReLU(inplace=True), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "prelu": nn.PReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True), "silu": nn.SiLU,
}  # fmt: skip
ALPHA = {"leaky_relu": 0.2}  # prelu learns its own, from torch's 0.25
_CASES = on(DEVICE, CONV_TRANSPOSE)


class _FusedChain(nn.Module):
    def __init__(self, case: ConvTransposeCase) -> None:
        super().__init__()
        self.conv = gnn.ConvTransposeAct2d(case.c_in, case.c_out, case.kernel, case.stride, case.padding, case.output_padding, bias=False)
        self.norm = gnn.BatchNormAct2d(case.c_out, act=case.act, alpha=ALPHA.get(case.act))

    def forward(self, x):
        z, partials = self.conv(x, return_partials=True)
        return self.norm(z, partials=partials)


def same_parameters(eager: nn.Module, fused: nn.Module) -> None:
    for source, target in zip(eager.parameters(), fused.parameters(), strict=True):
        target.data.copy_(source.data)


def layer(case: ConvTransposeCase) -> Subject:
    dims, sizes = len(case.size), (case.c_in, case.c_out, case.kernel, case.stride, case.padding, case.output_padding)
    eager = nn.Sequential(_TORCH[dims](*sizes), ACTS[case.act]())
    fused = _FUSED[dims](*sizes, act=case.act, alpha=ALPHA.get(case.act))
    same_parameters(eager, fused)
    return Subject(eager, fused, torch.randn(case.batch, case.c_in, *case.size))


def _chain(case: ConvTransposeCase) -> Subject:
    conv = nn.ConvTranspose2d(case.c_in, case.c_out, case.kernel, case.stride, case.padding, case.output_padding, bias=False)
    eager, fused = nn.Sequential(conv, nn.BatchNorm2d(case.c_out), ACTS[case.act]()), _FusedChain(case)
    same_parameters(eager, fused)
    return Subject(eager, fused, torch.randn(case.batch, case.c_in, *case.size))


def _measure(bench, case, dtype, mode, chain=False):
    item = torch.finfo(DTYPES[dtype]).bits // 8
    row = {"op": "conv_transpose+batch_norm" if chain else "conv_transpose_act", "c_in": case.c_in}
    row["bytes"] = None if chain else convolution_bytes(case.elements(), mode, item)
    row["flops"] = {"fwd": case.flops(), "fwd+bwd": 3 * case.flops()}.get(mode)
    tiny = case.tiny()
    if chain:
        tiny = tiny._replace(batch=2)  # train mode wants more than one value per channel
    bench.modules(
        _chain if chain else layer,
        case,
        dtype,
        mode,
        row,
        dims=len(case.size),
        tiny=tiny,
        max_autotune=takes_max_autotune(case, dtype, mode),
    )


@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _CASES, ids=label)
def test_layer(bench, case, dtype, mode):
    _measure(bench, case, dtype, mode)


@pytest.mark.parametrize("case", [case for case in _CASES if case.name in SECOND_ORDER], ids=label)
def test_second_order(bench, case):
    _measure(bench, case, "fp32", "second order")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", on(DEVICE, CHAIN), ids=label)
def test_chain(bench, case, dtype):
    _measure(bench, case, dtype, "fwd+bwd", chain=True)
