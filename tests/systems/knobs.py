"""A system of a second whose generator is known: what brightness and warmth of a picture do, its latent says; its class is a bright dot."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganfast.systems import form
from ganfast.systems.form import System
from ganfast.train import Trainer
from ganfast.train.data import to_uint8


@dataclass(frozen=True)
class Options(form.Options):
    steps: int = 1
    classes: int = 0
    latent: int = 4
    """0: none, as of a generator that makes pictures from pictures"""


class Generator(nn.Module):
    """latent [N, 4], labels or none -> [N, 3, 16, 16]: the first number is brightness, the second warmth with a little brightness, the
    third green, the last a grain that no measure sees."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        bright, warm, green, grain = latent.unbind(1)
        base = 0.1 * bright + 0.05 * warm
        rgb = torch.stack([base + 0.1 * warm, base + 0.1 * green, base - 0.1 * warm], 1)
        columns = (torch.arange(16) % 2 * 2 - 1) * (0.02 + 0.005 * grain[:, None])
        images = rgb[:, :, None, None] + columns[:, None, None, :].expand(-1, 3, 16, -1) + self.shift
        if labels is not None:
            images[:, :, 2:6, 2:6] += 0.3 * labels[:, None, None, None]
        return images


class Copies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.shift


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.weight * images.mean((1, 2, 3))


def build(options: Options) -> Trainer:
    images = torch.zeros(8, 3, 16, 16)
    config = options.config(latent_dim=options.latent, batch_size=4, learning_rate=1e-6, sample_every=0)
    if not options.latent:
        return Trainer(Copies(), Discriminator(), {"images": images}, config, condition=lambda item: item["images"], real="images")
    if options.classes:
        labelled = {"images": images, "labels": torch.arange(8) % options.classes}
        return Trainer(Generator(), Discriminator(), (images, labelled["labels"]), config, condition=True)
    return Trainer(Generator(), Discriminator(), images, config)


def picture(trainer: Trainer, options: Options) -> Tensor:
    return to_uint8(torch.zeros(3, 8, 8))


SYSTEM = System("knobs", "is known: a test", Options, build, lambda trainer, options: {}, picture, credit="drawn here")
