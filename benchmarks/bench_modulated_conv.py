"""modulated_conv against eager torch in both of its forms and both layouts: a weight for every image, all images as groups of one
convolution; and the input scaled, one weight, the result scaled. Each with noise, bias, leaky ReLU and gain, the filter as separable
convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganfast.functional as GF
from benchmarks.bench_conv_transpose_act import same_parameters
from benchmarks.case_types import label, on
from benchmarks.machine import DEVICE
from benchmarks.modulated_cases import MODULATED_CONV, ModulatedConvCase
from benchmarks.rivals import DTYPES, Subject

_CASES = on(DEVICE, MODULATED_CONV)
_MODES = ("fwd", "fwd+bwd")
_GAIN = 2**0.5


class _Layer(nn.Module):
    """What style and noise come from is not part of it: both learn here."""

    def __init__(self, case: ModulatedConvCase) -> None:
        super().__init__()
        self.case, side = case, case.size * case.up
        self.weight = nn.Parameter(torch.randn(case.c_out, case.c_in, case.kernel, case.kernel))
        self.style = nn.Parameter(1 + 0.3 * torch.randn(case.batch, case.c_in))
        self.bias = nn.Parameter(torch.randn(case.c_out))
        if not case.rgb():
            self.noise = nn.Parameter(0.1 * torch.randn(case.batch, 1, side, side))
        self.register_buffer("filter", torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8)

    def finished(self, t: Tensor) -> Tensor:
        t = t + self.bias[:, None, None]
        return t if self.case.rgb() else F.leaky_relu(t, 0.2) * _GAIN

    def blurred(self, t: Tensor) -> Tensor:
        """After the transposed convolution, times 4 for the zeros between."""
        for shape in ((1, 1, 4, 1), (1, 1, 1, 4)):
            t = F.conv2d(F.pad(t, [int(n > 1) for n in reversed(shape[2:]) for _ in range(2)]),
                         (self.filter * 2).view(shape).expand(t.shape[1], -1, -1, -1), groups=t.shape[1])  # fmt: skip
        return t


class _Grouped(_Layer):
    def forward(self, x):
        case, n = self.case, x.shape[0]
        weight = self.weight * self.style[:, None, :, None, None]
        if not case.rgb():
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = x.reshape(1, -1, *x.shape[2:])
        if case.up == 2:
            weight = weight.transpose(1, 2).reshape(n * case.c_in, case.c_out, 3, 3)
            t = self.blurred(F.conv_transpose2d(x, weight, stride=2, groups=n).view(n, case.c_out, 2 * case.size + 1, -1))
        else:
            t = F.conv2d(x, weight.flatten(0, 1), padding=case.kernel // 2, groups=n).view(n, case.c_out, case.size, -1)
        return self.finished(t if case.rgb() else t + self.noise)


class _Scaled(_Layer):
    def forward(self, x):
        case = self.case
        x = x * self.style[:, :, None, None]
        if case.up == 2:
            t = self.blurred(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2))
        else:
            t = F.conv2d(x, self.weight, padding=case.kernel // 2)
        if case.rgb():
            return self.finished(t)
        d = (self.style.square() @ self.weight.square().sum((2, 3)).t() + 1e-8).rsqrt()
        return self.finished(torch.addcmul(self.noise, t, d[:, :, None, None]))


class _Fused(_Layer):
    def forward(self, x):
        case = self.case
        if case.rgb():
            return GF.modulated_conv(x, self.weight, self.style, demodulate=False, bias=self.bias)
        return GF.modulated_conv(
            x, self.weight, self.style, up=case.up, filter=self.filter, padding=case.kernel // 2, flip=case.up == 1,
            noise=self.noise, bias=self.bias, act="leaky_relu", alpha=0.2, gain=_GAIN,
        )  # fmt: skip


def layer(case: ModulatedConvCase) -> Subject:
    scaled, grouped, fused = _Scaled(case), _Grouped(case), _Fused(case)
    for other in (grouped, fused):
        same_parameters(scaled, other)
        other.load_state_dict(scaled.state_dict())
    return Subject(scaled, fused, torch.randn(case.batch, case.c_in, case.size, case.size), {"grouped": grouped})


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", _CASES, ids=label)
def test_modulated_conv(bench, case, dtype, mode):
    item = torch.finfo(DTYPES[dtype]).bits // 8
    row = {"op": "modulated_conv", "bytes": case.bytes(mode, item), "flops": case.flops() * (1 if mode == "fwd" else 3)}
    bench.modules(layer, case, dtype, mode, row, dims=2, tiny=case.tiny())
