"""Callback: methods that are called at a run's start, steps, log lines, checkpoints and end, and what they may use of the Trainer."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ganfast.train.config import TrainConfig
from ganfast.train.data.batches import Source
from ganfast.train.sampling import Sampler
from ganfast.train.watch.alarms import Monitors


class TrainerLike(Protocol):
    """What a callback may use of the Trainer that calls it."""

    config: TrainConfig
    parts: dict[str, nn.Module]
    sampled: list[str]
    device: torch.device
    run_dir: Path | None
    source: Source
    classes: list[str]
    monitors: Monitors
    steps: int
    images_seen: int
    seconds: float
    stopped: str | None
    best: dict | None

    @property
    def name(self) -> str: ...

    def progress(self) -> float: ...

    def sample(
        self, n: int, condition: object = None, seed: int = 0, *, network: str | None = None, latents: Tensor | None = None
    ) -> Tensor: ...

    def sampler(self, network: str | None = None) -> Sampler: ...

    def reals(self, n: int, network: str | None = None) -> Tensor: ...

    def told(self, n: int, network: str | None = None, source: Source | None = None) -> tuple[Tensor, object]: ...

    def stop(self, reason: str = "stop()") -> None: ...

    def save(self, path: str | Path) -> None: ...

    def save_best(self) -> None: ...


class Callback:
    """A base to inherit from; every method may be left out. Called in the first process alone, so none may wait for the others."""

    def on_start(self, trainer: TrainerLike) -> None:
        """Before the first step of a `fit`."""

    def on_step(self, trainer: TrainerLike) -> None:
        """After every step: keep it cheap, and do not read tensors back."""

    def on_log(self, trainer: TrainerLike, row: dict) -> None:
        """Before `row` is written to log.jsonl and the progress bar: numbers may be added to it."""

    def on_checkpoint(self, trainer: TrainerLike, path: Path) -> None:
        """After a checkpoint was written; not for the one before the first step."""

    def on_end(self, trainer: TrainerLike) -> None:
        """When a `fit` is over, also when it was stopped."""


class Function(Callback):
    """A plain function (trainer, row) as a callback, called at each log line."""

    def __init__(self, function) -> None:
        self.function = function

    def on_log(self, trainer: TrainerLike, row: dict) -> None:
        self.function(trainer, row)


def as_callback(given: object) -> Callback:
    """Raises: TypeError for what is neither a Callback nor a function."""
    if isinstance(given, Callback):
        return given
    if callable(given) and not isinstance(given, type):
        return Function(given)
    raise TypeError(f"train: callbacks got {given!r}, wants ganfast.train.Callback objects or functions of (trainer, row).")
