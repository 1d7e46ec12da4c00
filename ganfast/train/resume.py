"""All that a run is made of at one moment, as a checkpoint holds it, and back."""

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ganfast import _tune
from ganfast.train import config as configs
from ganfast.train.config import TrainConfig

if TYPE_CHECKING:
    from ganfast.train.loop import Trainer

NUMBERS = ("steps", "images_seen", "seconds", "logged_steps", "logged_seconds", "best")


def state_of(trainer: "Trainer") -> dict:
    """Tensors, numbers, strings, lists and dicts of these: what weights_only=True reads back."""
    networks = {"generator": trainer.generator, "discriminator": trainer.discriminator, "ema": trainer.ema}
    rng = {"draws": trainer.draws.generator.get_state(), "torch": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(trainer.device)
    table = trainer.condition if isinstance(trainer.condition, Tensor) else None
    return {
        "config": configs.to_dict(trainer.config),
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()},
        "scalers": {name: scaler.state_dict() for name, scaler in trainer.precision.scalers.items()},
        "numbers": {name: getattr(trainer, name) for name in NUMBERS},
        "rng": rng,
        "source": trainer.source.state_dict(),
        "meters": trainer.meters.state_dict(),
        "monitors": trainer.monitors.state_dict(),
        "classes": trainer.classes,
        "table": None if table is None else table.cpu(),
        "kernels": _tune.choices(),
        "threads": torch.get_num_threads(),
    }


def restore(trainer: "Trainer", path: Path, state: dict) -> None:
    """Raises: ValueError for a state of other networks or classes, or one that lacks a part. `state` may be used up."""
    with whole(path, "run"):
        if state["classes"] != trainer.classes:
            held = state["classes"]
            raise ValueError(f"train: data got the classes {trainer.classes}, {path} has {held}; a resumed run keeps its classes.")
        networks = {"generator": trainer.generator, "discriminator": trainer.discriminator, "ema": trainer.ema}
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in trainer.optimizers.items():
            betas = optimizer.param_groups[0]["betas"]  # a setting, which a resumed run may change
            optimizer.load_state_dict(state["optimizers"][name])
            optimizer.param_groups[0]["betas"] = betas
        for name, scaler in trainer.precision.scalers.items():
            if scaler.is_enabled() and state["scalers"][name]:
                scaler.load_state_dict(state["scalers"][name])
        for name in NUMBERS:
            setattr(trainer, name, state["numbers"][name])
        trainer.source.load_state_dict(state["source"])
        trainer.meters.load_state_dict(state["meters"], trainer.device)
        trainer.monitors.load_state_dict(state["monitors"])
        trainer.draws.generator.set_state(state["rng"]["draws"])
        if trainer.world.rank == 0:  # the other processes' own generators, which dropout draws from, are not kept
            torch.set_rng_state(state["rng"]["torch"])
        if trainer.world.rank == 0 and trainer.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], trainer.device)
        _tune.adopt(state["kernels"])


def config_of(path: Path, state: dict) -> TrainConfig:
    """The settings the checkpoint was written with, as far as they are the trainer's."""
    with whole(path, "configuration"):
        names = {f.name for f in fields(TrainConfig)}
        return configs.from_dict({name: value for name, value in state["config"].items() if name in names}, where=str(path))


@contextlib.contextmanager
def whole(path: Path, what: str) -> Iterator[None]:
    """Turns what goes wrong when a state is taken apart into a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0].rstrip(" :")
        raise ValueError(f"checkpoint: {path} does not hold a whole {what} for these networks; {reason}.") from None
