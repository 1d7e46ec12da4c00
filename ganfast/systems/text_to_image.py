"""Caption -> picture: a generator of a latent and a caption's vector, and a discriminator that sees pictures with their captions, with
those of others, and generated ones (GAN-CLS).

Source: Reed et al. 2016, "Generative adversarial text to image synthesis" (the three kinds of pairs); Miyato & Koyama 2018 (the projection,
by which a picture's features meet every caption of a library at the price of one matrix product); Zhang et al. 2021 (XMC-GAN: the generator
is told, by the same product, how well its picture can be told from other captions); Mao et al. 2019 (mode seeking).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.systems.text import Sentences, Words


def _up(c_in: int, c_out: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(c_in, c_out, 4, stride, padding, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


def _down(c_in: int, c_out: int, norm: bool = True) -> nn.Sequential:
    norms = [nn.BatchNorm2d(c_out)] if norm else []
    return nn.Sequential(nn.Conv2d(c_in, c_out, 4, 2, 1, bias=not norm), *norms, nn.LeakyReLU(0.2))


class TextGenerator(nn.Module):
    """Shapes: latent [N, latent_dim], captions as the encoder gives them, [N, L] int64 or [N, D] -> [N, 3, 32, 32] in [-1, 1]."""

    def __init__(self, encoder: Words | Sentences, latent_dim: int = 16, width: int = 16, dim: int = 32) -> None:
        super().__init__()
        self.reads = encoder.network(dim)
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

    def __init__(self, encoder: Words | Sentences, width: int = 16, dim: int = 32) -> None:
        super().__init__()
        self.reads = encoder.network(dim)
        self.blocks = nn.Sequential(_down(3, width, norm=False), _down(width, 2 * width), _down(2 * width, 4 * width), nn.Flatten())
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


def mismatched(logits: Tensor, own: Tensor) -> Tensor:
    """log(1 + sum of exp(logit) over the captions that are not a picture's own), averaged over the pictures: all mismatched pairs at once,
    of which the worst counts most. A mean over the pairs would hide the few that differ in one word, and a batch alone holds hardly any.

    logits [N, K] of pictures with each caption of a library; own [N, K], True where that caption is the picture's.
    """
    others = logits.masked_fill(own, float("-inf"))
    return torch.logsumexp(F.pad(others, (1, 0)), 1).mean()


def told(logits: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy of picking a picture's own caption out of the library, which holds it."""
    return (torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~own, float("-inf")), 1)).mean()


def alike(images: Tensor, latent: Tensor, own: Tensor) -> Tensor:
    """How alike pictures of one caption are for the distance of their latents, over all pairs in the batch that share a caption: mode
    seeking, without a second pass of the generator. 0 where there is no such pair.

    images [N, ...], latent [N, D], own [N, K] as in `mismatched`.
    """
    same = (own.float() @ own.float().T).triu(1)
    pairs = same.sum().clamp_min(1)
    apart = lambda x: (torch.cdist(x.flatten(1)[None], x.flatten(1)[None], p=1)[0] / x[0].numel() * same).sum() / pairs
    return apart(latent) / apart(images).clamp_min(1e-4)


def owners(captions: Tensor, library: Tensor) -> Tensor:
    """[N, K], whether a caption is the library's, of captions [N, ...] and library [K, ...] as the encoder gives them."""
    return (captions[:, None] == library).flatten(2).all(2)
