"""Transposed convolution + activation, and with batch norm between them, against eager in both layouts."""

import copy

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from benchmarks.cases import CHAIN, CONV_TRANSPOSE, ConvTransposeCase
from benchmarks.harness import DEVICE, DTYPES, forward_backward, gate, layouts, run

_TORCH = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FUSED = {1: gnn.ConvTransposeAct1d, 2: gnn.ConvTransposeAct2d, 3: gnn.ConvTransposeAct3d}
_ACT = {"relu": lambda: nn.ReLU(inplace=True), "tanh": nn.Tanh, "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True)}
_ALPHA = {"leaky_relu": 0.1}


class _Fused(nn.Module):
    def __init__(self, case: ConvTransposeCase):
        super().__init__()
        norm = case.norm and len(case.size) == 2
        act = {} if norm else {"act": case.act, "alpha": _ALPHA.get(case.act)}
        self.conv = _FUSED[len(case.size)](case.c_in, case.c_out, case.kernel, case.stride, case.padding, bias=not norm, **act)
        self.norm = gnn.BatchNormAct2d(case.c_out, act=case.act, alpha=_ALPHA.get(case.act)) if norm else None

    def forward(self, x):
        if self.norm is None:
            return self.conv(x)
        z, partials = self.conv(x, return_partials=True)
        return self.norm(z, partials=partials)


def _eager(case: ConvTransposeCase, with_norm: bool) -> nn.Module:
    conv = _TORCH[len(case.size)](case.c_in, case.c_out, case.kernel, case.stride, case.padding, bias=not with_norm)
    layers = [conv, *([nn.BatchNorm2d(case.c_out)] if with_norm else []), _ACT[case.act]()]
    return nn.Sequential(*layers)


def _bench(benchmark, case: ConvTransposeCase, dtype_name: str, mode: str, with_norm: bool):
    dtype, dims = DTYPES[dtype_name], len(case.size)
    torch.manual_seed(0)
    eager = _eager(case, with_norm)
    fused = _Fused(case if with_norm else case._replace(norm=False))
    for source, target in zip(eager.parameters(), fused.parameters(), strict=True):
        target.data.copy_(source.data)
    x = torch.randn(case.batch, case.c_in, *case.size)
    with torch.no_grad():
        gy = torch.randn_like(eager(x)) if mode == "fwd+bwd" else None
    rivals, outputs = {}, {}
    for layout, fmt in layouts(dims).items():
        for name, model in (("eager", eager), ("ganfast", fused)):
            own = copy.deepcopy(model).to(DEVICE, dtype)
            if dims > 1:
                own = own.to(memory_format=fmt) if dims == 2 else own
            xi = x.to(DEVICE, dtype).contiguous(memory_format=fmt).requires_grad_(mode == "fwd+bwd")
            gi = None if gy is None else gy.to(DEVICE, dtype).contiguous(memory_format=fmt)
            rivals[f"{name}-{layout}"] = lambda own=own, xi=xi, gi=gi: forward_backward(own, xi, gi)
            outputs[f"{name}-{layout}"] = forward_backward(own, xi, gi)
    exact = forward_backward(
        copy.deepcopy(eager).double(), x.to(dtype).double().requires_grad_(mode == "fwd+bwd"), None if gy is None else gy.to(dtype).double()
    )
    for layout in layouts(dims):
        gate(case.name, outputs[f"ganfast-{layout}"], outputs[f"eager-{layout}"], {k: v.to(DEVICE) for k, v in exact.items()})
    op = "conv_transpose+batch_norm" if with_norm else "conv_transpose_act"
    flops = case.flops() * (3 if mode == "fwd+bwd" else 1)
    run(benchmark, rivals, {"op": op, "case": case.name, "dtype": dtype_name, "mode": mode, "flops": flops, "source": case.source})


@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_TRANSPOSE, ids=lambda c: c.name)
def test_layer(benchmark, case, dtype, mode):
    _bench(benchmark, case, dtype, mode, with_norm=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CHAIN, ids=lambda c: c.name)
def test_chain(benchmark, case, dtype):
    _bench(benchmark, case, dtype, "fwd+bwd", with_norm=True)
