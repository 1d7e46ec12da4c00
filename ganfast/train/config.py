"""One typed dataclass holds all that a run depends on; it is saved beside the run."""

import contextlib
import dataclasses
import json
import math
import os
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import torch

from ganfast import _checks

Loss = Literal["minimax", "nonsaturating", "hinge", "lsgan", "wasserstein", "relativistic", "relativistic_average"]


@dataclass
class TrainConfig:
    """A run's settings; the defaults train the conditional DCGAN on the digits."""

    data: str = "digits"
    """"digits", or a folder of images (sub-folders are classes)"""
    run_dir: str = "runs/digits"
    """where config, log, sample grids and checkpoint go"""
    conditional: bool = True
    """condition both networks on the class; without classes in the data this has no effect"""
    image_size: int = 32
    """a power of two, at least 16"""
    channels: int | None = None
    """1 grey, 3 RGB; None: 1 for the digits, 3 for a folder"""
    latent_dim: int = 64
    condition_dim: int = 16
    """length of the vector a class label is embedded in"""
    width: int = 32
    """channels of the layer next to the image"""
    fused: bool = True
    """ganfast's layers; False: the same networks from torch's"""
    channels_last: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the networks under autocast; weights and optimizer stay float32"""
    device: str = "auto"
    """auto: a GPU if torch sees one"""
    loss: Loss = "nonsaturating"
    smoothing: float = 0.0
    """real target 1 - smoothing, for the losses that have it"""
    batch_size: int = 64
    steps: int = 2500
    max_seconds: float | None = None
    """stop, with the decay finished, when this much training time is used up before `steps` are done"""
    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.5, 0.9)
    decay_from: float = 0.75
    """share of the run after which the learning rate falls linearly to 0"""
    noise: float = 0.3
    """deviation of the Gaussian noise on all that the discriminator sees: keeps it from learning 1,797 images by heart"""
    ema: float = 0.998
    """how much of the averaged generator stays at each step"""
    seed: int = 0
    log_every: int = 50
    sample_every: int = 250
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        self.betas = tuple(self.betas)
        if self.channels is None:
            self.channels = 1 if self.data == "digits" else 3
        for name in ("latent_dim", "condition_dim", "width", "steps", "log_every", "sample_every", "checkpoint_every"):
            self._want(name, getattr(self, name) >= 1, "at least 1")
        self._want("batch_size", self.batch_size >= 2, "at least 2; batch norm needs more than one image")
        self._want("image_size", self.image_size >= 16 and self.image_size.bit_count() == 1, "a power of two, at least 16")
        self._want("channels", self.channels in (1, 3), "1 (grey) or 3 (RGB)")
        self._want("max_seconds", self.max_seconds is None or self.max_seconds > 0, "a positive number, or none")
        self._want("learning_rate", 0 < self.learning_rate < math.inf, "a positive number")
        self._want("betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        self._want("decay_from", 0 <= self.decay_from <= 1, "a share in [0, 1]")
        self._want("noise", 0 <= self.noise < math.inf, "no negative number")
        self._want("ema", 0 <= self.ema < 1, "a number in [0, 1)")
        for name, kind in typing.get_type_hints(TrainConfig).items():
            if typing.get_origin(kind) is Literal and getattr(self, name) not in typing.get_args(kind):
                _checks.nearest("TrainConfig", name, getattr(self, name), typing.get_args(kind))

    def _want(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise ValueError(f"TrainConfig: {name} got {getattr(self, name)!r}, wants {wanted}.")

    def torch_device(self) -> torch.device:
        """Raises: ValueError for a device that torch does not know or see."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
            raise ValueError(f"TrainConfig: device got {self.device!r}, which torch refuses: {str(error).splitlines()[0]}") from None


def to_dict(config: TrainConfig) -> dict:
    return dataclasses.asdict(config) | {"betas": list(config.betas)}


def from_dict(values: dict, where: str = "config") -> TrainConfig:
    """Raises: ValueError for a name that TrainConfig lacks; a missing one takes its default."""
    names = [f.name for f in dataclasses.fields(TrainConfig)]
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {type(values).__name__}, wants an object of TrainConfig's fields.")
    for name in values:
        if name not in names:
            _checks.nearest(where, "field", name, names)
    try:
        return TrainConfig(**values)
    except TypeError as error:
        raise ValueError(f"{where}: a field has the wrong type: {error}.") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes `path`'s place only when all of it is on the disk: the new one or the old, never a half."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(config: TrainConfig, path: Path) -> None:
    with atomic(path) as file:
        file.write((json.dumps(to_dict(config), indent=2) + "\n").encode())


def load(path: Path) -> TrainConfig:
    """Raises: ValueError for a file that is missing, is no JSON, or holds other fields."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"config: {path} cannot be read: {error}.") from None
    return from_dict(values, str(path))
