"""R3GAN (Huang et al. 2024): grouped convolutions without norms, by functions; the bias is added where the activation is."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Groups, Real, images, noise

SLOPE = 0.2


class Convolution(nn.Module):
    """Holds a layer for its weight alone, which it casts to the dtype of what comes in."""

    def __init__(self, in_channels, out_channels, kernel_size, groups=1, gain=1.0):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=(kernel_size - 1) // 2, groups=groups, bias=False)
        nn.init.normal_(self.layer.weight, 0.0, gain / math.sqrt(self.layer.weight[0].numel()))

    def forward(self, x):
        return F.conv2d(x, self.layer.weight.to(x.dtype), padding=self.layer.padding, groups=self.layer.groups)


class BiasedActivation(nn.Module):
    gain = math.sqrt(2 / (1 + SLOPE**2))

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        y = x + self.bias.to(x.dtype)[None, :, None, None]
        return F.leaky_relu(y, negative_slope=SLOPE) * self.gain


class ResidualBlock(nn.Module):
    """1x1 to more channels, 3x3 in groups, 1x1 back."""

    def __init__(self, channels, expansion, group_size):
        super().__init__()
        inner = channels * expansion
        self.expand = Convolution(channels, inner, 1, gain=BiasedActivation.gain)
        self.act1 = BiasedActivation(inner)
        self.mix = Convolution(inner, inner, 3, groups=inner // group_size, gain=BiasedActivation.gain)
        self.act2 = BiasedActivation(inner)
        self.project = Convolution(inner, channels, 1, gain=0.5)

    def forward(self, x):
        y = self.expand(x)
        y = self.mix(self.act1(y))
        y = self.project(self.act2(y))
        return x + y


class Resample(nn.Module):
    """The 1x1 convolution works at the lower resolution, and only where the number of channels changes."""

    def __init__(self, in_channels, out_channels, up):
        super().__init__()
        self.up = up
        if in_channels != out_channels:
            self.linear = Convolution(in_channels, out_channels, 1)

    def forward(self, x):
        if not self.up:
            x = F.avg_pool2d(x, 2)
        x = self.linear(x) if hasattr(self, "linear") else x
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return x


def stage(first, channels, blocks, expansion, group_size):
    return nn.Sequential(first, *(ResidualBlock(channels, expansion, group_size) for _ in range(blocks)))


class Basis(nn.Module):
    """4x4 pictures to begin with, scaled by the latent."""

    def __init__(self, latent, channels):
        super().__init__()
        self.pictures = nn.Parameter(torch.randn(channels, 4, 4))
        self.linear = nn.Linear(latent, channels, bias=False)

    def forward(self, z):
        return self.pictures[None] * self.linear(z)[:, :, None, None]


class Generator(nn.Module):
    def __init__(self, latent=12, widths=(16, 8), blocks=1, expansion=2, group_size=4):
        super().__init__()
        firsts = [Basis(latent, widths[0]), *(Resample(a, b, up=True) for a, b in itertools.pairwise(widths))]
        self.stages = nn.ModuleList([stage(first, width, blocks, expansion, group_size) for first, width in zip(firsts, widths)])
        self.to_rgb = Convolution(widths[-1], 3, 1)

    def forward(self, z):
        for layer in self.stages:
            z = layer(z)
        return self.to_rgb(z)


class Head(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.basis = nn.Conv2d(channels, channels, kernel_size=4, stride=1, padding=0, groups=channels, bias=False)
        self.linear = nn.Linear(channels, 1, bias=False)

    def forward(self, x):
        return self.linear(self.basis(x).view(x.shape[0], -1)).view(x.shape[0])


class Discriminator(nn.Module):
    def __init__(self, widths=(8, 16), blocks=1, expansion=2, group_size=4):
        super().__init__()
        firsts = [Convolution(3, widths[0], 1), *(Resample(a, b, up=False) for a, b in itertools.pairwise(widths))]
        self.stages = nn.ModuleList([stage(first, width, blocks, expansion, group_size) for first, width in zip(firsts, widths)])
        self.head = Head(widths[-1])

    def forward(self, x):
        for layer in self.stages:
            x = layer(x)
        return self.head(x)


def _block(path: str) -> Groups:
    return [(f"{path}.expand", f"{path}.act1"), (f"{path}.mix", f"{path}.act2"), (f"{path}.project", "add()")]


ROWS = [
    Family(
        "r3gan-g",
        Generator,
        noise(12),
        [*_block("stages.0.1"), ("stages.1.0.linear",), *_block("stages.1.1"), ("to_rgb",)],
        real=Real(
            lambda: Generator(64, (384, 384, 192, 192), group_size=16),
            noise(64),
            4,
            "R3GAN (Huang et al. 2024) at 32x32, 64 latents: 384 and 192 channels and a block a stage, there 768 and two, batch 512",
        ),
    ).with_small(4),
    Family(
        "r3gan-d",
        Discriminator,
        images(3, 8, 8),
        [("stages.0.0",), *_block("stages.0.1"), ("stages.1.0.linear",), *_block("stages.1.1"), ("head.basis",)],
        half="autocast",
    ),
]
