"""Pictures and captions: the terms of a GAN that say which belong together; and a matcher, pictures and captions as vectors whose products
say so too, learned on real pairs before the GAN is trained.

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


def mismatched(logits: Tensor, own: Tensor) -> Tensor:
    """log(1 + sum of exp(logit) over the captions that are not a picture's own), averaged over the pictures: all mismatched pairs at once,
    of which the worst counts most. A mean over the pairs would hide the few that differ in one word, and a batch alone holds hardly any.

    logits [N, K] of pictures with each caption of a library; own [N, K], True where that caption is the picture's.
    """
    others = logits.masked_fill(own, float("-inf"))
    return torch.logsumexp(F.pad(others, (1, 0)), 1).mean()


def told(pairs: Tensor, logits: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy of picking a picture's own caption, whose logits are pairs [N], among those of the library; others as `mismatched`."""
    others = logits.masked_fill(own, float("-inf"))
    return (torch.logsumexp(torch.cat([pairs[:, None], others], 1), 1) - pairs).mean()


def too_alike(images: Tensor, real: Tensor, own: Tensor) -> Tensor:
    """By how much less pictures of one caption differ than real ones of the same captions do, as a share of these: 0 where they differ as
    much, 1 where the latent changes nothing. On the pairs in the batch that share a caption, each picture with the next one of its caption;
    0 where there is no such pair.

    images, real [N, ...], own [N, K] as in `mismatched`; a caption that is none of the K makes no pair.
    """
    caption, known = own.float().argmax(1), own.any(1)
    order = torch.argsort(caption)
    one, other = order[:-1], order[1:]
    same = ((caption[one] == caption[other]) & known[one] & known[other]).float()
    apart = lambda x: ((x[one] - x[other]).abs().flatten(1).mean(1) * same).sum()
    wanted = apart(real)
    return F.relu(wanted - apart(images)) / wanted.clamp_min(1e-4)


def owners(captions: Tensor, library: Tensor) -> Tensor:
    """[N, K], whether a caption is the library's, of captions [N, ...] and library [K, ...] as the encoder gives them."""
    return (captions[:, None] == library).flatten(2).all(2)


def others_of(batch: dict[str, Tensor], library: Tensor) -> Tensor:
    """[M, ...], the captions that pictures are told from: the library's [K, ...], and those that are near to the batch's own."""
    return torch.cat([library, batch["near"].flatten(0, 1)]) if "near" in batch else library


def matched(
    data: dict[str, Tensor],
    library: Tensor,
    encoder: Words | Sentences,
    *,
    steps: int = 500,
    batch: int = 64,
    seed: int = 0,
    fused: bool = True,
) -> Matcher:
    """A matcher that has learned which caption of a picture's own and all others is the picture's, held still: it is in eval mode and its
    weights want no gradient. It learns under noise, as generated pictures are less clean. Under less, small things are learned sooner,
    and a generator learns to please it without drawing them.

    Shapes: images uint8 [N, 3, 32, 32], captions [N, ...], and if there near [N, K, ...], of data; library [K, ...].
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
        rows = torch.randint(len(data["images"]), (batch,), generator=draw)
        some = {name: part[rows] for name, part in data.items()}
        seen, own, others = as_networks_see(some["images"]), some["captions"], others_of(some, library)
        noise = torch.randn(seen.shape, generator=draw) * 0.3 * torch.rand(batch, 1, 1, 1, generator=draw)
        logits = matcher(seen + noise, torch.cat([own, others]))
        loss = told(logits[:, :batch].diagonal(), logits[:, batch:], owners(own, others))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return matcher.eval().requires_grad_(False)
