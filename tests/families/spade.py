"""SPADE (Park et al. 2019): a map of labels gives every pixel a scale and a shift of its own, behind norms without any."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

from tests.families.family import Family, Groups, Real


class SPADE(nn.Module):
    def __init__(self, channels, labels, hidden):
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(labels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x, segmap):
        normalized = self.param_free_norm(x)
        segmap = F.interpolate(segmap, size=x.size()[2:], mode="nearest")
        actv = self.mlp_shared(segmap)
        gamma, beta = self.mlp_gamma(actv), self.mlp_beta(actv)
        return normalized * (1 + gamma) + beta


class SPADEBlock(nn.Module):
    def __init__(self, c_in, c_out, labels, hidden):
        super().__init__()
        middle = min(c_in, c_out)
        self.learned_shortcut = c_in != c_out
        self.conv_0 = spectral_norm(nn.Conv2d(c_in, middle, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(middle, c_out, 3, padding=1))
        self.norm_0, self.norm_1 = SPADE(c_in, labels, hidden), SPADE(middle, labels, hidden)
        if self.learned_shortcut:
            self.conv_s = spectral_norm(nn.Conv2d(c_in, c_out, 1, bias=False))
            self.norm_s = SPADE(c_in, labels, hidden)

    def forward(self, x, seg):
        x_s = self.conv_s(self.norm_s(x, seg)) if self.learned_shortcut else x
        dx = self.conv_0(F.leaky_relu(self.norm_0(x, seg), 2e-1))
        dx = self.conv_1(F.leaky_relu(self.norm_1(dx, seg), 2e-1))
        return x_s + dx


class Generator(nn.Module):
    def __init__(self, widths=(8, 8, 4), labels=3, hidden=8, start=4):
        super().__init__()
        self.start = start
        self.fc = nn.Conv2d(labels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList([SPADEBlock(a, b, labels, hidden) for a, b in itertools.pairwise(widths)])
        self.up = nn.Upsample(scale_factor=2)
        self.conv_img = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, seg):
        x = self.fc(F.interpolate(seg, size=(self.start, self.start)))
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else self.up(x), seg)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 2e-1)))


def maps(labels: int, size: int):
    return lambda batch: (F.one_hot(torch.randint(0, labels, (batch, size, size)), labels).movedim(3, 1).contiguous().float(),)


def _norm(path: str, *before: str, act: tuple[str, ...] = ("leaky_relu()",)) -> Groups:
    """The scale is a convolution's output plus 1, the shift another's, which the norm's group adds."""
    parts = [(f"{path}.mlp_shared.0", f"{path}.mlp_shared.1"), (f"{path}.mlp_gamma",), (f"{path}.mlp_beta",)]
    return [(*before, f"{path}.param_free_norm", "mul()", *act), *parts]


def _residual_path(path: str) -> Groups:
    return [*_norm(f"{path}.norm_0"), *_norm(f"{path}.norm_1", f"{path}.conv_0")]


ROWS = [
    Family(
        "spade-g",
        Generator,
        maps(3, 8),
        [
            ("fc",),
            *_residual_path("blocks.0"),
            ("blocks.0.conv_1", "add()"),
            *_norm("blocks.1.norm_s", act=()),
            ("blocks.1.conv_s", "add()", "leaky_relu()"),  # the shortcut comes first: the sum is its own
            *_residual_path("blocks.1"),
            ("blocks.1.conv_1",),
            ("conv_img", "tanh()"),
        ],
        batch=2,
        half="autocast",
        real=Real(
            lambda: Generator((128, 128, 64), 35, 128, 16),
            maps(35, 64),
            1,
            "SPADE (Park et al. 2019), 35 labels, maps of 128 channels: two blocks, there seven; 32x32, there 512x256",
        ),
    ),
]
