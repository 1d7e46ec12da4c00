"""Layers with equalised learning rates, and the filter of StyleGAN2, in plain torch.

Source: Karras, Aila, Laine & Lehtinen 2018, "Progressive growing of GANs", section 4.1 (weights from N(0, 1), scaled at each call); Karras
et al. 2020, "Analyzing and improving the image quality of StyleGAN" (activation, filter).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE, GAIN = 0.2, 2**0.5  # of the leaky ReLU, and what it is multiplied by: N(0, 1) in, about 1 out


class EqualLinear(nn.Module):
    """x [N, c_in] -> [N, c_out]. The weight is drawn from N(0, 1 / rate**2) and multiplied by rate / sqrt(c_in) at each call, the bias by
    rate: Adam's steps then change all layers equally fast, and one with rate 0.01 a hundredth as fast."""

    def __init__(self, c_in: int, c_out: int, *, bias: float = 0.0, rate: float = 1.0, act: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in) / rate)
        self.bias = nn.Parameter(torch.full((c_out,), bias / rate))
        self.scale, self.rate, self.act = rate / math.sqrt(c_in), rate, act

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.scale, self.bias * self.rate)
        return F.leaky_relu(y, SLOPE) * GAIN if self.act else y


class EqualConv2d(nn.Module):
    """x [N, c_in, H, W] -> [N, c_out, H', W'], the weight from N(0, 1) times 1 / sqrt(c_in k k)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.scale, self.stride, self.padding = 1 / math.sqrt(c_in * kernel**2), stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class BiasedActivation(nn.Module):
    """leaky_relu(x + a bias for each channel, 0.2) * gain."""

    def __init__(self, channels: int, gain: float = GAIN) -> None:
        super().__init__()
        self.bias, self.gain = nn.Parameter(torch.zeros(1, channels, 1, 1)), gain

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias, SLOPE) * self.gain


class _Filter(nn.Module):
    """[1, 3, 3, 1] along both dimensions, normalised to a sum of `gain`, the same for all channels."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("taps", gain * torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)

    def weight(self, x: Tensor) -> Tensor:
        return self.taps.to(x.dtype)[None, None].repeat(x.shape[1], 1, 1, 1)


class Blur(_Filter):
    """The filter after `padding` (before, after) zeros on each side."""

    def __init__(self, padding: tuple[int, int], gain: float = 1.0) -> None:
        super().__init__(gain)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (*self.padding, *self.padding)), self.weight(x), groups=x.shape[1])


class Upsample(_Filter):
    """[N, C, H, W] -> [N, C, 2H, 2W]: zeros between the pixels, then the filter times 4."""

    def __init__(self) -> None:
        super().__init__(4.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight(x), stride=2, padding=1, groups=x.shape[1])


def normalised(x: Tensor) -> Tensor:
    """[N, C], each row divided by the root of its mean square."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
