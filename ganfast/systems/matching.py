"""A matcher: pictures and captions as vectors whose products say which belong together, learned on real pairs before a GAN is trained.

Source: Xu et al. 2018 (AttnGAN's matching model, learned first and then held still); Radford et al. 2021 (cross-entropy over captions).
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganfast
from ganfast.systems.text import Sentences, Words
from ganfast.train.parts import as_networks_see


class Matcher(nn.Module):
    """Shapes: images [N, 3, 32, 32] in [-1, 1], captions [K, ...] as the encoder gives them -> logits [N, K]."""

    def __init__(self, encoder: Words | Sentences, width: int = 16, dim: int = 32) -> None:
        super().__init__()
        self.reads = encoder.network(dim)
        c = [3, width, 2 * width, 4 * width]
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in itertools.pairwise(c)]
        self.sees = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16 * c[-1], dim))

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        vectors = self.reads(captions)
        return self.sees(images) @ vectors.T * vectors.shape[1] ** -0.5


def matched(
    images: Tensor,
    captions: Tensor,
    library: Tensor,
    encoder: Words | Sentences,
    *,
    steps: int = 500,
    batch: int = 64,
    seed: int = 0,
    fused: bool = True,
) -> Matcher:
    """A matcher that has learned which caption of a picture's and the library's is the picture's, held still: it is in eval mode and its
    weights want no gradient. It learns under noise, as generated pictures are less clean.

    Shapes: images uint8 [N, 3, 32, 32], captions [N, ...], library [K, ...].
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        matcher = Matcher(encoder)
    if fused:
        ganfast.accelerate(matcher)
    optimizer = torch.optim.Adam(matcher.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 3 * (1 - step / steps))
        rows = torch.randint(len(images), (batch,), generator=draw)
        seen, own = as_networks_see(images[rows]), captions[rows]
        noise = torch.randn(seen.shape, generator=draw) * 0.3 * torch.rand(batch, 1, 1, 1, generator=draw)
        others = (own[:, None] == library).flatten(2).all(2)
        logits = matcher(seen + noise, torch.cat([own, library]))
        pairs, rest = logits[:, :batch].diagonal(), logits[:, batch:].masked_fill(others, float("-inf"))
        loss = F.cross_entropy(torch.cat([pairs[:, None], rest], 1), torch.zeros(batch, dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return matcher.eval().requires_grad_(False)
