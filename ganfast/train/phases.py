"""A training step described as data: its phases (one optimizer update each), when they are due, their loss terms and their batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn

import ganfast.functional as GF
from ganfast import _checks, penalties
from ganfast.augment import diff_augment
from ganfast.ops.gan_loss.reference import RELATIVISTIC
from ganfast.train.config import TrainConfig

PENALTIES = ("r1", "r2", "gradient_penalty")


@dataclass(frozen=True)
class Phase:
    """One update: `network` ("discriminator" or "generator") takes an optimizer step on what the objective makes of `terms`.

    interval: every how many steps; the terms that `adversarial` knows weigh as many times as much. repeats: how often in such a step,
    on a new batch each time. average: the averaged generator moves after it.
    """

    name: str
    network: str
    terms: tuple[str, ...] = ()
    interval: int = 1
    repeats: int = 1
    average: bool = False

    def __post_init__(self) -> None:
        if self.network not in ("discriminator", "generator"):
            _checks.nearest("Phase", "network", self.network, ("discriminator", "generator"))
        for name in ("interval", "repeats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                _checks.fail("Phase", f"{name} is {value!r}, wants a whole number of at least 1")
        if isinstance(self.terms, str) or not all(isinstance(term, str) for term in self.terms):
            _checks.fail("Phase", f"terms is {self.terms!r}, wants a tuple of names", error=TypeError)


def phases_of(config: TrainConfig) -> tuple[Phase, ...]:
    """The usual phases: D, G, then lazy regularisers, due every few steps. Regularisers due at every step are terms of D and G."""
    c = config
    held = tuple(name for name in PENALTIES if getattr(c, name))
    seek = ("mode_seeking",) if c.mode_seeking else ()
    d = Phase("d", "discriminator", ("adversarial", *(held if c.penalty_every == 1 else ())), repeats=c.n_critic)
    g = Phase("g", "generator", ("adversarial", *(seek if c.mode_seeking_every == 1 else ())), average=True)
    lazy = []
    if held and c.penalty_every > 1:
        lazy.append(Phase("d_reg", "discriminator", held, interval=c.penalty_every))
    if seek and c.mode_seeking_every > 1:
        lazy.append(Phase("g_reg", "generator", seek, interval=c.mode_seeking_every))
    return (d, g, *lazy)


def turns_of(phases: tuple[Phase, ...]) -> list[tuple[Phase, ...]]:
    """Phases grouped by the batch they share, whose fakes are then made once: the generator learns on the fakes that the discriminator
    was just shown. A phase joins the group before it if all of them are due at every step and the others update the other network. Of a
    phase that repeats, only the last repeat shares its batch."""
    turns: list[tuple[Phase, ...]] = []
    for phase in phases:
        shares = phase.interval == 1 and phase.repeats == 1
        if shares and turns and all(other.interval == 1 and other.network != phase.network for other in turns[-1]):
            turns[-1] += (phase,)
        else:
            turns += [(phase,)] * phase.repeats
    return turns


class Draws:
    """Random numbers of a step, from one generator. Every process of a run draws for the whole batch and keeps its part, so that a
    run's numbers do not depend on how many processes share it."""

    def __init__(self, generator: torch.Generator, rank: int = 0, world: int = 1) -> None:
        self.generator, self.rank, self.world = generator, rank, world

    def normal(self, *shape: int) -> Tensor:
        return self._part(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""
        return self._part(torch.rand, shape)

    def _part(self, draw: Callable, shape: tuple[int, ...]) -> Tensor:
        n, *rest = shape
        whole = draw(n * self.world, *rest, generator=self.generator, device=self.generator.device)
        return whole[self.rank * n : (self.rank + 1) * n]


@dataclass
class Batch:
    """What a phase works on.

    real [B, ...] float, images in [-1, 1]; latent [B, *latent_shape]; condition [B, ...] or None; weights: the terms' weights now, 0-d
    tensors; draws: where random numbers come from; augment, noise: what happens to all that the discriminator sees.
    differentiable: whether fakes carry a graph back to the generator.
    """

    real: Tensor
    latent: Tensor
    condition: Tensor | None
    weights: dict[str, Tensor]
    draws: Draws
    augment: str = ""
    noise: float = 0.0
    differentiable: bool = True
    detached: bool = False
    made: Tensor | None = field(default=None, repr=False)

    @property
    def given(self) -> tuple[Tensor, ...]:
        """The condition as the networks' further arguments."""
        return () if self.condition is None else (self.condition,)

    def fake(self, generator: nn.Module) -> Tensor:
        """generator(latent[, condition]), made once for all phases of the batch and kept in `made`; detached while the
        discriminator is updated, whose backward must not reach the generator."""
        if self.made is None:
            with torch.set_grad_enabled(self.differentiable):
                self.made = generator(self.latent, *self.given)
        return self.made.detach() if self.detached and isinstance(self.made, Tensor) else self.made

    def view(self, images: Tensor) -> Tensor:
        """Images as the discriminator sees them: augmented, with noise, both drawn anew."""
        if self.augment:
            images = diff_augment(images, self.augment, uniform=self.draws.uniform)
        if self.noise:
            images = torch.add(images, self.draws.normal(*images.shape), alpha=self.noise)
        return images


Objective = Callable[[Phase, nn.Module, nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]


def adversarial(config: TrainConfig) -> Objective:
    """The objective of `config`: a pure function of (phase, generator, discriminator, batch) that gives the loss to minimise, a 0-d tensor,
    and 0-d tensors to log. It updates nothing and draws through the batch alone.

    Source: the losses' and penalties' own, in ganfast.functional and ganfast.penalties; mode seeking: Mao et al. 2019.
    """
    kind, smoothing, backend = config.loss, config.smoothing, None if config.fused else "torch"

    def objective(phase: Phase, generator: nn.Module, discriminator: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        side = _discriminator if phase.network == "discriminator" else _generator
        return side(phase, generator, discriminator, batch, kind, smoothing, backend)

    return objective


def _discriminator(phase, generator, discriminator, batch, kind, smoothing, backend):
    """Loss and numbers of a discriminator phase. The logits that the penalties need anyway serve the adversarial loss too."""
    terms, real, fake = phase.terms, batch.view(batch.real), None
    if {"adversarial", "r2", "gradient_penalty"} & set(terms):
        fake = batch.view(_fakes(generator, batch))
    found, loss = {}, 0
    asked = {"return_logits": True}
    if "r1" in terms:
        found["r1"], real_logits = penalties.r1_penalty(discriminator, real, *batch.given, **asked)
    elif "adversarial" in terms:
        real_logits = _logits(discriminator, real, batch)
    if "r2" in terms:
        found["r2"], fake_logits = penalties.r2_penalty(discriminator, fake, *batch.given, **asked)
    elif "adversarial" in terms:
        fake_logits = _logits(discriminator, fake, batch)
    if "gradient_penalty" in terms:
        epsilon = batch.draws.uniform(len(real))
        found["gradient_penalty"] = penalties.gradient_penalty(discriminator, real, fake, *batch.given, epsilon=epsilon)
    for name, penalty in found.items():
        loss = loss + phase.interval * batch.weights[name] * penalty
    if "adversarial" in terms:
        loss_d, stats = GF.discriminator_loss(real_logits, fake_logits, kind=kind, smoothing=smoothing, return_stats=True, backend=backend)
        loss = loss + loss_d
        found |= {"loss_d": loss_d, **stats._asdict()}
    return loss, found


def _generator(phase, generator, discriminator, batch, kind, smoothing, backend):
    found, loss = {}, 0
    if "adversarial" in phase.terms:
        fake_logits = _logits(discriminator, batch.view(_fakes(generator, batch)), batch)
        real_logits = None
        if kind in RELATIVISTIC:
            with torch.no_grad():
                real_logits = _logits(discriminator, batch.view(batch.real), batch)
        loss = found["loss_g"] = GF.generator_loss(fake_logits, real_logits, kind=kind, backend=backend)
    if "mode_seeking" in phase.terms:
        found["mode_seeking"] = mode_seeking(generator, batch)
        loss = loss + phase.interval * batch.weights["mode_seeking"] * found["mode_seeking"]
    return loss, found


def _fakes(generator: nn.Module, batch: Batch) -> Tensor:
    fake = batch.fake(generator)
    if not isinstance(fake, Tensor):
        cause = "Wrap it so that it gives the samples alone, or write an objective of your own"
        _checks.fail("train", f"the generator gives a {type(fake).__name__}, wants a tensor", cause, TypeError)
    if fake.shape != batch.real.shape:
        shapes = f"the generator gives shape {list(fake.shape)}, the data have {list(batch.real.shape)}"
        _checks.fail("train", f"{shapes}; both must be the same")
    return fake


def _logits(discriminator: nn.Module, images: Tensor, batch: Batch) -> Tensor:
    logits = discriminator(images, *batch.given)
    if not isinstance(logits, Tensor):
        _checks.fail("train", f"the discriminator gives a {type(logits).__name__}, wants a tensor of logits", error=TypeError)
    if not logits.dim() or len(logits) != len(images):
        got = f"the discriminator gives shape {list(logits.shape)} for {len(images)} samples"
        _checks.fail("train", f"{got}, wants logits for each: [N], [N, 1] or patches")
    if _ends_in_sigmoid(logits):
        refuse_sigmoid()
    return logits


# Beginnings of autograd's names: what they do to numbers between 0 and 1 leaves them there.
_KEEPS_RANGE = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Permute", "Transpose", "TBackward", "Select", "Slice", "Clone",
                "Alias", "ToCopy", "Mean")  # fmt: skip


def _ends_in_sigmoid(given: Tensor) -> bool:
    """By its graph, which is sure: numbers between 0 and 1 may be logits, of an untrained discriminator above all."""
    node = given.grad_fn
    while node is not None and type(node).__name__.startswith(_KEEPS_RANGE):
        node = next((before for before, _ in node.next_functions if before is not None), None)
    ours = getattr(node, "spec", None)  # of ganfast's own layers
    fused = getattr(ours, "act", "") == "sigmoid" and getattr(ours, "gain", 1) == 1
    return fused or type(node).__name__.startswith(("SigmoidBackward", "HardsigmoidBackward"))


def refuse_sigmoid() -> NoReturn:
    _checks.fail("train", "the discriminator ends in a Sigmoid, and the losses take logits", "Remove it")


def mode_seeking(generator: nn.Module, batch: Batch) -> Tensor:
    """1 / (distance of two images / distance of their latents), to be minimised: the generator may not answer two latents alike.

    Source: Mao et al. 2019, "Mode seeking generative adversarial networks", with its mean absolute distances.
    """
    pairs = len(batch.latent) // 2
    if not pairs:
        _checks.fail("train", f"mode_seeking compares pairs of samples, and a process has {len(batch.latent)} a batch", "Raise batch_size")
    a, b = batch.latent[:pairs], batch.latent[pairs : 2 * pairs]
    given = tuple(condition[:pairs] for condition in batch.given)
    images = (generator(a, *given).float() - generator(b, *given).float()).abs().mean()
    return (a - b).abs().mean() / images.clamp_min(1e-5)
