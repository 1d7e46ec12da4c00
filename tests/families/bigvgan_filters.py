"""BigVGAN (Lee et al. 2023) whole: every periodic activation between two filters, up by two before it and down by two after it, so that
the frequencies that it makes do not fold back."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.bigvgan import BigVGAN, SnakeBeta
from tests.families.family import Family, Groups, Real, noise


def kaiser_sinc_filter1d(cutoff, half_width, kernel_size):
    even = kernel_size % 2 == 0
    half_size = kernel_size // 2
    amplitude = 2.285 * (half_size - 1) * math.pi * 4 * half_width + 7.95
    beta = 0.1102 * (amplitude - 8.7) if amplitude > 50 else 0.5842 * (amplitude - 21) ** 0.4 + 0.07886 * (amplitude - 21.0)
    window = torch.kaiser_window(kernel_size, beta=beta, periodic=False)
    time = torch.arange(-half_size, half_size) + 0.5 if even else torch.arange(kernel_size) - half_size
    filter_ = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (filter_ / filter_.sum()).view(1, 1, kernel_size)


class UpSample1d(nn.Module):
    def __init__(self, ratio=2, kernel_size=None):
        super().__init__()
        self.ratio = ratio
        self.kernel_size = int(6 * ratio // 2) * 2 if kernel_size is None else kernel_size
        self.stride = ratio
        self.pad = self.kernel_size // ratio - 1
        self.pad_left = self.pad * self.stride + (self.kernel_size - self.stride) // 2
        self.pad_right = self.pad * self.stride + (self.kernel_size - self.stride + 1) // 2
        self.register_buffer("filter", kaiser_sinc_filter1d(0.5 / ratio, 0.6 / ratio, self.kernel_size))

    def forward(self, x):
        _, channels, _ = x.shape
        x = F.pad(x, (self.pad, self.pad), mode="replicate")
        x = self.ratio * F.conv_transpose1d(x, self.filter.expand(channels, -1, -1), stride=self.stride, groups=channels)
        return x[..., self.pad_left : -self.pad_right]


class LowPassFilter1d(nn.Module):
    def __init__(self, cutoff=0.5, half_width=0.6, stride=1, padding_mode="replicate", kernel_size=12):
        super().__init__()
        self.pad_left = kernel_size // 2 - int(kernel_size % 2 == 0)
        self.pad_right = kernel_size // 2
        self.stride, self.padding_mode = stride, padding_mode
        self.register_buffer("filter", kaiser_sinc_filter1d(cutoff, half_width, kernel_size))

    def forward(self, x):
        _, channels, _ = x.shape
        x = F.pad(x, (self.pad_left, self.pad_right), mode=self.padding_mode)
        return F.conv1d(x, self.filter.expand(channels, -1, -1), stride=self.stride, groups=channels)


class DownSample1d(nn.Module):
    def __init__(self, ratio=2, kernel_size=None):
        super().__init__()
        kernel_size = int(6 * ratio // 2) * 2 if kernel_size is None else kernel_size
        self.lowpass = LowPassFilter1d(0.5 / ratio, 0.6 / ratio, ratio, kernel_size=kernel_size)

    def forward(self, x):
        return self.lowpass(x)


class Activation1d(nn.Module):
    def __init__(self, activation, ratio=2, kernel_size=12):
        super().__init__()
        self.act = activation
        self.upsample = UpSample1d(ratio, kernel_size)
        self.downsample = DownSample1d(ratio, kernel_size)

    def forward(self, x):
        x = self.upsample(x)
        x = self.act(x)
        return self.downsample(x)


def filtered(activation):
    """How the networks of tests/families/bigvgan.py are asked for activations between filters."""
    return lambda channels, alpha_logscale: Activation1d(activation(channels, alpha_logscale=alpha_logscale))


def whole(path: str) -> tuple[str, ...]:
    """The layers of one activation's group."""
    return f"{path}.upsample", f"{path}.act", f"{path}.downsample.lowpass"


def _block(path: str) -> Groups:
    return [whole(f"{path}.activations.0"), (f"{path}.convs1.0",), whole(f"{path}.activations.1"), (f"{path}.convs2.0", "add()")]


ROWS = [
    Family(
        "bigvgan-filters-g",
        lambda: BigVGAN(8, 8, (2,), (4,), (3, 5), (1,), True, filtered(SnakeBeta)),
        noise(8, 12),
        [("conv_pre",), ("ups.0.0",), *_block("resblocks.0"), *_block("resblocks.1"), whole("activation_post"), ("conv_post", "tanh()")],
        real=Real(
            lambda: BigVGAN(100, 512, (8, 8, 2, 2), (16, 16, 4, 4), (3, 7, 11), (1, 3, 5), True, filtered(SnakeBeta)),
            noise(100, 32),
            1,
            "BigVGAN (Lee et al. 2023), base_24khz_100band: 512 channels, 8192 samples; batch 1, there 32",
        ),
    ).with_small(1),
]
