"""Decoders as in DC-AE (Chen et al. 2024): residual blocks, upsampling whose shortcut repeats channels, and an RMS norm that is written
out, which stays torch's calls: of it a group takes the shift alone."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Groups, Real, noise


class RMSNorm2d(nn.Module):
    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x):
        x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ResBlock(nn.Module):
    def __init__(self, channels, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = norm(channels)

    def forward(self, x):
        return self.norm(self.conv2(self.act(self.conv1(x)))) + x


class Upsample(nn.Module):
    """By a pixel shuffle, or by nearest neighbours before the convolution; the shortcut repeats channels and shuffles them."""

    def __init__(self, c_in, c_out, shuffle):
        super().__init__()
        self.shuffle, self.repeats = shuffle, 4 * c_out // c_in
        self.conv = nn.Conv2d(c_in, c_out * 4 if shuffle else c_out, 3, padding=1)

    def forward(self, x):
        y = F.pixel_shuffle(self.conv(x), 2) if self.shuffle else self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return y + F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2)


class Decoder(nn.Module):
    def __init__(self, latent=4, widths=(16, 8, 8), norms=(RMSNorm2d, nn.BatchNorm2d, lambda n: nn.GroupNorm(4, n)), blocks=1):
        super().__init__()
        self.repeats = widths[0] // latent
        self.conv_in = nn.Conv2d(latent, widths[0], 3, padding=1)
        self.stages = nn.ModuleList([nn.ModuleList([ResBlock(c, norm) for _ in range(blocks)]) for c, norm in zip(widths, norms)])
        self.ups = nn.ModuleList([Upsample(a, b, i == 0) for i, (a, b) in enumerate(itertools.pairwise(widths))])
        self.norm_out = RMSNorm2d(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z):
        x = self.conv_in(z) + z.repeat_interleave(self.repeats, dim=1)
        for i, stage in enumerate(self.stages):
            x = self.ups[i - 1](x) if i else x
            for block in stage:
                x = block(x)
        return self.conv_out(F.relu(self.norm_out(x)))


def _block(path: str, whole: bool = True) -> Groups:
    second = [(f"{path}.conv2", f"{path}.norm", "add()")] if whole else [(f"{path}.conv2",), (f"{path}.norm", "add()")]
    return [(f"{path}.conv1", f"{path}.act"), *second]


ROWS = [
    Family(
        "dcae-decoder",
        Decoder,
        noise(4, 2, 2),
        [
            ("conv_in", "add()"),
            *_block("stages.0.0", whole=False),
            ("ups.0.conv",),  # its pixels are shuffled before the sum
            *_block("stages.1.0"),
            ("interpolate()", "ups.1.conv", "add()"),
            *_block("stages.2.0"),
            ("norm_out", "relu()"),
            ("conv_out",),
        ],
        batch=2,
        real=Real(
            lambda: Decoder(32, (256, 256, 128), blocks=2),
            noise(32, 8, 8),
            1,
            "DC-AE (Chen et al. 2024), f32c32: three of six stages, 256 and 128 channels, a norm each, there RMS alone; 32x32",
        ),
    ),
]
