"""Networks that draw pictures by captions, and judge whether a picture is one of a caption."""

import torch
from torch import Tensor, nn


def _up(c_in: int, c_out: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(c_in, c_out, 4, stride, padding, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


def _down(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 4, 2, 1), nn.LeakyReLU(0.2))


class TextGenerator(nn.Module):
    """reads: a network that makes vectors [N, dim] of captions, such as token ids [N, L].

    Shapes: latent [N, latent_dim], captions as `reads` takes them -> [N, 3, 32, 32] in [-1, 1].
    """

    def __init__(self, reads: nn.Module, latent_dim: int = 16, width: int = 16, dim: int = 32) -> None:
        super().__init__()
        self.reads = reads
        self.joined = nn.Sequential(nn.Linear(latent_dim + dim, 8 * width), nn.ReLU())
        blocks = [_up(8 * width, 4 * width, 1, 0), _up(4 * width, 2 * width, 2, 1), _up(2 * width, width, 2, 1)]
        # No transposed convolution at the end: its places differ from pixel to pixel, and plain fields get a pattern.
        self.blocks = nn.Sequential(*blocks, nn.Upsample(scale_factor=2), nn.Conv2d(width, 3, 3, 1, 1), nn.Tanh())

    def forward(self, latent: Tensor, captions: Tensor) -> Tensor:
        return self.blocks(self.joined(torch.cat([latent, self.reads(captions)], 1))[:, :, None, None])


class TextDiscriminator(nn.Module):
    """A picture's features h [1 + dim] and a caption's vector e [dim] make the logit h[0] + <h[1:], e> / sqrt(dim).

    Shapes: images [N, 3, 32, 32], captions [N, ...] -> [N]; `all_pairs`: features [N, 1 + dim], captions [K, ...] -> [N, K].
    """

    def __init__(self, reads: nn.Module, width: int = 16, dim: int = 32) -> None:
        super().__init__()
        self.reads = reads
        self.blocks = nn.Sequential(_down(3, width), _down(width, 2 * width), _down(2 * width, 4 * width), nn.Flatten())
        self.head = nn.Linear(64 * width, 1 + dim)
        self.scale = dim**-0.5

    def features(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images))

    def pairs(self, features: Tensor, captions: Tensor) -> Tensor:
        return features[:, 0] + (features[:, 1:] * self.reads(captions)).sum(1) * self.scale

    def all_pairs(self, features: Tensor, captions: Tensor) -> Tensor:
        return features[:, :1] + features[:, 1:] @ self.reads(captions).T * self.scale

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        return self.pairs(self.features(images), captions)
