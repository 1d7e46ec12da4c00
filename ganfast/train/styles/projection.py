"""A picture looked for among a style-based generator's images: the styles whose image is most like it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks
from ganfast.train.reconstruction.perceptual import laplacian
from ganfast.train.sampling import Sampler, in_eval_mode

DRAWN = 4096  # latents, whose styles' mean and deviation the search begins with


class Projected(NamedTuple):
    """styles [1, layers, D]; image [C, H, W]; losses, one for each step; noises, the maps that were found with them."""

    styles: Tensor
    image: Tensor
    losses: list[float]
    noises: list[Tensor]


def project(
    sampler: Sampler,
    image: Tensor,
    *,
    steps: int = 500,
    rate: float = 0.1,
    condition: object = None,
    each_layer: bool = False,
    unlike: Callable[[Tensor, Tensor], Tensor] = laplacian,
    noise_weight: float = 1e5,
    seed: int = 0,
) -> Projected:
    """Searches the styles w, and noise maps without structure, whose image is least unlike `image`. It begins with the mean of w, wanders
    by noise on w that falls to nothing at three quarters of the steps, and ends with the best step.

    Arguments:
        sampler: of a generator with styles; its weights stay as they are. image: [C, H, W] in [-1, 1].
        condition: a class by name or number, None: all of them, for the mean. each_layer: one w for each layer: comes nearer, and
            leaves the images that latents have. unlike: a function (made, true) of images [N, C, H, W] to a 0-d tensor.
        noise_weight: how strongly noise maps are kept free of structure; 0: they stay as they are.
    Raises: ValueError for an image of another size, steps below 1, a generator without styles.
    Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", appendix D. There images are compared by LPIPS,
        here by a Laplacian pyramid, which needs no weights.
    """
    if steps < 1:
        _checks.fail("project", f"steps got {steps}, wants at least 1")
    if not 0 < rate < math.inf:
        _checks.fail("project", f"rate got {rate!r}, wants a positive number")
    generator, device = sampler.generator, next(sampler.generator.parameters()).device
    some = sampler.styles(sampler.latents(DRAWN, seed), condition)
    mean, deviation = some.mean(0, keepdim=True), (some - some.mean(0)).square().sum(-1).mean().sqrt()
    wanted = sampler.synthesised(mean).shape[1:]
    if image.shape != wanted:
        cause = "Cut and resize it first; `ganfast project --fit` cuts the middle square"
        _checks.fail("project", f"the picture is {list(image.shape)}, the generator makes {list(wanted)}", cause)
    true, layers = image[None].to(device), mean.shape[1]
    maps = noise_maps(generator) if noise_weight else []
    kept = [noise.clone() for noise in maps]
    own = torch.Generator(device).manual_seed(seed)
    w = (mean if each_layer else mean[:, :1]).clone().requires_grad_()
    with in_eval_mode(generator), _still(generator), torch.enable_grad():
        losses, best = [], (math.inf, w.detach().clone(), kept)
        try:
            for noise in maps:
                noise.copy_(torch.randn(noise.shape, generator=own, device=device)).requires_grad_()
            optimizer = torch.optim.Adam([w, *maps], lr=rate, betas=(0.9, 0.999))
            for step in range(steps):
                done = step / steps
                optimizer.param_groups[0]["lr"] = rate * _ramp(done)
                wander = 0.05 * deviation * max(0.0, 1 - done / 0.75) ** 2
                moved = w + wander * torch.randn(w.shape, generator=own, device=device)
                made = generator.synthesis(moved.expand(-1, layers, -1))
                distance = unlike(made, true)
                loss = distance + noise_weight * structure(maps) if maps else distance
                optimizer.zero_grad()
                loss.backward()
                losses.append(distance.item())
                if losses[-1] < best[0]:
                    best = losses[-1], moved.detach().clone(), [noise.detach().clone() for noise in maps]
                optimizer.step()
                for noise in maps:
                    noise.data.sub_(noise.data.mean()).div_(noise.data.square().mean().sqrt())
            _, styles, found = best
            styles = styles.expand(-1, layers, -1).contiguous()
            with torch.no_grad():
                for noise, value in zip(maps, found):
                    noise.copy_(value)
                made = generator.synthesis(styles)[0].float()
        finally:
            for noise, value in zip(maps, kept):
                noise.requires_grad_(False).copy_(value)
    return Projected(styles, made, losses, found)


def noise_maps(generator: nn.Module) -> list[Tensor]:
    """The constant noise of its layers, of rising resolution."""
    return [module.noise for module in generator.modules() if isinstance(getattr(module, "noise", None), Tensor)]


def structure(maps: list[Tensor]) -> Tensor:
    """How like their neighbours noise maps are, over all sizes down to 8x8: the squared mean product with the map shifted by a pixel."""
    total = maps[0].new_zeros(())
    for noise in maps:
        while True:
            for dim in (2, 3):
                total = total + (noise * noise.roll(1, dim)).mean().square()
            if noise.shape[2] <= 8:
                break
            noise = F.avg_pool2d(noise, 2) * 2  # of independent numbers, times 2, the deviation stays 1
    return total


def _ramp(done: float) -> float:
    """The learning rate's course: up over the first twentieth, down over the last quarter."""
    rest = min(1.0, (1 - done) / 0.25)
    return (0.5 - 0.5 * math.cos(math.pi * rest)) * min(1.0, done / 0.05 + 1e-3)


class _still:
    """The generator's parameters without gradients, for a time."""

    def __init__(self, generator: nn.Module) -> None:
        self.learning = [p for p in generator.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for p in self.learning:
            p.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for p in self.learning:
            p.requires_grad_(True)
