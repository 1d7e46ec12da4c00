"""What a checkpoint holds: a Trainer's state as plain tensors and numbers, and a Trainer put back into that state."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ganfast import _tune
from ganfast._tell import tell
from ganfast.train import config as configs
from ganfast.train.config import TrainConfig
from ganfast.train.precision import Precision
from ganfast.train.randomness import mixed

NUMBERS = ("steps", "images_seen", "seconds", "logged_steps", "logged_seconds", "best")


class Stateful(Protocol):
    """A part with a state of its own, which may want a device to be put on."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict, *device: torch.device) -> None: ...


class Resumable(Protocol):
    """What is used of a Trainer here: what a checkpoint takes from it and gives back to it, NUMBERS among them."""

    config: TrainConfig
    device: torch.device
    parts: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    precision: Precision
    draws: Any  # phases.Draws, of which the torch.Generator is kept
    source: Any  # data.batches.Source
    meters: Stateful
    monitors: Stateful
    classes: list[str]
    latent_shape: tuple[int, ...] | None
    condition: object
    conditioner: object
    steps: int
    images_seen: int
    seconds: float
    logged_steps: int
    logged_seconds: float
    best: dict | None
    run_dir: Path | None

    def progress(self) -> float: ...


def state_of(trainer: Resumable) -> dict:
    """The Trainer's state, as tensors, numbers, strings, lists and dicts, which weights_only=True reads back."""
    table = trainer.condition if isinstance(trainer.condition, Tensor) else None
    return {
        "config": configs.to_dict(trainer.config),
        "networks": {name: part.state_dict() for name, part in trainer.parts.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()},
        "scalers": {name: scaler.state_dict() for name, scaler in trainer.precision.scalers.items()},
        "numbers": {name: getattr(trainer, name) for name in NUMBERS},
        "draws": trainer.draws.generator.get_state(),
        "source": trainer.source.state_dict(),
        "meters": trainer.meters.state_dict(),
        "monitors": trainer.monitors.state_dict(),
        "look": _look(trainer),
        "classes": trainer.classes,
        "table": None if table is None else table.cpu(),
        "kernels": _tune.choices(),
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
    }


def _look(trainer: Resumable) -> dict:
    """What must be the same in a resumed run, even where its networks would fit."""
    shape = list(trainer.source.reals(1)[0].shape[1:])
    return {"a sample's shape": shape, "latent_shape": list(trainer.latent_shape or ()), "condition given": trainer.conditioner is not None}


def restore(trainer: Resumable, path: Path, state: dict) -> None:
    """Puts the Trainer into `state`, whose tensors it may take over.

    Raises: ValueError for a state of other networks or classes, or one that lacks a part.
    """
    with whole(path, "run"):
        if state["classes"] != trainer.classes:
            held = state["classes"]
            hint = "" if trainer.classes else " The run had condition=..., which Trainer.load takes again."
            raise ValueError(f"train: data got the classes {trainer.classes}, {path} has {held}; a resumed run keeps its classes.{hint}")
        held = state["look"]
        for name, value in _look(trainer).items():
            if held[name] != value:
                raise ValueError(f"train: {name} is {value}, {path} has {held[name]}; a resumed run keeps it.")
        table = trainer.condition if isinstance(trainer.condition, Tensor) else None
        if table is not None and state["table"] is not None and not torch.equal(table.cpu(), state["table"]):
            raise ValueError(f"train: condition got another table than {path} has; a resumed run keeps its vectors.")
        if (held := sorted(state["networks"])) != (wanted := sorted(trainer.parts)):
            raise ValueError(f"train: the run has the parts {', '.join(wanted)}, {path} has {', '.join(held)}; a resumed run keeps them.")
        for name, part in trainer.parts.items():
            part.load_state_dict(state["networks"][name])
        for name, optimizer in trainer.optimizers.items():
            settings = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
            optimizer.load_state_dict(state["optimizers"][name])
            optimizer.param_groups[0].update(settings)  # a resumed run may change them, and its device
        for name, scaler in trainer.precision.scalers.items():
            if scaler.is_enabled() and state["scalers"][name]:
                scaler.load_state_dict(state["scalers"][name])
        for name in NUMBERS:
            setattr(trainer, name, state["numbers"][name])
        trainer.source.load_state_dict(state["source"])
        trainer.meters.load_state_dict(state["meters"], trainer.device)
        trainer.monitors.load_state_dict(state["monitors"])
        if state["device"] == trainer.device.type:
            trainer.draws.generator.set_state(state["draws"])
        else:  # another kind of device draws other numbers anyway
            trainer.draws.generator.manual_seed(mixed(trainer.config.seed, "draws", trainer.steps))
        if trainer.device.type == "cpu" and state["threads"] != torch.get_num_threads():
            tell(f"the run had {state['threads']} CPU threads, now {torch.get_num_threads()}: it goes on, not bit for bit")
        _tune.adopt(state["kernels"])


def finished(
    trainer: Resumable, setting: Callable[[str, object], str] = lambda name, value: f"config.{name} = {value}", planned: int = 0
) -> str:
    """ "" while there is something to train; else why there is not, and which settings, in the words of `setting`, would go on. planned:
    the steps that the run was set to before."""
    c, where = trainer.config, trainer.run_dir or "memory"
    if trainer.progress() < 1:
        return ""
    spent = c.max_seconds is not None and trainer.seconds >= c.max_seconds
    longer = [setting("max_seconds", 2 * c.max_seconds)] if spent else []
    if c.steps < trainer.steps:
        asked = f"the run in {where} has done {trainer.steps} steps, and {setting('steps', c.steps)} is the length of all of it"
        on = f"; left out, the run goes on to step {planned}" if planned > trainer.steps and not spent else ""
        return f"{asked}: {' with '.join([setting('steps', trainer.steps + c.steps), *longer])} trains {c.steps} more{on}"
    if c.steps == trainer.steps:
        more = " with ".join([setting("steps", 2 * c.steps), *longer])
        return f"the run in {where} is finished, all its {c.steps} steps are done; {more} would train {c.steps} more"
    used = f"the {c.max_seconds:g} seconds it was given are used up, at step {trainer.steps} of {c.steps}"
    return f"the run in {where} is finished, {used}; {longer[0]} would go on"


def config_of(path: Path, state: dict) -> TrainConfig:
    """The TrainConfig that the checkpoint was written with; its run_dir becomes the folder where the checkpoint is now."""
    with whole(path, "configuration"):
        names = {f.name for f in fields(TrainConfig)}
        config = configs.from_dict({name: value for name, value in state["config"].items() if name in names}, where=str(path))
    if config.run_dir is not None:
        config.run_dir = str(path if path.is_dir() else path.parent)
    return config


@contextlib.contextmanager
def whole(path: Path, what: str) -> Iterator[None]:
    """Turns errors while a state is read into a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:400].rstrip(" :.")
        raise ValueError(f"checkpoint: {path} does not hold a whole {what} for these networks; {reason}.") from None
