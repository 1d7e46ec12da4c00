"""StyleGAN2's discriminator: residual blocks, and the spread of the batch as one more channel.

Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN" (residual blocks); Karras, Aila, Laine & Lehtinen
2018 (minibatch deviation); Miyato & Koyama 2018 (projection of the condition); written from the papers.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from ganfast.models.equalised import BiasedActivation, Blur, EqualConv2d, EqualLinear
from ganfast.models.sizes import check_image, check_size, widths_of
from ganfast.models.stylegan2 import Conditioned

_OP = "stylegan2"


class ResidualDown(nn.Module):
    """[N, c_in, H, W] -> [N, c_out, H/2, W/2], filtered before every second pixel is kept."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv2d(c_in, c_in, 3, padding=1), BiasedActivation(c_in))
        self.conv2 = nn.Sequential(Blur((2, 2)), EqualConv2d(c_in, c_out, 3, stride=2), BiasedActivation(c_out))
        self.skip = nn.Sequential(Blur((1, 1)), EqualConv2d(c_in, c_out, 1, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


def minibatch_deviation(x: Tensor, group: int = 4, condition: Tensor | None = None) -> Tensor:
    """x [N, C, H, W] -> [N, C + 1, H, W]: the last channel says how far the images of a group lie apart, the mean over channels and places
    of their deviation. Groups have `group` images, or as many below that as divide N. With a condition, labels [N] or vectors [N, D],
    images of alike conditions make a group: among different ones nobody sees whether those of one condition are all the same."""
    n, c, h, w = x.shape
    group = next(size for size in range(min(group, n), 0, -1) if n % size == 0)
    order = None
    if condition is not None:
        key = condition.float()
        if key.dim() == 2:  # equal vectors have equal keys
            key = key @ torch.linspace(1, 2, key.shape[1], device=key.device).sqrt()
        order = key.argsort(stable=True)
    y = (x if order is None else x[order]).float().reshape(n // group, group, c, h, w)
    spread = torch.sqrt(y.var(1, unbiased=False) + 1e-8).mean([1, 2, 3]).to(x.dtype).repeat_interleave(group)
    spread = spread if order is None else spread[order.argsort()]
    return torch.cat([x, spread[:, None, None, None].expand(n, 1, h, w)], 1)


class StyleGAN2Discriminator(nn.Module):
    """Images to logits (no sigmoid), one for each. With a condition the last features' product with its own mapping is the logit.

    width, widest: as the generator's. group: images whose spread is compared, 0 for none; with a condition, images of alike ones.

    Shapes: image [N, channels, image_size, image_size]; condition int64 [N] with num_classes, [N, condition_dim] with that, or None
        -> [N].
    Raises: ValueError for other shapes, and an image_size that is no power of two.
    Source: see the head of this file.
    """

    def __init__(
        self,
        image_size: int = 64,
        width: int = 32,
        channels: int = 3,
        condition_dim: int | None = None,
        *,
        num_classes: int | None = None,
        mapping_layers: int = 8,
        widest: int = 512,
        group: int = 4,
    ) -> None:
        super().__init__()
        check_size(_OP, image_size)
        c = widths_of(image_size, width, widest)[::-1]
        self.image_shape, self.group = (channels, image_size, image_size), group
        self.first = nn.Sequential(EqualConv2d(channels, c[0], 1), BiasedActivation(c[0]))
        self.blocks = nn.Sequential(*(ResidualDown(a, b) for a, b in itertools.pairwise(c)))
        self.last = nn.Sequential(EqualConv2d(c[-1] + (group > 0), c[-1], 3, padding=1), BiasedActivation(c[-1]))
        self.hidden = EqualLinear(16 * c[-1], c[-1], act=True)
        given = num_classes is not None or condition_dim is not None
        self.condition = Conditioned(c[-1], num_classes, condition_dim)
        self.mapping = nn.Sequential(*(EqualLinear(c[-1], c[-1], rate=0.01, act=True) for _ in range(mapping_layers))) if given else None
        self.logit = EqualLinear(c[-1], c[-1] if given else 1)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        check_image(_OP, image, self.image_shape)
        given = self.condition(condition, len(image))
        x = self.blocks(self.first(image))
        x = self.last(minibatch_deviation(x, self.group, condition) if self.group else x)
        x = self.logit(self.hidden(x.flatten(1)))
        if given is None:
            return x[:, 0]
        return (x * self.mapping(given)).sum(1) / math.sqrt(x.shape[1])
