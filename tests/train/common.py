"""A run small enough for a test."""

from pathlib import Path

import torch

from ganfast.train import TrainConfig

SMALL = {
    "image_size": 16, "width": 4, "latent_dim": 6, "condition_dim": 10, "batch_size": 8, "steps": 6, "log_every": 2, "sample_every": 3,
    "checkpoint_every": 3, "fused": False,
}  # fmt: skip


def small(run_dir: Path, **changes) -> TrainConfig:
    return TrainConfig(run_dir=str(run_dir), **SMALL | changes)


class Draws:
    """As phases.Draws: uniform numbers of a generator."""

    def __init__(self, seed: int = 0) -> None:
        self.generator, self.asked = torch.Generator().manual_seed(seed), []

    def uniform(self, *shape: int) -> torch.Tensor:
        self.asked.append(shape)
        return torch.rand(shape, generator=self.generator)
