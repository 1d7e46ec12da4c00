"""What every run does without being asked: pictures, metrics, TensorBoard, alarms and the progress bar."""

import math
from typing import TYPE_CHECKING

from ganfast import _checks
from ganfast.dropin.explain import compile_seconds
from ganfast.train.config import SIGNED as MEANING
from ganfast.train.sampling import can_sample
from ganfast.train.watch import grids
from ganfast.train.watch.alarms import Alarm
from ganfast.train.watch.callbacks import Callback, TrainerLike
from ganfast.train.watch.diversity import spread

if TYPE_CHECKING:
    from tqdm import tqdm

POINTS = 2500  # of a scatter plot
WATCHED = 64  # samples and reals whose spread is compared


class Pictures(Callback):
    """Samples into `grids/` of the run's folder, every `every` steps and at the end: the same latents each time. Images as a grid,
    points in the plane as a scatter plot, nothing of other data. At the end also learning.gif of them, interpolation.gif, curves.png. Of
    a second network that is sampled the names end in its own."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step(self, trainer: TrainerLike) -> None:
        if trainer.steps % self.every == 0:
            self._write(trainer)

    def on_end(self, trainer: TrainerLike) -> None:
        if trainer.steps % self.every:
            self._write(trainer)
        run, seed = trainer.run_dir, trainer.config.seed
        for at, name in enumerate(trainer.sampled):
            sampler, end = trainer.sampler(name), f"-{name}" if at else ""
            frames = [path for path in (run / "grids").glob(f"step-*{end}.png") if at or path.stem.count("-") == 1]
            real = trainer.reals(WATCHED, name)
            if frames:
                cell = tuple(real.shape[2:]) if real.dim() == 4 else None
                fields = grids.about(f"{sampler.name}, from the first on", seed)
                grids.write_gif(run / f"learning{end}.gif", sorted(frames), fields, cell=cell, rows=bool(sampler.classes))
            if sampler.latent_shape and real.dim() == 4 and can_sample(sampler):
                grids.interpolation(run / f"interpolation{end}.gif", sampler, seed)
        if (run / "log.jsonl").exists():
            from ganfast.train.watch.curves import write_curves

            write_curves(run / "log.jsonl", run / "curves.png", trainer.name, seed)

    def _write(self, trainer: TrainerLike) -> None:
        folder, seed = trainer.run_dir / "grids", trainer.config.seed
        folder.mkdir(exist_ok=True)
        for at, name in enumerate(trainer.sampled):
            sampler, real = trainer.sampler(name), trainer.reals(WATCHED, name)
            if not can_sample(sampler):
                continue
            path = folder / f"step-{trainer.steps:07d}{f'-{name}' if at else ''}.png"
            if real.dim() == 4:
                grids.write_grid(path, sampler, seed)
            elif real.dim() == 2 and real.shape[1] == 2:
                fields = grids.about(sampler.name, seed)
                grids.scatter(path, sampler.sample(POINTS, seed=seed), trainer.reals(POINTS, name), fields)


def default(config) -> list[Callback]:
    """The callbacks of every run that has a folder; none without one."""
    if not config.run_dir:
        return []
    found: list[Callback] = [Pictures(config.sample_every)] if config.sample_every else []
    if config.metrics_every:
        from ganfast.train.watch.metrics import Evaluate

        if config.measure:
            found.append(Evaluate(config.metrics_every, measure=config.measure, best="within_3_sigma", samples=POINTS))
        else:
            found.append(Evaluate(config.metrics_every, features=config.features))
    if config.tensorboard:
        from ganfast.train.watch.tensorboard import TensorBoard

        found.append(TensorBoard())
    return found


def watch(trainer: TrainerLike, row: dict) -> list[Alarm]:
    """Adds to a log row the diversity of a fixed batch of samples, the alarms that are on, and the seconds that accelerated networks have
    spent in compiling, which a resumed run does anew. Returns the alarms to show now."""
    for at, name in enumerate(trainer.sampled):
        if not can_sample(trainer.sampler(name)):
            continue
        try:
            fakes, reals = trainer.sample(WATCHED, seed=trainer.config.seed, network=name), trainer.reals(WATCHED, name)
        except (RuntimeError, TypeError) as error:
            cause = "ganfast.train.Network(..., sampled=False) is for one that wants other arguments than a latent and a condition"
            _checks.fail("train", f"the network {name!r} cannot be sampled: {' '.join(str(error).split())[:300]}", cause, RuntimeError)
        if fakes.shape[1:] == reals.shape[1:]:
            value = spread(fakes, reals).item()
            row |= {f"{name}/spread" if at else "spread": value} if math.isfinite(value) else {}  # NaN among reals says nothing of fakes
    if seconds := compile_seconds(*trainer.parts.values()):
        row["compile_seconds"] = round(seconds, 1)
    alarms = trainer.monitors.see(row)
    row["alarms"] = trainer.monitors.active
    if alarms:
        row["alarm_messages"] = [f"{alarm.name}: {alarm.message}" for alarm in alarms]
    return alarms


def show(bar: "tqdm", row: dict, alarms: list[Alarm], loss: str) -> None:
    """Shows a log row in the progress bar, and alarms on lines of their own."""
    bar.set_postfix_str(_summary(row, loss in MEANING))
    for alarm in alarms:
        bar.write(f"step {row['step']}, {alarm.name}: {alarm.message}")


def _summary(row: dict, signs: bool) -> str:
    """signs: whether a logit's sign says real or fake, as it does for the losses in MEANING."""
    of = lambda name: [value for key, value in row.items() if key.rpartition("/")[2] == name]  # of several pairs the mean
    parts = [f"{letter} {sum(of(name)) / len(of(name)):.2f}" for letter, name in (("D", "loss_d"), ("G", "loss_g")) if of(name)]
    if signs and "real_accuracy" in row:
        parts.append(f"D right on real {row['real_accuracy']:.0%} fake {row['fake_accuracy']:.0%}")
    if row.get("skipped"):
        parts.append(f"{row['skipped']} skipped")
    if row.get("alarms"):
        parts.append("! " + ", ".join(row["alarms"]))
    return ", ".join(parts)
