"""Trainer: how it is put together, one training step, the run around the steps, saving and loading."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm

from ganfast._tell import tell
from ganfast.train import checks
from ganfast.train import config as configs
from ganfast.train.assembly import Assembly
from ganfast.train.config import TrainConfig
from ganfast.train.data.sources import source_of
from ganfast.train.distributed.world import World
from ganfast.train.networks import Network
from ganfast.train.objectives.terms import Objective
from ganfast.train.parts import Key
from ganfast.train.phases import Phase
from ganfast.train.randomness import mixed, own_randomness
from ganfast.train.saving import checkpoint, resume
from ganfast.train.saving.signals import StopRequests
from ganfast.train.turns import Meters, runner
from ganfast.train.watch import standard
from ganfast.train.watch.alarms import Monitors
from ganfast.train.watch.callbacks import as_callback


class Trainer(Assembly):
    """Trains a generator and a discriminator against each other, or any number of networks by phases.

        trainer = ganfast.Trainer(generator, discriminator, images, ganfast.TrainConfig(run_dir="runs/mine", r1=5.0))
        trainer.fit()
        images = trainer.sample(16, seed=1)

    Arguments:
        generator, discriminator: modules called as generator(latent) and discriminator(images), with a condition as
            generator(latent, condition), discriminator(images, condition); latent [B, *latent_shape], with latent_dim=0 none; fakes shaped
            as the reals, or a tuple or dict whose first tensor is; logits without a sigmoid, [B], [B, 1] or patches. discriminator None:
            there is none, and phases says what is minimised. They are moved to the device and trained in place.
        data: uint8 images [N, C, H, W], float tensors [N, ...] (images in [-1, 1]), a tuple or dict of tensors, `unpaired` domains, a
            Dataset or a DataLoader of such items, or what ganfast.train.data gives. uint8 images stay on the device.
        config: all settings, a TrainConfig.
        networks: in place of generator and discriminator, modules or ganfast.train.Network by name.
        objective: instead of the usual losses, a pure function (phase, generator, discriminator, batch), with networks by name (phase,
            networks, batch) -> loss, or (loss, numbers to log); ganfast.train.adversarial makes the usual one, autoencoding that of an
            autoencoder. phases: instead of those that the config asks for; see ganfast.train.Phase.
        condition: None: none. True: the data's second item as it is, such as labels [B] int64, vectors [B, D], images. A name: that part of
            an item. A tensor [classes, D]: the row of each label. A function: of a pair's second item, of another item as a whole; a
            tuple that it gives becomes several arguments.
        real: which part of an item the samples imitate, a name or a place; None: the first.
        callbacks: ganfast.train.Callback objects, or functions (trainer, row) that are called at each log line.

    Fields: networks, generator, discriminator, ema (the averaged generator), averages, config, steps, images_seen, seconds, device,
        run_dir, classes, best, stopped.
    Dtypes: float32 weights; the networks run in config.precision. Raises: ValueError for data, a device, a folder or settings that cannot
        serve; no file of an earlier run is touched. RuntimeError by `fit`, where the run cannot go on.
    """

    def __init__(
        self,
        generator: nn.Module | Network | None = None,
        discriminator: nn.Module | Network | None = None,
        data: object = None,
        config: TrainConfig | None = None,
        *,
        networks: dict[str, nn.Module | Network] | None = None,
        objective: Objective | None = None,
        phases: Sequence[Phase] | None = None,
        condition: object = None,
        real: Key = None,
        callbacks: Sequence[object] = (),
        _resumed: tuple[Path, dict] | None = None,
    ) -> None:
        c = self.config = config or TrainConfig()
        c.check()
        self._name_networks(generator, discriminator, networks, objective, phases)
        self.world = World.from_environment(c.device)
        self.device = c.torch_device()
        self.run_dir = Path(c.run_dir) if c.run_dir else None
        given = (*(callbacks if isinstance(callbacks, Sequence) else (callbacks,)), *standard.default(c))
        self.callbacks = [as_callback(callback) for callback in given] if self.world.rank == 0 else []
        shared = {"device": self.device, "seed": c.seed, "rank": self.world.rank, "world": self.world.size}
        how = {"backend": None if c.fused else "torch", "real": real, "labels": condition if isinstance(condition, str) else None}
        self.source = source_of(data, batch_size=c.batch_size, flip=c.flip, channels_last=c.channels_last, **how, **shared)
        self.world.agree("items in the data", self.source.length or 0)
        self._take_conditions(condition)
        checks.parts(self)
        self._put_together()
        self.meters, self.monitors = Meters(), Monitors(c.thresholds, loss=c.loss)
        self.steps, self.images_seen, self.seconds, self.best = 0, 0, 0.0, None
        self.logged_steps, self.logged_seconds, self.stopped, self.asked, self.captured = 0, 0.0, None, None, False
        if _resumed:
            resume.restore(self, *_resumed)
        self.run = self.world.first(lambda: self._open(_resumed and _resumed[0]))  # last: after an error above it would stay locked

    @classmethod
    def load(
        cls,
        path: str | Path,
        generator: nn.Module | Network | None = None,
        discriminator: nn.Module | Network | None = None,
        data: object = None,
        config: TrainConfig | None = None,
        **options,
    ) -> "Trainer":
        """A trainer that goes on where the checkpoint at `path` was written: a file, or a run's folder for its newest good one. On a
        CPU, with the settings it had (config None), the same data and options, it does bit for bit what an unbroken run would have."""
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

    def progress(self) -> float:
        """The share of the run that is done, from 0 to 1: by steps or by time, whichever is larger."""
        c = self.config
        return max(self.steps / c.steps, self.seconds / c.max_seconds if c.max_seconds else 0.0)

    def step(self) -> None:
        """One training step: all phases that are due at it. Never waits for the device."""
        with contextlib.nullcontext() if self.captured else checks.first_step(self):
            self._step()
        self.captured = True

    def _step(self) -> None:
        c, done = self.config, self.progress()
        weights = c.weights(done)
        self._follow(done)
        self.steps += 1
        keep = min(c.ema, self.steps / (self.steps + c.ema_ramp))
        with self.precision.switches(), own_randomness(mixed(c.seed, self.steps, self.world.rank), self.device):  # for dropout
            for turn, waiting in self._due():
                args = weights, keep, self.source.next(), waiting
                turn.run = turn.run or runner(turn, self.world, self.device, *args)
                self.meters.add(turn.run(*args))
                self.images_seen += c.batch_size

    def fit(self, *, progress_bar: bool = True) -> None:
        """Trains until config.steps or config.max_seconds are done, or a SIGTERM, Ctrl-C or `stop` asks to end it (`stopped` says which);
        then writes a checkpoint."""
        c, before, start, self.stopped = self.config, self.seconds, time.monotonic(), None
        self.asked = None
        c.check()  # it may have been changed since
        if self.world.rank == 0 and (words := resume.finished(self)):
            tell(words)
        self.run = self.run or self._open(self.run_dir)
        try:
            self.source.reals(standard.WATCHED)  # read and kept before training reads: a second reader may disturb the first
            if self.run:
                self.run.begin(configs.to_dict(c), self.steps, self.source.broken, lambda: resume.state_of(self))
            self._call("on_start")
            with (
                StopRequests() as requests,
                self.world.together(lambda: f" at step {self.steps}{self._left()}"),
                tqdm(total=c.steps, initial=self.steps, unit="step", mininterval=1, disable=not progress_bar or self.world.rank > 0) as bar,
            ):
                while self.progress() < 1 and not self.stopped:
                    self.step()
                    if self.run:
                        self.run.keep_kernels()  # before anything that the step made is on the disk
                    bar.update()
                    asked = requests.asked or self.asked
                    self.seconds, any_asked = self.world.largest(before + time.monotonic() - start, float(bool(asked)))
                    self.stopped = (asked or "another process") if any_asked else None
                    done = self.progress() >= 1
                    if done or self.steps % c.log_every == 0:
                        self.log(bar)
                    self._call("on_step")
                    if self.world.size == 1:  # of several processes the others learn it after the next step
                        self.stopped = self.stopped or self.asked
                    if done or self.stopped or self.steps % c.checkpoint_every == 0:
                        self._checkpoint()
            self._call("on_end")
            if self.stopped and self.world.rank == 0:
                tell(f"stopped at step {self.steps} of {c.steps} by {self.stopped}{f'; saved in {self.run_dir}' if self.run else ''}")
        finally:
            self.source.close()
            if self.run:
                self.run.close()
                self.run = None

    def stop(self, reason: str = "stop()") -> None:
        """Ends `fit` after the present step, of several processes after the next, with a checkpoint, as Ctrl-C does. For callbacks."""
        self.asked = reason

    def log(self, bar: tqdm | None = None) -> dict:
        """Writes a log line: means since the last one, and alarms. The only place that waits for the device."""
        count, seconds = self.steps - self.logged_steps, self.seconds - self.logged_seconds
        self.logged_steps, self.logged_seconds = self.steps, self.seconds
        means = self.meters.read(self.world)
        speed = count * self.config.batch_size / seconds if seconds > 0 else 0.0
        row = {"step": self.steps, "images": self.images_seen, "seconds": self.seconds, "images_per_second": speed} | means
        if (in_a_row := means.get("skipped_in_a_row", 0)) >= self.config.skip_limit:
            self._give_up(f"{in_a_row} updates in a row up to step {self.steps} had gradients that are inf or NaN, and were skipped")
        if self.world.rank == 0:
            alarms = standard.watch(self, row)
            self._call("on_log", row)
            if self.run:
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
        for name, part in self.parts.items():
            if not all(p.isfinite().all() for p in part.parameters()):
                self._give_up(f"the {name}'s weights are no longer finite at step {self.steps}")
        if self.run:
            path = self.run.save(resume.state_of(self), self.steps)
            for name in self.optimizers | self.averaged:
                self.run.weights(f"{name}.safetensors", self.parts[name], self.steps)
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
