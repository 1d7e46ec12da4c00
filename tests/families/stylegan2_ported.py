"""StyleGAN2's generator (Karras et al. 2020) as the best known port to PyTorch spells it where its own kernels are missing: resampling in
plain calls, weights that change their form twice, biases as vectors."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Real, noise
from tests.families.stylegan2 import EqualLinear, NoiseInjection, PixelNorm


def upfirdn2d(x, kernel, up=1, down=1, pad=(0, 0)):
    before, after = pad
    _, channel, in_h, in_w = x.shape
    kernel_h, kernel_w = kernel.shape
    x = x.reshape(-1, in_h, in_w, 1)
    out = x.view(-1, in_h, 1, in_w, 1, 1)
    out = F.pad(out, [0, 0, 0, up - 1, 0, 0, 0, up - 1])
    out = out.view(-1, in_h * up, in_w * up, 1)
    out = F.pad(out, [0, 0, max(before, 0), max(after, 0), max(before, 0), max(after, 0)])
    out = out[:, max(-before, 0) : out.shape[1] - max(-after, 0), max(-before, 0) : out.shape[2] - max(-after, 0), :]
    out = out.permute(0, 3, 1, 2)
    out = out.reshape([-1, 1, in_h * up + before + after, in_w * up + before + after])
    out = F.conv2d(out, torch.flip(kernel, [0, 1]).view(1, 1, kernel_h, kernel_w))
    out = out.reshape(-1, 1, in_h * up + before + after - kernel_h + 1, in_w * up + before + after - kernel_w + 1)
    out = out.permute(0, 2, 3, 1)
    out = out[:, ::down, ::down, :]
    out_h, out_w = ((size * up + before + after - k + down) // down for size, k in ((in_h, kernel_h), (in_w, kernel_w)))
    return out.view(-1, channel, out_h, out_w)


class Resample(nn.Module):
    def __init__(self, pad, up=1, gain=1.0):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", gain * torch.outer(taps, taps) / taps.sum() ** 2)
        self.pad, self.up = pad, up

    def forward(self, x):
        return upfirdn2d(x, self.kernel, up=self.up, pad=self.pad)


class ModulatedConv2d(nn.Module):
    def __init__(self, in_channel, out_channel, kernel_size, style_dim, demodulate=True, upsample=False):
        super().__init__()
        self.in_channel, self.out_channel, self.kernel_size = in_channel, out_channel, kernel_size
        self.scale, self.padding = 1 / math.sqrt(in_channel * kernel_size**2), kernel_size // 2
        self.weight = nn.Parameter(torch.randn(1, out_channel, in_channel, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channel, bias_init=1.0)
        self.demodulate, self.upsample = demodulate, upsample
        if upsample:
            self.blur = Resample((1, 1), gain=4.0)

    def forward(self, x, style):
        batch, in_channel, height, width = x.shape
        style = self.modulation(style).view(batch, 1, in_channel, 1, 1)
        weight = self.scale * self.weight * style
        if self.demodulate:
            demod = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * demod.view(batch, self.out_channel, 1, 1, 1)
        weight = weight.view(batch * self.out_channel, in_channel, self.kernel_size, self.kernel_size)
        x = x.view(1, batch * in_channel, height, width)
        if not self.upsample:
            out = F.conv2d(x, weight, padding=self.padding, groups=batch)
            _, _, height, width = out.shape
            return out.view(batch, self.out_channel, height, width)
        weight = weight.view(batch, self.out_channel, in_channel, self.kernel_size, self.kernel_size)
        weight = weight.transpose(1, 2).reshape(batch * in_channel, self.out_channel, self.kernel_size, self.kernel_size)
        out = F.conv_transpose2d(x, weight, padding=0, stride=2, groups=batch)
        _, _, height, width = out.shape
        return self.blur(out.view(batch, self.out_channel, height, width))


class FusedLeakyReLU(nn.Module):
    def __init__(self, channel):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel))

    def forward(self, x):
        rest_dim = [1] * (x.ndim - self.bias.ndim - 1)
        return F.leaky_relu(x + self.bias.view(1, self.bias.shape[0], *rest_dim), negative_slope=0.2) * 2**0.5


class StyledConv(nn.Module):
    def __init__(self, in_channel, out_channel, style_dim, size, upsample=False):
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, out_channel, 3, style_dim, upsample=upsample)
        self.noise = NoiseInjection(size)
        self.activate = FusedLeakyReLU(out_channel)

    def forward(self, x, style):
        return self.activate(self.noise(self.conv(x, style)))


class ToRGB(nn.Module):
    def __init__(self, in_channel, style_dim, upsample=True):
        super().__init__()
        if upsample:
            self.upsample = Resample((2, 1), up=2, gain=4.0)
        self.conv = ModulatedConv2d(in_channel, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x, style, skip=None):
        out = self.conv(x, style) + self.bias
        return out if skip is None else out + self.upsample(skip)


class Generator(nn.Module):
    def __init__(self, style_dim, widths, n_mlp):
        super().__init__()
        mapping = [PixelNorm()]
        for _ in range(n_mlp):
            mapping += [EqualLinear(style_dim, style_dim, lr_mul=0.01), nn.LeakyReLU(0.2)]
        self.style = nn.Sequential(*mapping)
        self.input = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.conv1 = StyledConv(widths[0], widths[0], style_dim, 4)
        self.to_rgb1 = ToRGB(widths[0], style_dim, upsample=False)
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


_TO_RGB = ("conv2d()", "add()")  # and its bias

ROWS = [
    Family(
        "stylegan2-ported-g",
        lambda: Generator(12, (8, 8), 2),
        noise(12),
        [
            ("conv2d()", "conv1.noise", "conv1.activate"),
            _TO_RGB,
            ("convs.0.conv.blur", "convs.0.noise", "convs.0.activate"),
            ("conv2d()", "convs.1.noise", "convs.1.activate"),
            _TO_RGB,
            ("to_rgbs.0.upsample",),
        ],
        real=Real(
            lambda: Generator(512, (512, 512, 512, 512, 512, 256, 128), 8),
            noise(512),
            2,
            "StyleGAN2 (Karras et al. 2020): 256x256 of 512 to 128 channels; batch 2, there 32",
        ),
    ).with_small(1),
]
