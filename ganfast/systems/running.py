"""A run of a system: made or gone on with, then measured and drawn; what of it lies in the run's folder beside the Trainer's files."""

import dataclasses
import json
import math
from pathlib import Path

import torch

import ganfast
from ganfast import _checks, _place, systems
from ganfast.systems import form
from ganfast.systems.form import Options, System
from ganfast.train import Callback, Trainer
from ganfast.train import config as configs
from ganfast.train.data import to_float
from ganfast.train.distributed.world import World
from ganfast.train.randomness import mixed, own_randomness
from ganfast.train.saving import checkpoint, resume
from ganfast.train.saving.disk import atomic
from ganfast.train.watch import grids, standard
from ganfast.train.watch.callbacks import TrainerLike

ABOUT, RESULT, PICTURE = "system.json", "result.json", "picture.png"


class About(Callback):
    """Writes which system the run is of, with its options, into the run's folder: `--resume` and `ganfast sample` read it."""

    def __init__(self, system: System, options: Options) -> None:
        self.text = _json(
            {"system": system.name, "file": systems.file_of(system), "options": _kept(system, options), "ganfast": ganfast.__version__}
        )

    def on_start(self, trainer: TrainerLike) -> None:
        _write(trainer.run_dir / ABOUT, self.text)


PATHS = ("data", "masks", "weights")
"""Options that may name a user's file or folder."""


def _kept(system: System, options: Options) -> dict:
    """With whole paths of a user's files: the run may be sampled from another folder."""
    found = dataclasses.asdict(options)
    for name in PATHS:
        value = found.get(name)
        if isinstance(value, str) and value not in system.sources and Path(value).expanduser().exists():
            found[name] = str(Path(value).expanduser().resolve())
    return found


def _gone(system: System, data: str | None) -> bool:
    """Whether a run's data were a user's, and are no longer there."""
    return data is not None and data not in system.sources and not Path(data).expanduser().exists()


def _json(value: dict) -> str:
    return json.dumps(value, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())


def saved(folder: Path, system: System | None = None) -> tuple[System, Options]:
    """The system and the options of the run in the folder. Raises: ValueError where there is none, or one of another system."""
    path = folder / ABOUT
    if not path.is_file():
        _checks.fail("run", f"there is no run of a system in {folder}", "--run-dir names its folder")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        name, file, values = held["system"], held["file"], dict(held["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"run: {path} cannot be read: {error}.") from None
    if system is not None and system.name != name:
        _checks.fail("run", f"run_dir {folder} holds a run of {name}, wants one of {system.name}")
    system = system or systems.load(file or name)
    return system, configs.from_dict(values | {"run_dir": str(folder)}, system.options, str(path))


def made(system: System, options: Options) -> Trainer:
    """A new run. Raises: ValueError where options.run_dir already holds one, before data are read."""
    folder = Path(options.run_dir)
    held = [path.name for step, path in checkpoint.checkpoints(folder).items() if step]  # of step 0 nothing was trained yet
    if held:
        remedy = "Go on with it by --resume, or take another --run-dir"
        _checks.fail("run", f"run_dir {folder} already holds a run ({', '.join(held)})", remedy)
    trainer = system.trainer(options)
    _say_what_it_is(trainer, system, options)
    return trainer


def resumed(system: System, options: Options) -> Trainer:
    """The run in options.run_dir, which `fit` goes on with: other options than seed, data and those that the system names as fixed may
    have changed. Raises: ValueError where one of these did; data may lie elsewhere if they do no longer lie where they were."""
    held, now = (_kept(system, o) for o in (saved(Path(options.run_dir), system)[1], options))
    for name in ("seed", "data", *system.fixed):
        if now[name] != held[name] and not (name == "data" and _gone(system, held[name]) and now[name] is not None):
            got = f"{name} got {getattr(options, name)!r}, the run in {options.run_dir} has {held[name]!r}"
            _checks.fail("run", f"{got}; a resumed run keeps it")
    trainer = put_back(system, options, Path(options.run_dir))
    if trainer.world.rank == 0:
        trainer.callbacks += standard.default(trainer.config)
    _say_what_it_is(trainer, system, options)
    return trainer


def _say_what_it_is(trainer: Trainer, system: System, options: Options) -> None:
    if trainer.world.rank == 0:
        trainer.callbacks.append(About(system, options))


def put_back(system: System, options: Options, path: Path) -> Trainer:
    """A Trainer as it was at the checkpoint, or at the newest one of a run's folder; no file is written.

    Raises: ValueError as checkpoint.load and resume.restore.
    """
    world = World.from_environment(options.device)
    state = world.first(lambda: checkpoint.with_kernels(path), share=True)
    # Without a folder, so that none is made or refused.
    known = system.restored(options, state) if callable(system.restored) else system.restored
    trainer = system.trainer(dataclasses.replace(options, run_dir=None, **known))
    trainer.run_dir = path if path.is_dir() else path.parent
    trainer.config.run_dir = str(trainer.run_dir)
    resume.restore(trainer, path, state)
    return trainer


def finish(system: System, trainer: Trainer, options: Options) -> dict:
    """Measures and draws: picture.png and result.json in the run's folder, and what result.json says. system.json too, as options of the
    picture may have changed where nothing was left to train."""
    _write(trainer.run_dir / ABOUT, About(system, options).text)
    numbers = lambda purpose: own_randomness(mixed(options.seed, purpose), trainer.device)
    with numbers("measure"):
        figures = system.figures(trainer, options)
    with numbers("picture"):
        image = system.drawn(trainer, options)
    fields = system.fields_of(trainer, options) | {"Description": system.does} | (system.shows(options) if system.shows else {})
    grids.write_png(trainer.run_dir / PICTURE, to_float(image), fields)
    device = torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else _place.cpu()
    result = {
        "system": system.name,
        "seed": options.seed,
        "steps": trainer.steps,
        "seconds": trainer.seconds,
        "figures": {name: value if math.isfinite(value) else None for name, value in figures.items()},
        "goals": {name: list(goal) for name, goal in system.goals_of(options).items()},
        "reached": form.reached(figures, system.goals_of(options)),
        "credit": system.credit_of(options),
        "device": f"{device}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "ganfast": ganfast.__version__},
    }
    _write(trainer.run_dir / RESULT, _json(result))
    return result
