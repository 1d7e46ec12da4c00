"""R3GAN: a convolutional GAN without normalisation, style or tricks, whose training R1 and R2 and a relativistic loss keep stable.

Source: Huang, Gokaslan, Kuleshov & Tompkin 2024, "The GAN is dead; long live the GAN! A modern GAN baseline"; Zhang, Dauphin & Ma 2019,
"Fixup initialization" (how blocks without norms begin); written from the papers.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.models.conditional import Given
from ganfast.models.equalised import SLOPE, BiasedActivation
from ganfast.models.sizes import check_image, check_latent, check_size, widths_of

_OP = "r3gan"
_GAIN = math.sqrt(2 / (1 + SLOPE**2))  # of leaky ReLU: keeps the variance
_EMBEDDED = 16  # length of a label's vector, of both sides


class Convolution(nn.Conv2d):
    """Without a bias; its weights are drawn with deviation gain / sqrt(inputs)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int = 1, gain: float = 1.0) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
        nn.init.normal_(self.weight, 0.0, gain / math.sqrt(self.weight[0].numel()))


class Residual(nn.Module):
    """x + (1x1 to `expansion` times as many channels, 3x3 in groups, 1x1 back): an inverted bottleneck. The last convolution begins at
    zero, the others smaller the more `blocks` the network has, so that the variance does not grow with the depth."""

    def __init__(self, channels: int, expansion: int, group: int, blocks: int) -> None:
        super().__init__()
        inner, gain = channels * expansion, blocks ** (-1 / 4)  # three layers of a branch: blocks ** (-1 / (2 * 3 - 2))
        self.expand = Convolution(channels, inner, 1, gain=gain)
        self.act1 = BiasedActivation(inner, _GAIN)
        self.mix = Convolution(inner, inner, 3, groups=max(1, inner // group), gain=gain)
        self.act2 = BiasedActivation(inner, _GAIN)
        self.project = Convolution(inner, channels, 1, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.act2(self.mix(self.act1(self.expand(x)))))


class Resample(nn.Module):
    """Twice or half the size, bilinear; a 1x1 convolution where the number of channels changes, at the lower resolution."""

    def __init__(self, c_in: int, c_out: int, *, up: bool) -> None:
        super().__init__()
        self.up, self.linear = up, None if c_in == c_out else Convolution(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        x = x if self.linear is None else self.linear(x)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) if self.up else x


class Basis(nn.Module):
    """A learned 4x4 picture for each channel, scaled by a linear map of the latent."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.pictures = nn.Parameter(torch.randn(channels, 4, 4))
        self.linear = nn.Linear(latent, channels, bias=False)
        nn.init.normal_(self.linear.weight, 0.0, 1 / math.sqrt(latent))

    def forward(self, z: Tensor) -> Tensor:
        return self.pictures[None] * self.linear(z)[:, :, None, None]


def _stage(first: nn.Module, channels: int, each: int, expansion: int, group: int, total: int, up: bool) -> nn.Sequential:
    blocks = [Residual(channels, expansion, group, total) for _ in range(each)]
    return nn.Sequential(first, *blocks) if up else nn.Sequential(*blocks, first)


class R3GANGenerator(nn.Module):
    """Latents to images around [-1, 1], without a last activation.

    Arguments:
        width: channels next to the image; twice as many at each lower resolution, `widest` at most. blocks: residual blocks at each
            resolution, 2 in the paper; expansion, group: of a block's channels, and the channels of a group of its 3x3 convolution.
    Shapes: latent [N, latent_dim]; condition int64 [N] with num_classes, [N, condition_dim] with that, or None
        -> [N, channels, image_size, image_size].
    Raises: ValueError for other shapes, and an image_size that is no power of two.
    Source: Huang et al. 2024, section 4 and appendix; the condition joins the latent, as there.
    """

    def __init__(
        self,
        image_size: int = 64,
        latent_dim: int = 64,
        width: int = 96,
        channels: int = 3,
        condition_dim: int | None = None,
        *,
        num_classes: int | None = None,
        blocks: int = 2,
        expansion: int = 2,
        group: int = 16,
        widest: int = 768,
    ) -> None:
        super().__init__()
        check_size(_OP, image_size)
        self.latent_dim, self.condition = latent_dim, Given(_OP, num_classes, condition_dim, _EMBEDDED)
        c = widths_of(image_size, width, widest)
        firsts = [Basis(latent_dim + self.condition.dim, c[0]), *(Resample(a, b, up=True) for a, b in itertools.pairwise(c))]
        shared = blocks, expansion, group, blocks * len(c), True
        self.stages = nn.Sequential(*(_stage(first, width, *shared) for first, width in zip(firsts, c)))
        self.to_image = Convolution(c[-1], channels, 1)

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        check_latent(_OP, latent, self.latent_dim)
        given = self.condition(condition, len(latent))
        return self.to_image(self.stages(latent if given is None else torch.cat([latent, given], 1)))


class R3GANDiscriminator(nn.Module):
    """Images to logits (no sigmoid), one for each. With a condition the last features' product with its linear map is the logit.

    Arguments: as the generator's.
    Shapes: image [N, channels, image_size, image_size]; condition int64 [N] with num_classes, [N, condition_dim] with that, or None
        -> [N].
    Raises: ValueError for other shapes, and an image_size that is no power of two.
    Source: Huang et al. 2024, section 4 and appendix; Miyato & Koyama 2018 (projection).
    """

    def __init__(
        self,
        image_size: int = 64,
        width: int = 96,
        channels: int = 3,
        condition_dim: int | None = None,
        *,
        num_classes: int | None = None,
        blocks: int = 2,
        expansion: int = 2,
        group: int = 16,
        widest: int = 768,
    ) -> None:
        super().__init__()
        check_size(_OP, image_size)
        self.image_shape, self.condition = (channels, image_size, image_size), Given(_OP, num_classes, condition_dim, _EMBEDDED)
        c = widths_of(image_size, width, widest)[::-1]
        shared = blocks, expansion, group, blocks * len(c), False
        downs = [Resample(a, b, up=False) for a, b in itertools.pairwise(c)]
        lasts = [*downs, nn.Conv2d(c[-1], c[-1], 4, groups=c[-1], bias=False)]  # one number for each channel
        self.from_image = Convolution(channels, c[0], 1)
        self.stages = nn.Sequential(*(_stage(last, width, *shared) for last, width in zip(lasts, c)))
        dim = self.condition.dim
        self.head = nn.Linear(c[-1], dim or 1, bias=False)
        self.projected = nn.Linear(dim, dim, bias=False) if dim else None
        for layer in filter(None, (lasts[-1], self.head, self.projected)):
            nn.init.normal_(layer.weight, 0.0, 1 / math.sqrt(layer.weight[0].numel()))

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        check_image(_OP, image, self.image_shape)
        given = self.condition(condition, len(image))
        x = self.head(self.stages(self.from_image(image)).flatten(1))
        if given is None:
            return x[:, 0]
        return (x * self.projected(given)).sum(1) / math.sqrt(x.shape[1])
