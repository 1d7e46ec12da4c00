"""A system of seconds: 8x8 images of which the left or the right half is bright, as their label says."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganfast.models import MLPGenerator
from ganfast.systems import form
from ganfast.systems.form import System
from ganfast.train import Trainer
from ganfast.train.data import to_uint8

SIDES = ("left", "right")


@dataclass(frozen=True)
class Options(form.Options):
    steps: int = 60
    bright: float = 0.8
    """of the bright half, from 0 to 1"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.want("bright", 0 < self.bright <= 1, "a number above 0, up to 1")
        self.want("data", self.data is None, "none: the halves are drawn here")


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = MLPGenerator(4 + 2, 64, 32)

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        return self.layers(torch.cat([latent, nn.functional.one_hot(label, 2).float()], 1)).tanh().view(-1, 1, 8, 8)


class Discriminator(nn.Module):
    """Linear, with weights for each label: it sees at once which side is brighter than the reals'."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Embedding(2, 64)

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        return (self.weights(label) * images.flatten(1)).mean(1)


def halves(labels: Tensor, bright: float) -> Tensor:
    images = torch.full((len(labels), 1, 8, 8), -bright)
    for i, label in enumerate(labels.tolist()):
        images[i, :, :, 4 * label : 4 * label + 4] = bright
    return images


def build(options: Options) -> Trainer:
    labels = torch.arange(64) % 2
    config = options.config(latent_dim=4, batch_size=16, loss="hinge", learning_rate=2e-2, checkpoint_every=20)
    return Trainer(Generator(), Discriminator(), (halves(labels, options.bright), labels), config, condition=True)


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    labels = torch.arange(64) % 2
    made = trainer.sample(64, labels, seed=1).cpu()
    left, right = made[..., :4].mean((1, 2, 3)), made[..., 4:].mean((1, 2, 3))
    return {"side read": ((right > left).long() == labels).float().mean().item(), "brightness": made.abs().mean().item()}


def picture(trainer: Trainer, options: Options) -> Tensor:
    rows = trainer.sample(8, torch.arange(8) % 2, seed=options.seed).cpu()
    return to_uint8(torch.cat(list(rows), 2)).expand(3, -1, -1)


def sample(trainer: Trainer, options: Options, count: int, seed: int, text: str = "left") -> Tensor:
    if text not in SIDES:
        raise ValueError(f"halves: text got {text!r}, wants {' or '.join(SIDES)}.")
    return trainer.sample(count, torch.full((count,), SIDES.index(text)), seed)


GOALS = {"side read": (">=", 0.95)}
SYSTEM = System("halves", "draws a bright half: a test", Options, build, measure, picture, goals=GOALS, sample=sample, credit="drawn here")
