"""A run small enough for a test, and what stands in for one."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ganfast.train import Trainer
from ganfast.train.command_line import recipes
from ganfast.train.command_line.recipes import Recipe
from ganfast.train.saving import checkpoint

SMALL = {
    "image_size": 16, "width": 4, "latent_dim": 6, "condition_dim": 10, "batch_size": 8, "steps": 6, "log_every": 2, "sample_every": 0,
    "checkpoint_every": 3, "fused": False, "precision": "fp32", "noise": 0.3,
}  # fmt: skip
CLOCK = ("seconds", "images_per_second", "compile_seconds")  # what differs between two runs that are the same


def small(run_dir: Path, **changes) -> Recipe:
    return Recipe(run_dir=str(run_dir), **SMALL | changes)


def trained(run_dir: Path, **changes) -> Trainer:
    trainer = recipes.trainer(small(run_dir, **changes))
    trainer.fit(progress_bar=False)
    return trainer


class FakeSampler:
    """8x8 images, brighter by label."""

    styled = False

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


def leaves(value, prefix=""):
    """(path, leaf) of nested dicts and lists."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, f"{prefix}/{key}")
    else:
        yield prefix, value


def same_bits(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def log_rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / checkpoint.LOG).read_text().splitlines()]


def differences(one: Path, other: Path) -> list[str]:
    """What differs between the newest checkpoints of two runs, apart from clocks and names."""
    changing = {"/config/run_dir", "/numbers/seconds", "/numbers/logged_seconds"}
    a, b = (dict(leaves(checkpoint.load(run))) for run in (one, other))
    return [key for key in a.keys() | b.keys() if key not in changing and not (key in a and key in b and same_bits(a[key], b[key]))]
