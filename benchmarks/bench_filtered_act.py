"""filtered_act against the published chains in eager torch: StyleGAN3's of zeros, padding and a grouped convolution a dimension each way
around the activation, in both layouts, and BigVGAN's of replicated borders, a grouped transposed convolution, snake_beta and a grouped
convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast.functional as GF
from benchmarks.case_types import label, on
from benchmarks.machine import DEVICE
from benchmarks.resampling_cases import FILTERED_ACT, FilteredActCase
from benchmarks.rivals import DTYPES, Subject

_CASES = on(DEVICE, FILTERED_ACT)
_GAIN, _CLAMP, _SLOPE = math.sqrt(2), 256.0, 0.2


class _Activation(nn.Module):
    def __init__(self, case: FilteredActCase) -> None:
        super().__init__()
        self.case = case
        for name, values in (("up_filter", case.up_filter), ("down_filter", case.down_filter)):
            taps = torch.tensor(values)
            self.register_buffer(name, taps / taps.sum())
        if case.act == "snake_beta":
            self.alpha, self.beta = (nn.Parameter(0.3 * torch.randn(case.channels)) for _ in range(2))
        else:
            self.bias = nn.Parameter(torch.randn(case.channels))


def _over(x: torch.Tensor, taps: torch.Tensor, stride: int) -> torch.Tensor:
    """Each channel of x [N, C, H, W] along one dimension after the other."""
    for dim in range(2):
        shape, strides = [1, 1], [1, 1]
        shape[dim], strides[dim] = -1, stride
        x = F.conv2d(x, taps.view(1, 1, *shape).expand(x.shape[1], -1, -1, -1), stride=strides, groups=x.shape[1])
    return x


class _EagerPlanes(_Activation):
    def up(self, x):
        case = self.case
        x = x + self.bias.view(1, -1, 1, 1)
        for dim in range(2, x.dim()):
            x = F.pad(x.unsqueeze(dim + 1), [0, 0] * (x.dim() - dim - 1) + [0, case.up - 1]).flatten(dim, dim + 1)
        return _over(F.pad(x, list(case.padding)), (self.up_filter * case.up).flip(0).to(x.dtype), 1)

    def forward(self, x):
        x = (F.leaky_relu(self.up(x), _SLOPE) * _GAIN).clamp(-_CLAMP, _CLAMP)
        return _over(x, self.down_filter.flip(0).to(x.dtype), self.case.down)

    def apart_from_kinks(self, x, rounding):
        """Results that no value near 0 reaches: on which side of it one falls is nobody's error."""
        u = self.up(x)
        near = (u.abs() <= rounding * u.abs().max()).to(x.dtype)
        return _over(near, torch.ones_like(self.down_filter, dtype=x.dtype), self.case.down) == 0


class _EagerLines(_Activation):
    def forward(self, x):
        channels, k, ratio = x.shape[1], len(self.case.up_filter), self.case.up
        weight = lambda taps: taps.to(x.dtype).view(1, 1, -1).expand(channels, -1, -1)
        pad = k // ratio - 1
        cut = (pad * ratio + (k - ratio) // 2, pad * ratio + (k - ratio + 1) // 2)
        x = ratio * F.conv_transpose1d(F.pad(x, (pad, pad), mode="replicate"), weight(self.up_filter), stride=ratio, groups=channels)
        x = x[..., cut[0] : -cut[1]]
        alpha, beta = self.alpha.exp().view(1, -1, 1), self.beta.exp().view(1, -1, 1)
        x = x + (1.0 / (beta + 1e-9)) * torch.pow(torch.sin(x * alpha), 2)
        return F.conv1d(F.pad(x, (k // 2 - 1, k // 2), mode="replicate"), weight(self.down_filter), stride=ratio, groups=channels)


class _Fused(_Activation):
    def forward(self, x):
        case = self.case
        options = {"up_filter": self.up_filter, "down_filter": self.down_filter, "up": case.up, "down": case.down, "act": case.act}
        if case.act == "snake_beta":
            return GF.filtered_act(x, padding_mode="replicate", alpha=self.alpha, beta=self.beta, log_scale=True, **options)
        return GF.filtered_act(x, self.bias, padding=case.padding, alpha=_SLOPE, gain=_GAIN, clamp=_CLAMP, **options)


def layer(case: FilteredActCase) -> Subject:
    eager = (_EagerLines if case.act == "snake_beta" else _EagerPlanes)(case)
    fused = _Fused(case)
    fused.load_state_dict(eager.state_dict())
    return Subject(eager, fused, torch.randn(case.batch, case.channels, *case.size))


@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _CASES, ids=label)
def test_filtered_act(bench, case, dtype, mode):
    accesses = (case.elements() + case.results()) * (1 if mode == "fwd" else 2)  # each pass reads one side and writes the other
    if mode == "fwd+bwd" and case.act == "snake_beta":
        accesses += case.elements()  # x again
    moved = accesses * torch.finfo(DTYPES[dtype]).bits // 8
    row = {"op": "filtered_act", "bytes": moved, "flops": None}
    bench.modules(layer, case, dtype, mode, row, dims=len(case.size), tiny=case.tiny())
