"""What happens beside the training: at its start, its steps, its log lines, its checkpoints, its end."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ganfast.train import grids
from ganfast.train.checks import can_sample
from ganfast.train.monitors import Alarm
from ganfast.train.spread import spread

if TYPE_CHECKING:
    from tqdm import tqdm

    from ganfast.train.loop import Trainer

POINTS = 2500  # of a scatter plot
WATCHED = 64  # samples and reals whose spread is compared
MEANING = ("minimax", "nonsaturating", "hinge", "lsgan")  # losses whose logits say real or fake by themselves

class Callback:
    """A base to inherit from; every method may be left out. Called in the first process alone, so none may wait for the others."""

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step of a `fit`."""

    def on_step(self, trainer: "Trainer") -> None:
        """After every step: keep it cheap, and do not read tensors back."""

    def on_log(self, trainer: "Trainer", row: dict) -> None:
        """Before `row` is written to log.jsonl and the progress bar: numbers may be added to it."""

    def on_checkpoint(self, trainer: "Trainer", path: Path) -> None:
        """After a checkpoint was written; not for the one before the first step."""

    def on_end(self, trainer: "Trainer") -> None:
        """When a `fit` is over, also when it was stopped."""


class Pictures(Callback):
    """Samples into `grids/` of the run's folder, every `every` steps and at the end: the same latents each time. Images as a grid,
    points in the plane as a scatter plot, nothing of other data. At the end also learning.gif of them, interpolation.gif, curves.png."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step(self, trainer: "Trainer") -> None:
        if trainer.steps % self.every == 0:
            self._write(trainer)

    def on_end(self, trainer: "Trainer") -> None:
        if trainer.steps % self.every:
            self._write(trainer)
        run, sampler, seed = trainer.run_dir, trainer.sampler(), trainer.config.seed
        if frames := sorted((run / "grids").glob("*.png")):
            grids.write_gif(run / "learning.gif", frames, grids.about(f"{sampler.name}, from the first on", seed))
        if trainer.source.reals(WATCHED)[0].dim() == 4 and can_sample(trainer.generator):
            grids.interpolation(run / "interpolation.gif", sampler, seed)
        if (run / "log.jsonl").exists():
            from ganfast.train.metrics import write_curves

            write_curves(run / "log.jsonl", run / "curves.png", sampler.name, seed)

    def _write(self, trainer: "Trainer") -> None:
        if not can_sample(trainer.generator):
            return
        real, _ = trainer.source.reals(WATCHED)
        path, sampler, seed = trainer.run_dir / "grids" / f"step-{trainer.steps:07d}.png", trainer.sampler(), trainer.config.seed
        path.parent.mkdir(exist_ok=True)
        if real.dim() == 4:
            grids.write_grid(path, sampler, seed)
        elif real.dim() == 2 and real.shape[1] == 2:
            from ganfast.train import mixtures

            real = trainer.source.reals(POINTS)[0]
            mixtures.scatter(path, sampler.sample(POINTS, seed=seed), real, grids.about(sampler.name, seed))


class Function(Callback):
    """A plain function (trainer, row) as a callback, called at each log line."""

    def __init__(self, function) -> None:
        self.function = function

    def on_log(self, trainer: "Trainer", row: dict) -> None:
        self.function(trainer, row)


def as_callback(given: object) -> Callback:
    """Raises: TypeError for what is neither a Callback nor a function."""
    if isinstance(given, Callback):
        return given
    if callable(given) and not isinstance(given, type):
        return Function(given)
    raise TypeError(f"train: callbacks got {given!r}, wants ganfast.train.Callback objects or functions of (trainer, row).")


def default(config) -> list[Callback]:
    """What a run with a folder does by itself."""
    found: list[Callback] = [Pictures(config.sample_every)] if config.sample_every else []
    if config.metrics_every:
        from ganfast.train.metrics import Evaluate

        if config.measure:
            found.append(Evaluate(config.metrics_every, measure=config.measure, best="within_3_sigma", samples=POINTS))
        else:
            found.append(Evaluate(config.metrics_every, features=config.features))
    if config.tensorboard:
        from ganfast.train.tensorboard import TensorBoard

        found.append(TensorBoard())
    return found


def watch(trainer: "Trainer", row: dict) -> list[Alarm]:
    """Adds to a log row how diverse a fixed batch of samples is, and the alarms that are on; gives those to tell of now."""
    if can_sample(trainer.generator):
        fakes, reals = trainer.sample(WATCHED, seed=trainer.config.seed), trainer.source.reals(WATCHED)[0]
        if isinstance(fakes, Tensor) and fakes.shape[1:] == reals.shape[1:]:
            value = spread(fakes, reals).item()
            row |= {"spread": value} if math.isfinite(value) else {}  # NaN among the reals says nothing of the fakes
    alarms = trainer.monitors.see(row)
    row["alarms"] = trainer.monitors.active
    if alarms:
        row["alarm_messages"] = [f"{alarm.name}: {alarm.message}" for alarm in alarms]
    return alarms


def show(bar: "tqdm", row: dict, alarms: list[Alarm], loss: str) -> None:
    """A log row in the progress bar, alarms on lines of their own."""
    bar.set_postfix_str(_summary(row, loss in MEANING))
    for alarm in alarms:
        bar.write(f"step {row['step']}, {alarm.name}: {alarm.message}")


def _summary(row: dict, signs: bool) -> str:
    """signs: whether a logit's sign says what the discriminator takes an image for."""
    parts = [f"D {row['loss_d']:.2f}"] if "loss_d" in row else []
    parts += [f"G {row['loss_g']:.2f}"] if "loss_g" in row else []
    if signs and "real_accuracy" in row:
        parts.append(f"D right on real {row['real_accuracy']:.0%} fake {row['fake_accuracy']:.0%}")
    if row.get("skipped"):
        parts.append(f"{row['skipped']} skipped")
    if row.get("alarms"):
        parts.append("! " + ", ".join(row["alarms"]))
    return ", ".join(parts)
