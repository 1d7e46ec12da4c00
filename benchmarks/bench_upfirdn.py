"""upfirdn against the published chain in eager torch, in both layouts: zeros between, padding, a grouped convolution a dimension."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast.functional as GF
from benchmarks.case_types import label, on
from benchmarks.machine import DEVICE
from benchmarks.resampling_cases import UPFIRDN, UpfirdnCase
from benchmarks.rivals import DTYPES, Subject

_CASES = on(DEVICE, UPFIRDN)
_MODES = ("fwd", "fwd+bwd")
_CONV = (None, F.conv1d, F.conv2d)


class _Resampling(nn.Module):
    def __init__(self, case: UpfirdnCase) -> None:
        super().__init__()
        self.case = case
        taps = torch.tensor(case.filter)
        self.register_buffer("filter", taps / taps.sum())


class _Eager(_Resampling):
    def forward(self, x):
        case, dims = self.case, x.dim() - 2
        for dim in range(2, x.dim()) if case.up > 1 else ():
            x = F.pad(x.unsqueeze(dim + 1), [0, 0] * (x.dim() - dim - 1) + [0, case.up - 1]).flatten(dim, dim + 1)
        x = F.pad(x, list(case.padding))
        weight = (self.filter * case.gain ** (1 / dims)).flip(0).to(x.dtype)
        for dim in range(dims):
            shape, stride = [1] * dims, [1] * dims
            shape[dim], stride[dim] = -1, case.down
            x = _CONV[dims](x, weight.view(1, 1, *shape).expand(x.shape[1], *[-1] * (dims + 1)), stride=stride, groups=x.shape[1])
        return x


class _Fused(_Resampling):
    def forward(self, x):
        case = self.case
        return GF.upfirdn(x, self.filter, up=case.up, down=case.down, padding=case.padding, gain=case.gain)


def layer(case: UpfirdnCase) -> Subject:
    return Subject(_Eager(case), _Fused(case), torch.randn(case.batch, case.channels, *case.size))


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _CASES, ids=label)
def test_upfirdn(bench, case, dtype, mode):
    passes = 1 if mode == "fwd" else 2  # each reads one side and writes the other
    moved = (case.elements() + case.results()) * torch.finfo(DTYPES[dtype]).bits // 8 * passes
    row = {"op": "upfirdn", "bytes": moved, "flops": None}
    bench.modules(layer, case, dtype, mode, row, dims=len(case.size), tiny=case.tiny())
