"""Batch norm in train mode and instance norm, each + activation, against eager's two modules in both layouts."""

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from benchmarks.bench_conv_transpose_act import ACTS, ALPHA, same_parameters
from benchmarks.case_types import NormCase, label, on
from benchmarks.cases import INSTANCE_NORM, NORM, SECOND_ORDER
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, Subject

_CASES, _INSTANCE = on(DEVICE, NORM), on(DEVICE, INSTANCE_NORM)
# Accesses per element of the fused passes: forward x, x, y; backward gy, x, gy, x, gx.
_ACCESSES = {"fwd": 3, "fwd+bwd": 8}


def layer(case: NormCase, plain=nn.BatchNorm2d, ours=gnn.BatchNormAct2d) -> Subject:
    eager = nn.Sequential(plain(case.channels, affine=True), ACTS[case.act]())
    fused = ours(case.channels, affine=True, act=case.act, alpha=ALPHA.get(case.act))
    same_parameters(eager, fused)
    return Subject(eager, fused, torch.randn(case.batch, case.channels, *case.size))


def instance_layer(case: NormCase) -> Subject:
    return layer(case, nn.InstanceNorm2d, gnn.InstanceNormAct2d)


def _measure(bench, case, dtype, mode, op="batch_norm_act", subject=layer):
    moved = case.elements() * torch.finfo(DTYPES[dtype]).bits // 8 * _ACCESSES[mode] if mode in _ACCESSES else None
    row = {"op": op, "bytes": moved, "flops": None}
    bench.modules(subject, case, dtype, mode, row, dims=2, tiny=case.tiny())


@pytest.mark.parametrize("mode", _ACCESSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _CASES, ids=label)
def test_norm(bench, case, dtype, mode):
    _measure(bench, case, dtype, mode)


@pytest.mark.parametrize("mode", _ACCESSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _INSTANCE, ids=label)
def test_instance_norm(bench, case, dtype, mode):
    _measure(bench, case, dtype, mode, "instance_norm_act", instance_layer)


@pytest.mark.parametrize("case", [case for case in _INSTANCE if case.name in SECOND_ORDER], ids=label)
def test_instance_second_order(bench, case):
    _measure(bench, case, "fp32", "second order", "instance_norm_act", instance_layer)


@pytest.mark.parametrize("case", [case for case in _CASES if case.name in SECOND_ORDER], ids=label)
def test_second_order(bench, case):
    _measure(bench, case, "fp32", "second order")
