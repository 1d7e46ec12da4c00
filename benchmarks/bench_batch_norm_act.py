"""Batch norm + activation, train mode, against eager's two modules in both layouts."""

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from benchmarks.cases import NORM, NormCase
from benchmarks.harness import DEVICE, DTYPES, LAYOUTS, forward_backward, gate, run

_SLOPE = 0.2


def _eager(case: NormCase) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(case.channels), nn.ReLU(inplace=True) if case.act == "relu" else nn.LeakyReLU(_SLOPE, inplace=True))


def _fused(case: NormCase) -> nn.Module:
    return gnn.BatchNormAct2d(case.channels, act=case.act, alpha=_SLOPE if case.act == "leaky_relu" else None)


@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NORM, ids=lambda c: c.name)
def test_norm(benchmark, case, dtype, mode):
    torch.manual_seed(0)
    x = torch.randn(case.batch, case.channels, *case.size)
    gy = torch.randn_like(x) if mode == "fwd+bwd" else None
    rivals, outputs = {}, {}
    for layout, fmt in LAYOUTS.items():
        xi = x.to(DEVICE, DTYPES[dtype]).contiguous(memory_format=fmt).requires_grad_(gy is not None)
        gi = None if gy is None else gy.to(DEVICE, DTYPES[dtype]).contiguous(memory_format=fmt)
        for name, build in (("eager", _eager), ("ganfast", _fused)):
            model = build(case).to(DEVICE, DTYPES[dtype])
            rivals[f"{name}-{layout}"] = lambda model=model, xi=xi, gi=gi: forward_backward(model, xi, gi)
            outputs[f"{name}-{layout}"] = forward_backward(model, xi, gi)
    double = x.to(DTYPES[dtype]).double().requires_grad_(gy is not None)
    exact = forward_backward(_eager(case).double(), double, None if gy is None else gy.to(DTYPES[dtype]).double())
    for layout in LAYOUTS:
        gate(case.name, outputs[f"ganfast-{layout}"], outputs[f"eager-{layout}"], {k: v.to(DEVICE) for k, v in exact.items()})
    bytes_moved = x.numel() * torch.finfo(DTYPES[dtype]).bits // 8 * (3 if gy is None else 8)
    run(
        benchmark,
        rivals,
        {"op": "batch_norm_act", "case": case.name, "dtype": dtype, "mode": mode, "bytes": bytes_moved, "source": case.source},
    )
