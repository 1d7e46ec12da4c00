"""The networks of pix2pix with the layer order of pytorch-CycleGAN-and-pix2pix, so that the state dicts of its users load here
(`ganfast.models.cyclegan.load_published`)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ganfast.models.cyclegan import PatchDiscriminator, _initialise, _norm

DOWNS = {"unet_32": 5, "unet_64": 6, "unet_128": 7, "unet_256": 8}
"""How often each halves the resolution. That project has the last two."""


class Level(nn.Module):
    """A level of the U-Net: x goes down, through the level within, up, and is joined to x as it was.

    Shapes: [N, outer, H, W], H and W even -> [N, 2 * outer, H, W]. within: takes [N, inner, H/2, W/2] and gives twice the channels; None:
    the lowest level.
    """

    def __init__(self, outer: int, inner: int, within: "Level | None" = None, norm: str = "batch", dropout: bool = False) -> None:
        super().__init__()
        bias = norm == "instance"  # with no norm at all neither, as there
        down = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        down += [] if within is None else [_norm(norm, inner), within]
        up = [nn.ReLU(), nn.ConvTranspose2d(inner if within is None else 2 * inner, outer, 4, 2, 1, bias=bias), _norm(norm, outer)]
        self.model = nn.Sequential(*down, *up, *([nn.Dropout(0.5)] if dropout else []))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.model
        # What is joined is activated already: the ReLU that comes next makes the same of it, and norm and activation can run as one.
        x = y = first(x)
        for layer in others:
            y = layer(y)
        return torch.cat([x, y], 1)


class UnetGenerator(nn.Module):
    """A U-Net whose lowest level has a 2**downs-th of the picture's side; dropout in the levels at full width, but for the lowest.

    Shapes: [N, channels_in, H, W], H and W multiples of 2**downs -> [N, channels_out, H, W] in [-1, 1].
    Source: Isola, Zhu, Zhou & Efros 2017; the U-Net: Ronneberger, Fischer & Brox 2015.
    """

    def __init__(
        self, channels_in: int = 3, channels_out: int = 3, downs: int = 8, width: int = 64, norm: str = "batch", dropout: bool = True
    ) -> None:
        super().__init__()
        level = Level(8 * width, 8 * width, None, norm)
        for _ in range(downs - 5):
            level = Level(8 * width, 8 * width, level, norm, dropout)
        for c in (4 * width, 2 * width, width):
            level = Level(c, 2 * c, level, norm)
        first = nn.Conv2d(channels_in, width, 4, 2, 1, bias=norm == "instance")
        last = nn.ConvTranspose2d(2 * width, channels_out, 4, 2, 1)
        self.model = nn.Sequential(OrderedDict(model=nn.Sequential(first, level, nn.ReLU(), last, nn.Tanh())))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PairDiscriminator(PatchDiscriminator):
    """Of an input and a picture, real or made of it, a logit for each patch.

    Shapes: images [N, C, H, W], given [N, C', H, W], `channels` = C' + C -> [N, 1, h, w].
    Source: Isola, Zhu, Zhou & Efros 2017.
    """

    def forward(self, images: Tensor, given: Tensor) -> Tensor:
        return super().forward(torch.cat([given, images], 1))
