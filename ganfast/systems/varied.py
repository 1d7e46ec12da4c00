"""Networks for generators that vary what they are given: one image of a class and noise become another image of that class.

Beside them fully connected ones, for images whose pixels have no neighbours. A condition is a label, or the image that is given.
Source: Antoniou, Storkey & Edwards 2017, "Data augmentation generative adversarial networks" (a discriminator of pairs of one class);
Jaderberg et al. 2015 (the differentiable warp).
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.models import DCGANDiscriminator, MLPDiscriminator, MLPGenerator


class Warp(nn.Module):
    """latent [N, Z], given [N, C, S, S] -> [N, C, S, S]: the given image bent by a smooth field, with something drawn where a mask says."""

    def __init__(self, size: int, channels: int, latent_dim: int, width: int, reach: float = 0.4) -> None:
        super().__init__()
        self.reach = reach
        c = [channels] + [width << i for i in range((size // 4).bit_length() - 1)]
        norm = lambda conv, channels, act: nn.Sequential(conv, nn.BatchNorm2d(channels), act)
        down = [norm(nn.Conv2d(a, b, 4, 2, 1, bias=False), b, nn.LeakyReLU(0.2)) for a, b in itertools.pairwise(c)]
        self.down = nn.Sequential(*down, nn.Flatten(), nn.Linear(16 * c[-1], 4 * width))
        self.joined = MLPGenerator(4 * width + latent_dim, 16 * c[-1], 8 * width, depth=2)
        self.bent = nn.Conv2d(c[-1], 2, 3, 1, 1)
        up = [norm(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), b, nn.ReLU()) for a, b in itertools.pairwise(c[:0:-1])]
        self.drawn = nn.Sequential(*up, nn.ConvTranspose2d(c[1], channels + 1, 4, 2, 1))
        nn.init.normal_(self.bent.weight, 0, 0.02)
        nn.init.zeros_(self.bent.bias)

    def forward(self, latent: Tensor, given: Tensor) -> Tensor:
        x = self.joined(torch.cat([self.down(given), latent], 1)).view(len(given), -1, 4, 4)
        field = F.interpolate(self.reach * self.bent(x).tanh(), size=given.shape[2:], mode="bicubic", align_corners=False)
        still = F.affine_grid(torch.eye(2, 3, device=given.device).expand(len(given), -1, -1), list(given.shape), align_corners=False)
        moved = F.grid_sample(given, still + field.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
        drawn = self.drawn(F.relu(x))
        mask = (drawn[:, :1] - 2).sigmoid()
        return (1 - mask) * moved + mask * drawn[:, 1:].tanh()


class PairDiscriminator(DCGANDiscriminator):
    """An image and the one that was given, side by side as channels, to a logit."""

    def __init__(self, size: int, width: int, channels: int) -> None:
        super().__init__(size, width, 2 * channels, norm=False)

    def forward(self, image: Tensor, given: Tensor) -> Tensor:
        return super().forward(torch.cat([image, given], 1))


def _vector(condition: Tensor, classes: int | None) -> Tensor:
    return condition.flatten(1) if classes is None else F.one_hot(condition, classes).float()


class FlatGenerator(nn.Module):
    """latent [N, Z], and labels int64 [N], or without classes given images -> [N, C, S, S]."""

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int, classes: int | None = None) -> None:
        super().__init__()
        self.shape, self.classes, pixels = tuple(shape), classes, math.prod(shape)
        self.layers = MLPGenerator(latent_dim + (classes or pixels), pixels, width, depth=2)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        made = self.layers(torch.cat([latent, _vector(condition, self.classes)], 1)).view(-1, *self.shape)
        return (made if self.classes else made + 2 * condition).tanh()


class FlatDiscriminator(nn.Module):
    """Images, and labels or given images, to logits."""

    def __init__(self, shape: tuple[int, ...], width: int, classes: int | None = None) -> None:
        super().__init__()
        self.classes, pixels = classes, math.prod(shape)
        self.layers = MLPDiscriminator(pixels + (classes or pixels), width, depth=2)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return self.layers(torch.cat([image.flatten(1), _vector(condition, self.classes)], 1))
