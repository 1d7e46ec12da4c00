"""The loop: all that runs at every step stands in this file or in the networks."""

import contextlib
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import ganfast.functional as GF
from ganfast.step.capture import capture
from ganfast.step.ema import EMA
from ganfast.step.finite import FiniteGuard
from ganfast.train import checkpoint, grids
from ganfast.train.config import TrainConfig, to_dict
from ganfast.train.data import class_vectors, images_of

PARTS = ("generator", "discriminator", "ema", "opt_g", "opt_d")
NUMBERS = ("steps", "seconds", "classes", "conditions")


class Trainer:
    """A DCGAN, its data, optimizers and averaged generator; `fit()` trains until config.steps or config.max_seconds.

    Raises: ValueError for data, a device, a run_dir or (resuming) a checkpoint that cannot serve; no file of an earlier run is touched.
    """

    def __init__(self, config: TrainConfig, *, resume: bool = False) -> None:
        c = self.config = config
        self.run_dir, self.device = Path(c.run_dir), c.torch_device()
        state = checkpoint.open_run(self.run_dir, resume)
        data = images_of(c.data, c.image_size, c.channels)
        self.images, self.labels = data.images.to(self.device), data.labels.to(self.device)
        self.classes, self.broken = data.classes if c.conditional and len(data.classes) > 1 else [], data.broken
        self.conditions = class_vectors(len(self.classes), c.condition_dim).to(self.device) if self.classes else None
        layout = torch.channels_last if c.channels_last else torch.contiguous_format
        networks = checkpoint.networks(c, len(self.classes))
        self.generator, self.discriminator = (network.to(self.device, memory_format=layout) for network in networks)
        self.average, self.guard = EMA(self.generator), FiniteGuard(self.generator, self.discriminator)
        self.ema = self.average.module
        adam = {"lr": c.learning_rate, "betas": c.betas, "fused": True, "capturable": self.device.type == "cuda"}
        self.opt_g, self.opt_d = (torch.optim.Adam(m.parameters(), **adam) for m in networks)
        self.rng = torch.Generator(self.device).manual_seed(c.seed)
        self.steps, self.seconds, self.sums = 0, 0.0, torch.zeros(5, device=self.device)
        self.captured = None
        if state is not None:
            self.restore(state)
        self.logged_steps, self.logged_seconds = self.steps, self.seconds  # a log line precedes every checkpoint
        checkpoint.begin_run(self.run_dir, c, self.steps, self.broken)

    def progress(self) -> float:
        """How much of the run is done, by steps or by time, whichever is further."""
        c = self.config
        return max(self.steps / c.steps, self.seconds / c.max_seconds if c.max_seconds else 0.0)

    def autocast(self) -> contextlib.AbstractContextManager:
        half = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if half else contextlib.nullcontext()

    def noisy(self, images: Tensor) -> Tensor:
        if not self.config.noise:
            return images
        noise = torch.randn(images.shape, device=self.device, generator=self.rng)
        return torch.add(images, noise, alpha=self.config.noise)

    def step(self) -> None:
        """One update of the discriminator, one of the generator; on a GPU a graph, recorded at the first."""
        c, left = self.config, 1 - self.progress()
        rate = c.learning_rate * min(1.0, left / (1 - c.decay_from) if c.decay_from < 1 else 1.0)
        for optimizer in (self.opt_d, self.opt_g):
            optimizer.param_groups[0].update(lr=rate, betas=c.betas)
        self.steps += 1
        keep = min(c.ema, self.steps / (self.steps + 10))  # a short memory while the first steps still count
        self.captured = self.captured or capture(self.updates, keep)
        self.captured(keep)

    def updates(self, keep: Tensor) -> None:
        """Both updates, on the same fakes, on the device alone; one whose gradients are not finite is skipped."""
        c = self.config
        index = torch.randint(len(self.images), (c.batch_size,), device=self.device, generator=self.rng)
        latent = torch.randn(c.batch_size, c.latent_dim, device=self.device, generator=self.rng)
        condition = self.conditions[self.labels[index]] if self.classes else None  # of the reals and the fakes
        backend = None if c.fused else "torch"
        real = GF.gather_images(self.images, index, channels_last=c.channels_last, backend=backend)
        how = {"kind": c.loss, "backend": backend}
        with self.guard:
            with self.autocast():
                fake = self.generator(latent, condition)
                real_logits = self.discriminator(self.noisy(real), condition)
                fake_logits = self.discriminator(self.noisy(fake.detach()), condition)
            loss_d, stats = GF.discriminator_loss(real_logits, fake_logits, smoothing=c.smoothing, return_stats=True, **how)
            self.opt_d.zero_grad()
            loss_d.backward()
            self.guard.step(self.opt_d)
            self.discriminator.requires_grad_(False)  # spares its weights' gradients
            with self.autocast():
                fake_logits = self.discriminator(self.noisy(fake), condition)
            loss_g = GF.generator_loss(fake_logits, real_logits.detach(), **how)
            self.opt_g.zero_grad()
            loss_g.backward()
            self.guard.step(self.opt_g, ema=self.average, decay=keep)
            self.discriminator.requires_grad_(True)
        row = torch.stack([loss_d.detach(), loss_g.detach(), stats.real_accuracy, stats.fake_accuracy, torch.ones_like(stats.real_mean)])
        self.sums += torch.where(self.guard.bad.bool(), torch.zeros_like(row), row)

    def fit(self, *, progress_bar: bool = True) -> None:
        """Trains; a log line, a grid and a checkpoint at the end."""
        c, before, start = self.config, self.seconds, time.monotonic()
        with tqdm(total=c.steps, initial=self.steps, unit="step", mininterval=1, disable=not progress_bar) as bar:
            while self.progress() < 1:
                self.step()
                bar.update()
                self.seconds = before + time.monotonic() - start
                done = self.progress() >= 1
                saving = done or self.steps % c.checkpoint_every == 0
                if saving or self.steps % c.log_every == 0:  # refuses to go on with numbers that are not finite
                    self.log(bar)
                if done or self.steps % c.sample_every == 0:
                    self.write_grid()
                if saving:
                    checkpoint.save(self.state(), self.run_dir / checkpoint.CHECKPOINT)

    def log(self, bar: tqdm) -> None:
        """Means since the last line; the only wait for the device."""
        count, seconds = self.steps - self.logged_steps, self.seconds - self.logged_seconds
        *sums, good = self.sums.tolist()
        loss_d, loss_g, real, fake = (value / max(good, 1) for value in sums)
        if not good or not math.isfinite(loss_d + loss_g):
            raise RuntimeError(f"train: the losses are no longer finite at step {self.steps}; the last checkpoint is untouched.")
        self.sums.zero_()
        self.logged_steps, self.logged_seconds = self.steps, self.seconds
        row = {"step": self.steps, "seconds": self.seconds, "images_per_second": count * self.config.batch_size / seconds}
        row |= {"loss_d": loss_d, "loss_g": loss_g, "real_accuracy": real, "fake_accuracy": fake, "skipped": count - round(good)}
        with open(self.run_dir / checkpoint.LOG, "a") as file:
            file.write(json.dumps(row) + "\n")
        bar.set_postfix_str(f"D {loss_d:.2f} G {loss_g:.2f}, D right on real {real:.0%} fake {fake:.0%}")

    def write_grid(self) -> None:
        """The same latents at every call: a row per class, or a square."""
        sampler = checkpoint.Sampler(self.ema, self.config, self.classes, self.conditions, str(self.run_dir), self.steps)
        grids.write_grid(self.run_dir / checkpoint.GRIDS / f"step-{self.steps:07d}.png", sampler, self.config.seed)

    def state(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        numbers = {name: getattr(self, name) for name in NUMBERS}
        return parts | numbers | {"config": to_dict(self.config), "rng": self.rng.get_state()}

    def restore(self, state: dict) -> None:
        with checkpoint.whole(self.run_dir / checkpoint.CHECKPOINT, "run"):
            checkpoint.check_same(state, self.config, self.classes)
            for name in PARTS:
                getattr(self, name).load_state_dict(state[name])
            for name in NUMBERS:
                value = state[name]
                setattr(self, name, value.to(self.device) if isinstance(value, Tensor) else value)
            self.rng.set_state(state["rng"])
