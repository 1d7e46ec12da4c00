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

from ganfast import _checks
from ganfast.models import DCGANDiscriminator, MLPDiscriminator, MLPGenerator

MOST = 10**8  # weights of linear maps of all pixels; with gradients, averages and what Adam keeps 2 GB


class Warp(nn.Module):
    """latent [N, Z], given [N, C, S, S] -> [N, C, S, S]: the given image under an affine map, bent by a smooth field, with strokes made
    wider or narrower. It can do nothing else, so that it does with classes it knows little of what it learned of others."""

    def __init__(self, size: int, channels: int, latent_dim: int, width: int, turn: float = 0.5, bend: float = 0.15) -> None:
        super().__init__()
        self.turn, self.bend = turn, bend
        c = [channels] + [width << i for i in range((size // 4).bit_length() - 1)]
        norm = lambda conv, channels, act: nn.Sequential(conv, nn.BatchNorm2d(channels), act)
        down = [norm(nn.Conv2d(a, b, 4, 2, 1, bias=False), b, nn.LeakyReLU(0.2)) for a, b in itertools.pairwise(c)]
        self.down = nn.Sequential(*down, nn.Flatten(), nn.Linear(16 * c[-1], 2 * width))
        self.joined = MLPGenerator(2 * width + latent_dim, 6 + 2 * 16 + 2, 8 * width, depth=2)

    def forward(self, latent: Tensor, given: Tensor) -> Tensor:
        affine, field, stroke = self.joined(torch.cat([self.down(given), latent], 1)).split([6, 32, 2], 1)
        maps = torch.eye(2, 3, device=given.device) + self.turn * affine.tanh().view(-1, 2, 3)
        field = F.interpolate(self.bend * field.tanh().view(-1, 2, 4, 4), size=given.shape[2:], mode="bicubic", align_corners=False)
        places = F.affine_grid(maps, list(given.shape), align_corners=False) + field.permute(0, 2, 3, 1)
        moved = F.grid_sample(given, places, padding_mode="border", align_corners=False)
        wide = F.avg_pool2d(F.pad(moved, (1,) * 4, mode="replicate"), 3, 1)
        share, bright = stroke.tanh()[:, :, None, None, None].unbind(1)
        return ((1 - share) * moved + share * wide + 0.5 * bright * (1 - wide.square())).clamp(-1, 1)


class PairDiscriminator(DCGANDiscriminator):
    """An image and the one that was given, side by side as channels, to a logit."""

    def __init__(self, size: int, width: int, channels: int) -> None:
        super().__init__(size, width, 2 * channels, norm=False)

    def forward(self, image: Tensor, given: Tensor) -> Tensor:
        return super().forward(torch.cat([image, given], 1))


def _vector(condition: Tensor, classes: int | None) -> Tensor:
    return condition.flatten(1) if classes is None else F.one_hot(condition, classes).float()


class FlatGenerator(nn.Module):
    """latent [N, Z], labels int64 [N] -> [N, C, S, S]."""

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int, classes: int) -> None:
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        self.layers = MLPGenerator(latent_dim + classes, math.prod(shape), width, depth=2)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        return self.layers(torch.cat([latent, _vector(labels, self.classes)], 1)).tanh().view(-1, *self.shape)


class FlatWarp(nn.Module):
    """latent [N, Z], given [N, C, S, S] -> [N, C, S, S]: as Warp, where nobody knows which pixels are neighbours. Z linear maps of all
    pixels, which are learned, change the given image step by step, as much of each as the latent says.

    Raises: ValueError for more than MOST weights.
    Source: Rao & Ruderman 1999, "Learning Lie groups for invariant visual perception" (changes of images as sums of learned linear maps).
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, times: int = 2) -> None:
        super().__init__()
        self.times, pixels = times, math.prod(shape)
        if (weights := latent_dim * pixels**2) > MOST:
            wants = f"wants at most {MOST / 1e6:.0f} million: take a smaller image_size, or a smaller latent_dim"
            size = " x ".join(map(str, shape))
            _checks.fail(
                "augmentation", f"{latent_dim} linear maps of {size} permuted pixels have {weights / 1e6:.0f} million weights; {wants}"
            )
        self.maps = nn.Linear(pixels, latent_dim * pixels)
        nn.init.normal_(self.maps.weight, 0, 0.01)

    def forward(self, latent: Tensor, given: Tensor) -> Tensor:
        bright = (given.flatten(1) + 1) / 2
        for _ in range(self.times):
            bright = bright + (latent[:, :, None] * self.maps(bright).unflatten(1, (latent.shape[1], -1))).sum(1)
        return (2 * bright - 1).clamp(-1, 1).view_as(given)


class Difference(nn.Module):
    """Two images of a class [N, C, S, S] -> [N, Z]: what has to be done to the first to have the second, each number with mean 0 and
    deviation 1 over the batch, as a latent has."""

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            MLPGenerator(2 * math.prod(shape), latent_dim, width, depth=2), nn.BatchNorm1d(latent_dim, affine=False)
        )

    def forward(self, given: Tensor, other: Tensor) -> Tensor:
        return self.layers(torch.cat([given.flatten(1), other.flatten(1)], 1))


class FlatDiscriminator(nn.Module):
    """Images, and labels or given images, to logits."""

    def __init__(self, shape: tuple[int, ...], width: int, classes: int | None = None) -> None:
        super().__init__()
        self.classes, pixels = classes, math.prod(shape)
        self.layers = MLPDiscriminator(pixels + (classes or pixels), width, depth=2)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return self.layers(torch.cat([image.flatten(1), _vector(condition, self.classes)], 1))
