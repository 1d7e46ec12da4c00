"""The trainer: what it is made of, a step, the run around the steps, its state."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ganfast import _tune
from ganfast.train import callbacks as standard
from ganfast.train import checkpoint, checks, monitors, prepare, resume
from ganfast.train.config import TrainConfig
from ganfast.train.distributed import World
from ganfast.train.phases import Draws, Objective, Phase, adversarial, phases_of, turns_of
from ganfast.train.precision import Precision
from ganfast.train.randomness import mixed, own_randomness
from ganfast.train.sampling import Sampler, conditioner
from ganfast.train.signals import StopRequests
from ganfast.train.sources import source_of
from ganfast.train.turns import Meters, Turn, Updates, runner

NETWORKS = ("generator", "discriminator")


class Trainer:
    """Trains two networks of yours against each other.

        trainer = ganfast.Trainer(generator, discriminator, images, ganfast.TrainConfig(run_dir="runs/mine", r1=5.0))
        trainer.fit()
        images = trainer.sample(16, seed=1)

    Arguments:
        generator, discriminator: modules called as generator(latent) and discriminator(images), with a condition as
            generator(latent, condition), discriminator(images, condition); latent [B, *latent_shape]; fakes shaped as the reals; logits
            without a sigmoid, [B], [B, 1] or patches. They are moved to the device and trained in place.
        data: uint8 images [N, C, H, W], float tensors [N, ...] (images in [-1, 1]), a pair of tensors (images, labels), a Dataset or a
            DataLoader of images or such pairs, or what ganfast.train.data gives. uint8 images stay on the device.
        config: all settings, a TrainConfig.
        objective: instead of the usual losses, a pure function (phase, generator, discriminator, batch) -> (loss, numbers to log); see
            ganfast.train.phases, whose `adversarial` is the default. phases: instead of those that the config asks for.
        condition: None: none. True: the data's second item as it is, such as labels [B] int64, vectors [B, D], images. A tensor
            [classes, D]: the row of each label. A function of the data's second item.
        callbacks: ganfast.train.Callback objects, or functions (trainer, row) that are called at each log line.

    Fields: generator, discriminator, ema (the averaged generator), config, steps, images_seen, seconds, device, run_dir, classes, best.
    Dtypes: float32 weights; the networks run in config.precision. Raises: ValueError for data, a device, a folder or settings that cannot
        serve; no file of an earlier run is touched. RuntimeError by `fit`, where the run cannot go on.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        data: object,
        config: TrainConfig | None = None,
        *,
        objective: Objective | None = None,
        phases: Sequence[Phase] | None = None,
        condition: object = None,
        callbacks: Sequence[object] = (),
        _resumed: tuple[Path, dict] | None = None,
    ) -> None:
        c = self.config = config or TrainConfig()
        c.check()
        checks.networks(generator, discriminator, objective is None)
        self.world = World.from_environment(c.device)
        self.device = c.torch_device()
        self.run_dir = Path(c.run_dir) if c.run_dir else None
        self.generator, self.discriminator, self.condition = generator, discriminator, condition
        own = standard.default(c) if self.run_dir else []
        given = callbacks if isinstance(callbacks, Sequence) else (callbacks,)
        self.callbacks = [standard.as_callback(callback) for callback in (*given, *own)] if self.world.rank == 0 else []
        backend = None if c.fused else "torch"
        shared = {"device": self.device, "seed": c.seed, "rank": self.world.rank, "world": self.world.size}
        self.source = source_of(data, batch_size=c.batch_size, flip=c.flip, channels_last=c.channels_last, backend=backend, **shared)
        self.world.agree("items in the data", self.source.length or 0)
        self.latent_shape = c.latent_shape or (c.latent_dim,)
        self.conditioner = conditioner(condition, self.device)
        self.classes = list(self.source.classes) if self.conditioner else []
        checks.parts(self)
        networks = {name: getattr(self, name) for name in NETWORKS}
        prepare.prepare(networks, c, self.device, self.world)
        self.precision = Precision(c.precision, self.device)
        self.rates = {"generator": c.learning_rate, "discriminator": c.discriminator_learning_rate or c.learning_rate}
        self.optimizers = prepare.optimizers(networks, c, self.device)
        self.updates = Updates(networks, self.optimizers, objective or adversarial(c), self.precision, self.world)
        self.average, self.ema = self.updates.average, self.updates.average.module
        self.draws = Draws(torch.Generator(self.device).manual_seed(mixed(c.seed, "draws")), self.world.rank, self.world.size)
        self.phases = phases_of(c) if phases is None else tuple(phases)
        checks.phases(self.phases, c, objective is None)
        look = {"latent_shape": self.latent_shape, "condition": self.conditioner, "augment": c.augment, "noise": c.noise}
        distinct = {group: Turn(group, self.updates, self.source, self.draws, look) for group in turns_of(self.phases)}
        self.turns = [distinct[group] for group in turns_of(self.phases)]
        self.meters, self.monitors = Meters(), monitors.Monitors(c.thresholds, loss=c.loss)
        self.steps, self.images_seen, self.seconds, self.best = 0, 0, 0.0, None
        self.logged_steps, self.logged_seconds, self.stopped, self.captured = 0, 0.0, None, False
        if _resumed:
            resume.restore(self, *_resumed)
        self.run = self.world.first(lambda: self._open(_resumed and _resumed[0]))  # at last, as a mistake above would keep it locked

    @classmethod
    def load(
        cls, path: str | Path, generator: nn.Module, discriminator: nn.Module, data: object, config: TrainConfig | None = None, **options
    ) -> "Trainer":
        """A trainer that goes on where the checkpoint at `path` was written: a file, or a run's folder for its newest good one. On a
        CPU, with the settings it had (config None) and the same data, it does bit for bit what the uninterrupted run would have."""
        world = World.from_environment(config.device if config else "auto")
        state = world.first(lambda: checkpoint.with_kernels(Path(path)), share=True)
        config = config or resume.config_of(Path(path), state)
        return cls(generator, discriminator, data, config, _resumed=(Path(path), state), **options)

    def save(self, path: str | Path) -> None:
        """All that `load` needs, in one file, by the first process: at `path` is the old one or the new one whole, whatever happens."""
        if self.world.rank == 0:
            checkpoint.write(resume.state_of(self), Path(path))

    @property
    def name(self) -> str:
        return f"{type(self.generator).__name__}, {self.run_dir or 'not saved'}, step {self.steps}"

    def sample(self, n: int, condition: object = None, seed: int = 0) -> Tensor:
        """[n, ...] of the averaged generator; see ganfast.train.sampling.Sampler.sample for condition, seed and errors."""
        return self.sampler().sample(n, condition, seed)

    def sampler(self) -> Sampler:
        seconds = lambda: self.source.reals(standard.WATCHED)[1]
        return Sampler(self.ema, self.latent_shape, self.name, self.steps, self.classes, self.conditioner, seconds)

    def progress(self) -> float:
        """How much of the run is done, by steps or by time, whichever is further."""
        c = self.config
        return max(self.steps / c.steps, self.seconds / c.max_seconds if c.max_seconds else 0.0)

    def step(self) -> None:
        """All phases that are due. Nothing waits for the device."""
        with contextlib.nullcontext() if self.captured else checks.first_step(self):
            self._step()
        self.captured = True

    def _step(self) -> None:
        c, done = self.config, self.progress()
        fall, weights = c.fall(done), c.weights(done)
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.rates[name] * fall
        self.steps += 1
        keep = min(c.ema, self.steps / (self.steps + c.ema_ramp))
        with self.precision.switches(), own_randomness(mixed(c.seed, self.steps, self.world.rank), self.device):  # dropout's and such
            for turn in self.turns:
                if self.steps % turn.interval == 0:
                    args = weights, keep, self.source.next()
                    turn.run = turn.run or runner(turn, self.world, self.device, *args)
                    self.meters.add(turn.run(*args))
                    self.images_seen += c.batch_size

    def fit(self, *, progress_bar: bool = True) -> None:
        """Trains until config.steps or config.max_seconds are done, or a SIGTERM or Ctrl-C asks to stop (`stopped` says which); then writes
        a checkpoint."""
        c, before, start = self.config, self.seconds, time.monotonic()
        c.check()  # it may have been changed since
        self.stopped = None
        self.run = self.run or self._open(self.run_dir)
        first = self.world.rank == 0
        try:
            self.source.reals(standard.WATCHED)  # before training's own reading, which another one may disturb
            resume.begin(self)
            self._call("on_start")
            with (
                StopRequests() as requests,
                self.world.together(lambda: f" at step {self.steps}{self._left()}"),
                tqdm(total=c.steps, initial=self.steps, unit="step", mininterval=1, disable=not (progress_bar and first)) as bar,
            ):
                while self.progress() < 1 and not self.stopped:
                    self.step()
                    if self.run:  # before anything that the step made is
                        self.run.keep_kernels(_tune.choices())
                    bar.update()
                    self.seconds, asked = self.world.largest(before + time.monotonic() - start, float(bool(requests.asked)))
                    self.stopped = (requests.asked or "another process") if asked else None
                    done = self.progress() >= 1
                    if done or self.steps % c.log_every == 0:
                        self.log(bar)
                    self._call("on_step")
                    if done or self.stopped or self.steps % c.checkpoint_every == 0:
                        self._checkpoint()
            self._call("on_end")
        finally:
            self.source.close()
            if self.run:
                self.run.close()
                self.run = None

    def log(self, bar: tqdm | None = None) -> dict:
        """Means since the last line, alarms, and the line written; the only wait for the device."""
        count, seconds = self.steps - self.logged_steps, self.seconds - self.logged_seconds
        self.logged_steps, self.logged_seconds = self.steps, self.seconds
        means = self.meters.read(self.world)
        speed = count * self.config.batch_size / seconds if seconds > 0 else 0.0
        row = {"step": self.steps, "images": self.images_seen, "seconds": self.seconds, "images_per_second": speed} | means
        in_a_row = means.get("skipped_in_a_row", 0)
        if in_a_row >= self.config.skip_limit:
            self._give_up(f"{in_a_row} updates in a row up to step {self.steps} had gradients that are inf or NaN, and were skipped")
        if self.world.rank == 0:
            alarms = standard.watch(self, row)
            self._call("on_log", row)
            if self.run:
                self.run.keep_kernels(_tune.choices())  # a log line's samples ask too
                self.run.log(row)
            if bar is not None:
                standard.show(bar, row, alarms, self.config.loss)
        return row

    def _left(self) -> str:
        kept = checkpoint.newest(self.run_dir) if self.run_dir else None
        return f"; the last good checkpoint is {kept}" if kept else "; no checkpoint was written"

    def _give_up(self, reason: str) -> None:
        remedy = "Look for inf or NaN in the data and in what the networks give; lower the learning rate; leave fp16 for bf16."
        raise RuntimeError(f"train: {reason}{self._left()}. {remedy}")

    def _checkpoint(self) -> None:
        for name in NETWORKS:
            if not all(p.isfinite().all() for p in getattr(self, name).parameters()):
                self._give_up(f"the {name}'s weights are no longer finite at step {self.steps}")
        if self.run:
            path = self.run.save(resume.state_of(self), self.steps)
            for name, network in (("ema", self.ema), ("generator", self.generator), ("discriminator", self.discriminator)):
                self.run.weights(f"{name}.safetensors", network, self.steps)
            self._call("on_checkpoint", path)

    def save_best(self) -> None:
        """best.pt in the run's folder: the state as it is now."""
        if self.run:
            self.run.keep_best(resume.state_of(self))

    def _call(self, what: str, *args: object) -> None:
        for callback in self.callbacks:
            getattr(callback, what)(self, *args)

    def _open(self, source: Path | None) -> checkpoint.RunFolder | None:
        """The run's folder; only the first process writes. source: the checkpoint or folder that the run goes on from."""
        if self.run_dir is None or self.world.rank:
            return None
        same = source is not None and self.run_dir.resolve() in (source.resolve(), source.parent.resolve())
        return checkpoint.RunFolder(self.run_dir, resume=same, keep=self.config.keep_checkpoints)
