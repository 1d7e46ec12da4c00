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
    """leaky_relu(x + a bias for each channel, 0.2) * sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias, SLOPE) * GAIN


class Blur(nn.Module):
    """[1, 3, 3, 1] along both dimensions, normalised to a sum of `gain`, after `padding` (before, after) zeros on each side."""

    def __init__(self, padding: tuple[int, int], gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("taps", gain * torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x, (*self.padding, *self.padding))
        return F.conv2d(x, self.taps.to(x.dtype)[None, None].repeat(channels, 1, 1, 1), groups=channels)


class Upsample(nn.Module):
    """[N, C, H, W] -> [N, C, 2H, 2W]: zeros between the pixels, then the filter of `Blur` times 4."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("taps", 4 * torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        taps = self.taps.to(x.dtype)[None, None].repeat(channels, 1, 1, 1)
        return F.conv_transpose2d(x, taps, stride=2, padding=1, groups=channels)


def normalised(x: Tensor) -> Tensor:
    """[N, C], each row divided by the root of its mean square."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def check_size(op: str, image_size: object, least: int = 8) -> int:
    """How many times 4x4 doubles to reach the image. Raises: ValueError for a size that is no power of two of at least `least`."""
    if not isinstance(image_size, int) or image_size < least or image_size & (image_size - 1):
        wants = f"a power of two of at least {least}; the networks double 4x4 step by step"
        raise ValueError(f"{op}: image_size got {image_size!r}, wants {wants}.")
    return image_size.bit_length() - 3


def widths_of(image_size: int, width: int, widest: int) -> list[int]:
    """Channels at 4x4, 8x8, ..., image_size: `width` at the last, twice as many at each half of it, `widest` at most."""
    levels = image_size.bit_length() - 2
    return [min(widest, width << (levels - 1 - i)) for i in range(levels)]
