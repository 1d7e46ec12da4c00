"""Residual blocks of classifiers and diffusion models, which serve as critics and one-step generators: He et al. 2016, in place all
through; and Dhariwal & Nichol 2021, where an embedding of the time scales and shifts a group norm."""

import itertools
import math

import torch
from torch import nn

from tests.families.family import Family, Groups, Real, images


class BasicBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNetCritic(nn.Module):
    def __init__(self, widths=(8, 16), blocks=1):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        layers = []
        for i, (c_in, c_out) in enumerate(zip((widths[0], *widths), widths)):
            layers += [BasicBlock(c_in if j == 0 else c_out, c_out, 2 if i and j == 0 else 1) for j in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], 1)

    def forward(self, x):
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


def timestep_embedding(timesteps, dim):
    freqs = torch.exp(-math.log(1000) * torch.arange(dim // 2, device=timesteps.device) / (dim // 2))
    args = timesteps[:, None].float() * freqs
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


class TimedBlock(nn.Module):
    def __init__(self, channels, emb_channels, out_channels, groups, dropout=0.0):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, emb):
        h = self.in_layers(x)
        emb_out = self.emb_layers(emb).to(h.dtype)[..., None, None]
        out_norm, out_rest = self.out_layers[0], self.out_layers[1:]
        scale, shift = torch.chunk(emb_out, 2, dim=1)
        h = out_norm(h) * (1 + scale) + shift
        h = out_rest(h)
        return self.skip_connection(x) + h


class TimedNetwork(nn.Module):
    def __init__(self, channels=(8, 8, 16), groups=4):
        super().__init__()
        self.dim = channels[0]
        self.time_embed = nn.Linear(self.dim, 4 * self.dim)
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList([TimedBlock(a, 4 * self.dim, b, groups) for a, b in itertools.pairwise(channels)])
        self.out = nn.Sequential(nn.GroupNorm(groups, channels[-1]), nn.SiLU(), nn.Conv2d(channels[-1], 3, 3, padding=1))

    def forward(self, x, timesteps):
        emb = self.time_embed(timestep_embedding(timesteps, self.dim).to(x.dtype))
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.out(h)


def _basic(path: str, downsample: bool = False) -> Groups:
    """What is added was made in place before it was read: nobody changes it later."""
    groups = [(f"{path}.conv1", f"{path}.bn1", f"{path}.relu"), (f"{path}.conv2", f"{path}.bn2", "add()", f"{path}.relu")]
    return [*groups, (f"{path}.downsample.0", f"{path}.downsample.1")] if downsample else groups


def _timed(path: str, skip: bool = False) -> Groups:
    groups = [
        (f"{path}.in_layers.0", f"{path}.in_layers.1"),
        (f"{path}.in_layers.2", f"{path}.out_layers.0", "mul()", f"{path}.out_layers.1"),
        (f"{path}.out_layers.3", "add()"),
    ]
    return [*groups, (f"{path}.skip_connection",)] if skip else groups


ROWS = [
    Family(
        "resnet-d",
        ResNetCritic,
        images(3, 8, 8),
        [("stem.0", "stem.1", "stem.2"), *_basic("layers.0"), *_basic("layers.1", downsample=True)],
        real=Real(
            lambda: ResNetCritic((64, 128), 2),
            images(3, 32, 32),
            2,
            "ResNet-18 (He et al. 2016): its first two stages of four, 64 and 128 channels; 32x32 without the stem's pooling",
        ),
    ),
    Family(
        "adagn-g",
        TimedNetwork,
        lambda n: (torch.rand(n, 3, 6, 6) * 2 - 1, torch.randint(0, 1000, (n,))),
        [("stem",), *_timed("blocks.0"), *_timed("blocks.1", skip=True), ("out.0", "out.1"), ("out.2",)],
        batch=2,
        real=Real(
            lambda: TimedNetwork((128, 128, 256), 32),
            lambda n: (torch.rand(n, 3, 32, 32) * 2 - 1, torch.randint(0, 1000, (n,))),
            1,
            "ADM (Dhariwal & Nichol 2021): two blocks of 128 and 256 channels without attention; 32x32, there 64x64 and more",
        ),
    ),
]
