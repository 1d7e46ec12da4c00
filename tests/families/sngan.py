"""SNGAN's residual networks (Miyato et al. 2018), with spectral_norm of both styles."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm

from tests.families.family import Family, Groups, Real, images, noise

GEN_SIZE = 8
DISC_SIZE = 8


class ResBlockGenerator(nn.Module):
    def __init__(self, in_channels, out_channels, upsample=True):
        super().__init__()
        self.upsample = upsample
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1)
        self.activation = nn.ReLU()
        self.learnable_sc = in_channels != out_channels or upsample
        if self.learnable_sc:
            self.c_sc = nn.Conv2d(in_channels, out_channels, 1, 1, 0)
        nn.init.xavier_uniform_(self.conv1.weight.data, 1.0)
        nn.init.xavier_uniform_(self.conv2.weight.data, 1.0)

    def residual(self, x):
        h = self.bn1(x)
        h = self.activation(h)
        h = F.interpolate(h, scale_factor=2) if self.upsample else h
        h = self.conv1(h)
        h = self.bn2(h)
        h = self.activation(h)
        return self.conv2(h)

    def shortcut(self, x):
        if self.learnable_sc:
            x = F.interpolate(x, scale_factor=2) if self.upsample else x
            return self.c_sc(x)
        return x

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


class Generator(nn.Module):
    def __init__(self, z_dim=16, size=GEN_SIZE):
        super().__init__()
        self.size = size
        self.z_dim = z_dim
        self.dense = nn.Linear(self.z_dim, 4 * 4 * size)
        self.final = nn.Conv2d(size, 3, 3, stride=1, padding=1)
        nn.init.xavier_uniform_(self.dense.weight.data, 1.0)
        nn.init.xavier_uniform_(self.final.weight.data, 1.0)
        self.model = nn.Sequential(
            ResBlockGenerator(size, size),
            ResBlockGenerator(size, size, upsample=False),
            ResBlockGenerator(size, size),
            nn.BatchNorm2d(size),
            nn.ReLU(),
            self.final,
            nn.Tanh(),
        )

    def forward(self, z):
        return self.model(self.dense(z).view(-1, self.size, 4, 4))


def block_groups(path: str, upsample: bool = True) -> Groups:
    """The residual path, which the sum belongs to: it comes first. A block that keeps its size and channels has no convolution in its
    shortcut."""
    up = ("interpolate()",) if upsample else ()
    groups = [
        (f"{path}.bn1", f"{path}.activation"),
        (*up, f"{path}.conv1", f"{path}.bn2", f"{path}.activation"),
        (f"{path}.conv2", "add()"),
    ]
    return [*groups, (*up, f"{path}.c_sc")] if upsample else groups


class ResBlockDiscriminator(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1, spectral_norm=nn.utils.spectral_norm):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1)
        nn.init.xavier_uniform_(self.conv1.weight.data, 1.0)
        nn.init.xavier_uniform_(self.conv2.weight.data, 1.0)
        if stride == 1:
            self.model = nn.Sequential(nn.ReLU(), spectral_norm(self.conv1), nn.ReLU(), spectral_norm(self.conv2))
        else:
            self.model = nn.Sequential(
                nn.ReLU(),
                spectral_norm(self.conv1),
                nn.ReLU(),
                spectral_norm(self.conv2),
                nn.AvgPool2d(2, stride=stride, padding=0),
            )
        self.bypass = nn.Sequential()
        if stride != 1:
            self.bypass_conv = nn.Conv2d(in_channels, out_channels, 1, 1, padding=0)
            self.bypass = nn.Sequential(spectral_norm(self.bypass_conv), nn.AvgPool2d(2, stride=stride, padding=0))

    def forward(self, x):
        return self.model(x) + self.bypass(x)


class Discriminator(nn.Module):
    """Every convolution has two names, an attribute's and its place in the Sequential; the attribute's comes first."""

    def __init__(self, spectral_norm=nn.utils.spectral_norm, size=DISC_SIZE):
        super().__init__()
        self.size = size
        self.model = nn.Sequential(
            ResBlockDiscriminator(3, size, stride=2, spectral_norm=spectral_norm),
            ResBlockDiscriminator(size, size, stride=2, spectral_norm=spectral_norm),
            ResBlockDiscriminator(size, size, spectral_norm=spectral_norm),
            nn.ReLU(),
            nn.AvgPool2d(8),
        )
        self.fc = spectral_norm(nn.Linear(size, 1))

    def forward(self, x):
        return self.fc(self.model(x).view(-1, self.size))


class FunctionalDiscriminator(nn.Module):
    """The critic of SNGAN's plain convolutional network, logits by a sum over the image."""

    def __init__(self, ch=DISC_SIZE):
        super().__init__()
        sn = new_spectral_norm
        self.conv1 = sn(nn.Conv2d(3, ch, 3, stride=1, padding=(1, 1)))
        self.conv2 = sn(nn.Conv2d(ch, ch * 2, 4, stride=2, padding=(1, 1)))
        self.conv3 = sn(nn.Conv2d(ch * 2, ch * 4, 4, stride=2, padding=(1, 1)))
        self.fc = sn(nn.Linear(ch * 4, 1, bias=False))

    def forward(self, x):
        m = F.leaky_relu(self.conv1(x), negative_slope=0.1)
        m = nn.functional.leaky_relu(self.conv2(m), 0.1)
        m = F.leaky_relu_(self.conv3(m), 0.1)
        return self.fc(torch.sum(m, dim=(2, 3)))


_RESIDUALS = [[(f"model.{i}.model.1", f"model.{i}.model.2"), (f"model.{i}.model.3",)] for i in range(3)]
# Where both branches are pooled, the sum is that of two poolings.
_LAST = [_RESIDUALS[2][0], ("model.2.conv2", "add()", "model.3")]
_D_GROUPS = [*_RESIDUALS[0], ("model.0.bypass.0",), *_RESIDUALS[1], ("model.1.bypass.0",), *_LAST]

ROWS = [
    Family(
        "sngan-resnet-g",
        Generator,
        noise(16),
        [
            *block_groups("model.0"),
            *block_groups("model.1", False),
            *block_groups("model.2"),
            ("model.3", "model.4"),
            ("model.5", "model.6"),
        ],
        real=Real(
            lambda: Generator(128, 256),
            noise(128),
            4,
            "SNGAN (Miyato et al. 2018), ResNet for CIFAR-10: 128 latents, 256 channels; 16x16, there 32x32, batch 64",
        ),
    ).with_small(1),
    Family(
        "sngan-resnet-old-d",
        Discriminator,
        images(3, 32, 32),
        _D_GROUPS,
        half="autocast",
        real=Real(
            lambda: Discriminator(size=128),
            images(3, 32, 32),
            4,
            "SNGAN (Miyato et al. 2018), ResNet for CIFAR-10: 128 channels, 32x32; one block of three at 8x8, batch 64 there",
        ),
    ),
    Family("sngan-resnet-new-d", lambda: Discriminator(new_spectral_norm), images(3, 32, 32), _D_GROUPS, half="autocast"),
    Family(
        "sngan-functional-d",
        FunctionalDiscriminator,
        images(3, 16, 16),
        [("conv1", "leaky_relu()"), ("conv2", "leaky_relu()"), ("conv3", "leaky_relu()")],
        half="autocast",
    ),
]
