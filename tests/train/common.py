"""A run small enough for a test, and what stands in for one."""

from pathlib import Path

import torch
from torch import Tensor

from ganfast.train import Trainer, recipes
from ganfast.train.recipes import Recipe

SMALL = {
    "image_size": 16, "width": 4, "latent_dim": 6, "condition_dim": 10, "batch_size": 8, "steps": 6, "log_every": 2, "sample_every": 0,
    "checkpoint_every": 3, "fused": False, "precision": "fp32", "noise": 0.3,
}  # fmt: skip


def small(run_dir: Path, **changes) -> Recipe:
    return Recipe(run_dir=str(run_dir), **SMALL | changes)


def trained(run_dir: Path, **changes) -> Trainer:
    trainer = recipes.trainer(small(run_dir, **changes))
    trainer.fit(progress_bar=False)
    return trainer


class FakeSampler:
    """8x8 images, brighter by label."""

    def __init__(self, name: str = "a fake", classes: list[str] = ()) -> None:
        self.name, self.classes = name, list(classes)

    def latents(self, n: int, seed: int = 0) -> Tensor:
        return torch.randn(n, 64, generator=torch.Generator().manual_seed(seed))

    def generate(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        shift = 0 if condition is None else condition[:, None] - 0.5
        return (latents * 0.3 + shift).view(-1, 1, 8, 8).clamp(-1, 1)

    def sample(self, n: int, condition: Tensor | None = None, seed: int = 0) -> Tensor:
        return self.generate(self.latents(n, seed), condition)


class Draws:
    """As phases.Draws: uniform numbers of a generator."""

    def __init__(self, seed: int = 0) -> None:
        self.generator, self.asked = torch.Generator().manual_seed(seed), []

    def uniform(self, *shape: int) -> torch.Tensor:
        self.asked.append(shape)
        return torch.rand(shape, generator=self.generator)
