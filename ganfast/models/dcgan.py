"""DCGAN for square images of 16, 32, 64, ... pixels, unconditional or conditioned on a vector or a class label per image.

Source: Radford, Metz & Chintala 2015 (the networks); Miyato & Koyama 2018 (the projection of the condition; the generator's norms).
"""

import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.models.conditional import ConditionalBatchNorm2d, check_classes, check_labels, embed
from ganfast.models.sizes import check_image, check_size

_JOINED = 16  # length of a label's embedding beside the latent


def _check(name: str, tensor: Tensor | None, width: int | None, rows: int | None = None) -> None:
    """`tensor` is wanted as [rows, width]; width None: there must be none."""
    if width is None:
        if tensor is not None:
            raise ValueError(f"dcgan: {name} got a tensor, wants None; the network was built with condition_dim=None.")
        return
    got = None if tensor is None else list(tensor.shape)
    if got is None or len(got) != 2 or got[1] != width or (rows is not None and got[0] != rows):
        raise ValueError(f"dcgan: {name} got {got}, wants [{'N' if rows is None else rows}, {width}]; one vector per image.")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class _ConditionalUp(nn.Module):
    """Transposed convolution -> conditional batch norm -> ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, padding: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(c_in, c_out, 4, stride, padding, bias=False)
        self.norm = ConditionalBatchNorm2d(c_out, num_classes)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x), labels), inplace=True)


def _up(c_in: int, c_out: int, stride: int, padding: int, num_classes: int | None = None) -> nn.Module:
    if num_classes is not None:
        return _ConditionalUp(c_in, c_out, stride, padding, num_classes)
    conv = nn.ConvTranspose2d(c_in, c_out, 4, stride, padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out), act=nn.ReLU()))


def _down(c_in: int, c_out: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(c_in, c_out, 4, 2, 1, bias=not norm)
    norms = {"norm": nn.BatchNorm2d(c_out)} if norm else {}
    return nn.Sequential(OrderedDict(conv=conv, **norms, act=nn.LeakyReLU(0.2)))


class DCGANGenerator(nn.Module):
    """Latents to images in [-1, 1]. At image_size=64, width=64, latent_dim=100: the paper's 512-256-128-64-3 channels.

    A vector (the output of a text encoder; condition_dim) is joined to the latent; the first layer is its linear map. A class label
    (num_classes) chooses the scale and shift of every batch norm, and its embedding of length 16 is joined to the latent. By the norms
    alone, all classes begin alike and part no faster than the learning rate lets their tables: after 500 steps on the digits, 63 % of
    the asked ones were read right, joined 99 %.

    Shapes: latent [N, latent_dim], condition [N, condition_dim], int64 [N] with num_classes, or None
        -> [N, channels, image_size, image_size].
    Raises: ValueError for other shapes, an image_size that is no power of two, num_classes and condition_dim together, a label
        outside [0, num_classes) on a CPU; TypeError for labels that are not int64.
    Source: Radford, Metz & Chintala 2015; Miyato & Koyama 2018 (norms by label), Mirza & Osindero 2014 (the joined embedding).
    """

    def __init__(
        self,
        image_size: int = 64,
        latent_dim: int = 100,
        width: int = 64,
        channels: int = 3,
        condition_dim: int | None = None,
        *,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        levels = check_size("dcgan", image_size, 16)
        check_classes("dcgan", num_classes, condition_dim)
        self.latent_dim, self.condition_dim = latent_dim, condition_dim
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, _JOINED)
        joined = condition_dim or (0 if num_classes is None else _JOINED)
        c = [width << i for i in reversed(range(levels))]
        blocks = [_up(latent_dim + joined, c[0], 1, 0, num_classes)]
        blocks += [_up(c_in, c_out, 2, 1, num_classes) for c_in, c_out in itertools.pairwise(c)]
        self.blocks = nn.Sequential(*blocks)
        self.to_image = nn.Sequential(OrderedDict(conv=nn.ConvTranspose2d(width, channels, 4, 2, 1), act=nn.Tanh()))
        self.apply(_initialise)

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        _check("latent", latent, self.latent_dim)
        if self.embedding is not None:
            check_labels("dcgan", condition, len(latent))
            x = torch.cat([latent, embed("dcgan", self.embedding, condition)], 1)[:, :, None, None]
            for block in self.blocks:
                x = block(x, condition)
            return self.to_image(x)
        _check("condition", condition, self.condition_dim, len(latent))
        x = latent if condition is None else torch.cat([latent, condition], 1)
        return self.to_image(self.blocks(x[:, :, None, None]))


class DCGANDiscriminator(nn.Module):
    """Images to logits (no sigmoid), one per image.

    The head gives 1 + condition_dim numbers h per image; logit = h[0] + <h[1:], condition> / sqrt(condition_dim): the
    projection discriminator, with a head that also sees where in the image a feature lies. With num_classes,
    logit = head(phi) + <embedding[label], phi>, phi all the features that the head sees, 16 * channels; the paper sums them over
    places. norm=False: without batch norm, which mixes the images and so has no place under a gradient penalty.

    Shapes: image [N, channels, image_size, image_size], condition [N, condition_dim], int64 [N] with num_classes, or None -> [N].
    Raises: ValueError for other shapes, an image_size that is no power of two, num_classes and condition_dim together, a label
        outside [0, num_classes) on a CPU; TypeError for labels that are not int64.
    Source: Radford, Metz & Chintala 2015; Miyato & Koyama 2018.
    """

    def __init__(
        self,
        image_size: int = 64,
        width: int = 64,
        channels: int = 3,
        condition_dim: int | None = None,
        *,
        norm: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_classes("dcgan", num_classes, condition_dim)
        self.image_shape, self.condition_dim = (channels, image_size, image_size), condition_dim
        c = [channels] + [width << i for i in range(check_size("dcgan", image_size, 16))]
        self.blocks = nn.Sequential(*[_down(c_in, c_out, norm and i > 0) for i, (c_in, c_out) in enumerate(itertools.pairwise(c))])
        self.head = nn.Conv2d(c[-1], 1 + (condition_dim or 0), 4)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, 16 * c[-1])
        self.apply(_initialise)
        if self.embedding is not None:  # as the head, whose part it plays for its class
            nn.init.normal_(self.embedding.weight, 0.0, 0.02)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        check_image("dcgan", image, self.image_shape)
        if self.embedding is not None:
            check_labels("dcgan", condition, len(image))
            features = self.blocks(image)
            return self.head(features).flatten(1)[:, 0] + (features.flatten(1) * embed("dcgan", self.embedding, condition)).sum(1)
        _check("condition", condition, self.condition_dim, len(image))
        h = self.head(self.blocks(image)).flatten(1)
        if condition is None:
            return h[:, 0]
        return h[:, 0] + (h[:, 1:] * condition).sum(1) * condition.shape[1] ** -0.5
