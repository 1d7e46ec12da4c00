"""Group norm, layer norm and norms with an affine or a residual from outside, each + activation, against eager's calls in both layouts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast.functional as GF
from benchmarks.bench_conv_transpose_act import ACTS, ALPHA, same_parameters
from benchmarks.case_types import label, on
from benchmarks.cases import GROUP_NORM, MODULATED
from benchmarks.machine import DEVICE
from benchmarks.norm_cases import GroupNormCase, ModulatedCase
from benchmarks.rivals import DTYPES, Subject

_GROUP, _MODULATED = on(DEVICE, GROUP_NORM), on(DEVICE, MODULATED)
# Accesses per element of the fused passes: forward x, x, y; backward gy, x, gy, x, gx. With tensors of x's shape beside x: each once
# forward; scale and shift twice backward, and their gradients written; a residual twice backward, and its gradient written.
_ACCESSES = {"fwd": 3, "fwd+bwd": 8}
_BESIDE = {"maps": {"fwd": 2, "fwd+bwd": 8}, "residual": {"fwd": 1, "fwd+bwd": 4}}


def _column(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return t.view(*t.shape, *[1] * (x.dim() - t.dim()))


class _Norm(nn.Module):
    """What comes from outside learns: its gradient is part of the backward, as that of a network that makes it would be."""

    def __init__(self, case, outside: str, affine: bool) -> None:
        super().__init__()
        self.case, shape = case, (case.batch, case.channels, *case.size)
        if affine:
            self.weight, self.bias = nn.Parameter(torch.rand(case.channels) + 0.5), nn.Parameter(torch.randn(case.channels))
        if outside in ("vectors", "maps"):
            shape = shape if outside == "maps" else shape[:2]
            self.scale, self.shift = nn.Parameter(1 + 0.3 * torch.randn(shape)), nn.Parameter(torch.randn(shape))
        if outside == "residual":
            self.residual = nn.Parameter(torch.randn(shape))
        self.act = ACTS[case.act]()

    def outside(self) -> dict:
        return {name: p for name, p in self.named_parameters() if name in ("scale", "shift", "residual")}

    def after(self, z: torch.Tensor) -> torch.Tensor:
        given = self.outside()
        if "scale" in given:
            z = z * _column(self.scale, z) + _column(self.shift, z)
        return self.act(z + self.residual if "residual" in given else z)


class _EagerGroup(_Norm):
    def forward(self, x):
        case = self.case
        if not case.size:
            return self.after(F.layer_norm(x, (case.channels,), self.weight, self.bias))
        return self.after(F.group_norm(x, case.groups, self.weight, self.bias))


class _FusedGroup(_Norm):
    def forward(self, x):
        options = {"act": self.case.act, "alpha": ALPHA.get(self.case.act)}
        return GF.group_norm_act(x, self.case.groups, self.weight, self.bias, **options, **self.outside())


class _EagerModulated(_Norm):
    def forward(self, x):
        return self.after(F.instance_norm(x) if self.case.norm == "instance" else F.batch_norm(x, None, None, training=True))


class _FusedModulated(_Norm):
    def forward(self, x):
        options = {"act": self.case.act, "alpha": ALPHA.get(self.case.act)} | self.outside()
        options |= {"residual_first": True} if self.case.outside == "residual" else {}
        if self.case.norm == "instance":
            return GF.instance_norm_act(x, **options)
        return GF.batch_norm_act(x, None, None, training=True, **options)


def group(case: GroupNormCase) -> Subject:
    outside = "vectors" if case.embedding else ""
    eager, fused = _EagerGroup(case, outside, True), _FusedGroup(case, outside, True)
    same_parameters(eager, fused)
    return Subject(eager, fused, torch.randn(case.batch, case.channels, *case.size))


def modulated(case: ModulatedCase) -> Subject:
    eager, fused = _EagerModulated(case, case.outside, False), _FusedModulated(case, case.outside, False)
    same_parameters(eager, fused)
    return Subject(eager, fused, torch.randn(case.batch, case.channels, *case.size))


def _measure(bench, case, dtype, mode, op, subject, beside=0):
    moved = case.elements() * torch.finfo(DTYPES[dtype]).bits // 8 * (_ACCESSES[mode] + beside)
    bench.modules(subject, case, dtype, mode, {"op": op, "bytes": moved, "flops": None}, dims=len(case.size), tiny=case.tiny())


@pytest.mark.parametrize("mode", _ACCESSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _GROUP, ids=label)
def test_group_norm(bench, case, dtype, mode):
    _measure(bench, case, dtype, mode, "group_norm_act", group)


@pytest.mark.parametrize("mode", _ACCESSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _MODULATED, ids=label)
def test_modulated(bench, case, dtype, mode):
    _measure(bench, case, dtype, mode, "modulated norm", modulated, _BESIDE.get(case.outside, {}).get(mode, 0))
