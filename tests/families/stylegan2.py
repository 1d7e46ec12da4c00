"""StyleGAN2 (Karras et al. 2020) as ports to plain torch write it: weights scaled at each call, each sample's own weights as groups,
noise, blurs, skip connections to the picture; a residual critic with the spread of its batch."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Groups, Real, images, noise


class PixelNorm(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    def __init__(self, in_dim, out_dim, bias_init=0.0, lr_mul=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_dim,), bias_init))
        self.scale, self.lr_mul = lr_mul / math.sqrt(in_dim), lr_mul

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)


class EqualConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.stride, self.padding = stride, padding

    def forward(self, x):
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class FusedLeakyReLU(nn.Module):
    def __init__(self, channels, slope=0.2, scale=2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.slope, self.scale = slope, scale

    def forward(self, x):
        return F.leaky_relu(x + self.bias, self.slope) * self.scale


class Blur(nn.Module):
    """The same small filter for every channel."""

    def __init__(self, pad, gain=1.0):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", gain * torch.outer(taps, taps) / taps.sum() ** 2)
        self.pad = pad

    def forward(self, x):
        channels = x.shape[1]
        x = F.pad(x, (*self.pad, *self.pad))
        return F.conv2d(x, self.kernel[None, None].repeat(channels, 1, 1, 1), groups=channels)


class ModulatedConv2d(nn.Module):
    """Each sample has its own weights: the batch becomes the groups of one picture."""

    def __init__(self, in_channels, out_channels, kernel_size, style_dim, demodulate=True, upsample=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.demodulate, self.upsample, self.padding = demodulate, upsample, kernel_size // 2
        if upsample:
            self.blur = Blur((1, 1), gain=4.0)

    def forward(self, x, style):
        batch, in_channels, height, width = x.shape
        style = self.modulation(style).view(batch, 1, in_channels, 1, 1)
        weight = self.scale * self.weight[None] * style
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        x = x.reshape(1, batch * in_channels, height, width)
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=batch)
        else:
            x = F.conv2d(x, weight.flatten(0, 1), padding=self.padding, groups=batch)
        x = x.view(batch, -1, *x.shape[2:])
        return self.blur(x) if self.upsample else x


class NoiseInjection(nn.Module):
    """The same noise at every call, as one takes it to edit a picture."""

    def __init__(self, size):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("noise", torch.randn(1, 1, size, size))

    def forward(self, x):
        return x + self.strength * self.noise


class StyledConv(nn.Module):
    def __init__(self, in_channels, out_channels, style_dim, size, upsample=False):
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim, upsample=upsample)
        self.noise = NoiseInjection(size)
        self.activate = FusedLeakyReLU(out_channels)

    def forward(self, x, style):
        return self.activate(self.noise(self.conv(x, style)))


class ToRGB(nn.Module):
    def __init__(self, in_channels, style_dim):
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x, style, skip=None):
        out = self.conv(x, style) + self.bias
        if skip is not None:
            out = out + F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)
        return out


class Generator(nn.Module):
    def __init__(self, style_dim=12, widths=(8, 8), n_mlp=2):
        super().__init__()
        mapping = [PixelNorm()]
        for _ in range(n_mlp):
            mapping += [EqualLinear(style_dim, style_dim, lr_mul=0.01), nn.LeakyReLU(0.2)]
        self.style = nn.Sequential(*mapping)
        self.input = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.conv1 = StyledConv(widths[0], widths[0], style_dim, 4)
        self.to_rgb1 = ToRGB(widths[0], style_dim)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for i, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
            self.convs.append(StyledConv(c_in, c_out, style_dim, 8 << i, upsample=True))
            self.convs.append(StyledConv(c_out, c_out, style_dim, 8 << i))
            self.to_rgbs.append(ToRGB(c_out, style_dim))

    def forward(self, z):
        style = self.style(z)
        x = self.conv1(self.input.repeat(z.shape[0], 1, 1, 1), style)
        skip = self.to_rgb1(x, style)
        for up, conv, to_rgb in zip(self.convs[::2], self.convs[1::2], self.to_rgbs):
            x = conv(up(x, style), style)
            skip = to_rgb(x, style, skip)
        return skip


def conv_layer(in_channels, out_channels, kernel_size, downsample=False, activate=True):
    layers = []
    if downsample:
        pad = 2 + kernel_size - 1
        layers.append(Blur(((pad + 1) // 2, pad // 2)))
    stride, padding = (2, 0) if downsample else (1, kernel_size // 2)
    layers.append(EqualConv2d(in_channels, out_channels, kernel_size, stride, padding))
    if activate:
        layers.append(FusedLeakyReLU(out_channels))
    return nn.Sequential(*layers)


class ResBlock(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = conv_layer(in_channels, in_channels, 3)
        self.conv2 = conv_layer(in_channels, out_channels, 3, downsample=True)
        self.skip = conv_layer(in_channels, out_channels, 1, downsample=True, activate=False)

    def forward(self, x):
        out = self.conv2(self.conv1(x))
        return (out + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """Its last convolution sees one channel more: how far the samples of a group lie apart."""

    def __init__(self, widths=(8, 8), group=4):
        super().__init__()
        self.group = group
        self.convs = nn.Sequential(conv_layer(3, widths[0], 1), *[ResBlock(a, b) for a, b in itertools.pairwise(widths)])
        self.final_conv = conv_layer(widths[-1] + 1, widths[-1], 3)
        self.linear1 = EqualLinear(widths[-1] * 4 * 4, widths[-1])
        self.linear2 = EqualLinear(widths[-1], 1)

    def minibatch_stddev(self, x):
        batch, channels, height, width = x.shape
        group = min(batch, self.group)
        y = x.view(group, -1, channels, height, width)
        y = torch.sqrt(y.var(0, unbiased=False) + 1e-8).mean([1, 2, 3], keepdim=True)
        return torch.cat([x, y.repeat(group, 1, height, width)], 1)

    def forward(self, x):
        x = self.convs(x)
        x = self.final_conv(self.minibatch_stddev(x)).flatten(1)
        return self.linear2(F.leaky_relu(self.linear1(x), 0.2))


def _styled(path: str, up: bool = False) -> tuple[str, ...]:
    return (f"{path}.conv.blur" if up else "conv2d()", f"{path}.noise", f"{path}.activate")


_TO_RGB = ("conv2d()", "add()")  # and its bias


def _residual(path: str) -> Groups:
    return [(f"{path}.conv1.0", f"{path}.conv1.1"), (f"{path}.conv2.0",), (f"{path}.conv2.1", f"{path}.conv2.2", "add()", "div()"),
            (f"{path}.skip.0",), (f"{path}.skip.1",)]  # fmt: skip


ROWS = [
    Family(
        "stylegan2-g",
        Generator,
        noise(12),
        [_styled("conv1"), _TO_RGB, _styled("convs.0", up=True), _styled("convs.1"), _TO_RGB],
        real=Real(
            lambda: Generator(256, (256, 256, 256, 128), 8),
            noise(256),
            2,
            "StyleGAN2 (Karras et al. 2020): 256 channels and a style of 256, there 512; 32x32, there 1024x1024",
        ),
    ).with_small(1),
    Family(
        "stylegan2-d",
        Discriminator,
        images(3, 8, 8),
        [("convs.0.0", "convs.0.1"), *_residual("convs.1"), ("final_conv.0", "final_conv.1")],
        batch=4,
        half="autocast",
        real=Real(
            lambda: Discriminator((128, 256, 256, 256)),
            images(3, 32, 32),
            4,
            "StyleGAN2 (Karras et al. 2020): 128 and 256 channels, there up to 512; 32x32, there 1024x1024",
        ),
    ),
]
