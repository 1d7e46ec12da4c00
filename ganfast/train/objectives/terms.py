"""What a phase minimises: the adversarial losses and penalties of a config, and terms of the user's own."""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn

import ganfast.functional as GF
from ganfast import _checks, penalties
from ganfast.ops.gan_loss.reference import RELATIVISTIC
from ganfast.train import parts, trees
from ganfast.train.config import TrainConfig
from ganfast.train.networks import Networks
from ganfast.train.objectives.paths import PathLengths
from ganfast.train.objectives.pool import ImagePool
from ganfast.train.phases import EVERY, OF_GENERATOR, PENALTIES, Batch, Phase
from ganfast.train.sampling import as_arguments

Given = Tensor | tuple[Tensor, dict[str, object]]  # a loss, or a loss and numbers to log
Objective = Callable[..., Given]  # (phase, generator, discriminator, batch), or (phase, networks, batch) of a run with networks by name
KNOWN = {"discriminator": ("adversarial", *PENALTIES), "generator": ("adversarial", *OF_GENERATOR)}


def adversarial(
    config: TrainConfig,
    *,
    generator: str = "generator",
    discriminator: str = "discriminator",
    real: parts.Key | Callable = None,
    fake: ImagePool | Callable | None = None,
    mismatched: bool | Callable = False,
    terms: tuple[str, ...] | None = None,
) -> "Adversarial":
    """The losses and penalties of `config` between two networks. As an objective a pure function (phase, generator, discriminator, batch)
    -> (loss, numbers to log), which minimises the phase's `terms`. As a term, Phase(terms={"a": (adversarial(config, ...), weight)}), the
    discriminator's part in a phase that updates the discriminator, the generator's in one that updates the generator.

    Arguments:
        generator, discriminator: names of the networks.
        real: the reals, instead of those that the generator imitates: a part's name, or a function of the whole item.
        fake: the fakes, instead of the generator's samples: a function (networks, batch) -> [N, ...]; an ImagePool, whose older fakes are
            what the discriminator learns on.
        mismatched: conditions that do not belong to the reals, which make further fakes of them for the discriminator, half of what fakes
            weigh. True: the batch's own, each moved to the next sample; a function of the batch that gives them.
        terms: as a term, what it is made of; None: "adversarial", and the penalties, mode seeking and path lengths whose weights the config
            sets. Lazy ones (penalty_every) want a phase with that interval, and a term of their own: terms=("r1",).
    Shapes: the batch's. The loss is a 0-d tensor, and so are the numbers. It updates nothing and draws through the batch alone.
    Raises: ValueError for mismatched with a pool or without conditions; as a term, for a phase that updates neither or both networks.
    Source: the losses' and penalties' own, in ganfast.functional and ganfast.penalties; mode seeking: Mao et al. 2019; pools: Shrivastava
        et al. 2017; mismatched conditions: Reed et al. 2016, "Generative adversarial text to image synthesis" (GAN-CLS).
    """
    usual = ("adversarial", *(name for name in EVERY if getattr(config, name)))
    return Adversarial(config, generator, discriminator, real, fake, mismatched, usual if terms is None else tuple(terms))


class Adversarial:
    """See `adversarial`, which makes it."""

    def __init__(self, config, generator, discriminator, real, fake, mismatched, terms) -> None:
        self.config, self.kind, self.smoothing, self.backend = config, config.loss, config.smoothing, None if config.fused else "torch"
        self.generator, self.discriminator, self.terms = generator, discriminator, terms
        self.real, self.mismatched = real, mismatched
        self.pool = fake if isinstance(fake, ImagePool) else None
        self.fake = self.pool.fakes if self.pool is not None else fake
        self.paths = PathLengths() if "path_length" in terms else None
        for name in terms:
            if name not in (known := ("adversarial", *EVERY)):
                _checks.nearest("adversarial", "a term", name, known)
        if mismatched and self.pool is not None:
            _checks.fail("adversarial", "mismatched was given with a pool, which keeps images without their conditions")

    def __call__(self, phase: Phase, generator: nn.Module, discriminator: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        networks = Networks(**{self.generator: generator, self.discriminator: discriminator})
        return self.part(phase, networks, batch, {name: weight for name, (_, weight) in phase.weighted.items()})

    def part(
        self, phase: Phase, networks: Networks, batch: Batch, terms: dict[str, float] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and numbers of its networks' part in the phase. terms: names with factors; None: its own, those of this part."""
        learns = self.discriminator in phase.networks
        if learns == (self.generator in phase.networks):
            pair = f"{self.generator!r} and {self.discriminator!r}"
            _checks.fail("train", f"the phase {phase.name!r} updates {phase.networks}, an adversarial term wants one of {pair} in it")
        side = KNOWN["discriminator" if learns else "generator"]
        terms = {name: 1.0 for name in self.terms if name in side} if terms is None else terms
        return (self._discriminator if learns else self._generator)(phase, networks, batch, terms)

    def _discriminator(self, phase, networks, batch, terms):
        """The logits that the penalties need anyway serve the adversarial loss too."""
        discriminator, found, loss = networks[self.discriminator], {}, 0
        real, given = _seen(batch, self._reals(networks, batch), batch.given_to(discriminator))
        if {"adversarial", "r2", "gradient_penalty"} & terms.keys():
            fake, given_fake = _seen(batch, self._fakes(networks, batch, pooled=True), batch.given_to(discriminator))
        asked = {"return_logits": True}
        if "r1" in terms:
            found["r1"], real_logits = penalties.r1_penalty(discriminator, real, *given, **asked)
        elif "adversarial" in terms:
            real_logits = logits_of(discriminator, real, given)
        if "r2" in terms:
            found["r2"], fake_logits = penalties.r2_penalty(discriminator, fake, *given_fake, **asked)
        elif "adversarial" in terms:
            fake_logits = logits_of(discriminator, fake, given_fake)
        if "gradient_penalty" in terms:
            epsilon = batch.draws.uniform(len(real))
            found["gradient_penalty"] = penalties.gradient_penalty(discriminator, real, fake, *given, epsilon=epsilon)
        for name, penalty in found.items():
            loss = loss + terms[name] * phase.interval * batch.weights[name] * penalty
        if "adversarial" in terms:
            how = {"kind": self.kind, "smoothing": self.smoothing, "return_stats": True, "backend": self.backend}
            loss_d, stats = GF.discriminator_loss(real_logits, fake_logits, **how)
            found |= stats._asdict()
            if batch.adaptive is not None:
                if self.config.ada_course is None:
                    found["ada_sign"] = 2 * stats.real_accuracy - 1 if self.kind == "lsgan" else stats.real_sign
                    batch.adaptive.observe(found["ada_sign"], len(real) * batch.draws.world)
                found["ada_p"] = batch.adaptive.p.clone()
            if self.mismatched:
                other, given_other = _seen(batch, self._reals(networks, batch), self._mismatched(batch, discriminator))
                further, of_further = GF.discriminator_loss(real_logits, logits_of(discriminator, other, given_other), **how)
                loss_d = (loss_d + further) / 2
                found["mismatched_accuracy"] = of_further.fake_accuracy
            loss = loss + terms["adversarial"] * loss_d
            found["loss_d"] = loss_d
        return loss, found

    def _generator(self, phase, networks, batch, terms):
        generator, found, loss = networks[self.generator], {}, 0
        if "adversarial" in terms:
            found["loss_g"] = self._judged(networks, batch, self._fakes(networks, batch))
            loss = loss + terms["adversarial"] * found["loss_g"]
        if "mode_seeking" in terms:
            found["mode_seeking"] = mode_seeking(generator, batch)
            loss = loss + terms["mode_seeking"] * phase.interval * batch.weights["mode_seeking"] * found["mode_seeking"]
        if "path_length" in terms:
            paths = self.paths(generator, batch)
            loss = loss + terms["path_length"] * phase.interval * batch.weights["path_length"] * paths["path_penalty"]
            found |= paths
        return loss, found

    def _judged(self, networks: Networks, batch: Batch, fakes: Tensor) -> Tensor:
        """The generator's loss of these fakes."""
        discriminator, real_logits = networks[self.discriminator], None
        fake_logits = logits_of(discriminator, *_seen(batch, fakes, batch.given_to(discriminator)))
        if self.kind in RELATIVISTIC:
            with torch.no_grad():
                real_logits = logits_of(discriminator, *_seen(batch, self._reals(networks, batch), batch.given_to(discriminator)))
        return GF.generator_loss(fake_logits, real_logits, kind=self.kind, backend=self.backend)

    def _reals(self, networks: Networks, batch: Batch) -> Tensor:
        if self.real is None:
            return batch.imitated(networks[self.generator])
        return parts.part(batch.data, self.real, "real")

    def _fakes(self, networks: Networks, batch: Batch, pooled: bool = False) -> Tensor:
        fake = batch.samples(networks[self.generator]) if self.fake is None else self.fake(networks, batch)
        if not isinstance(fake, Tensor):
            _checks.fail("train", f"fake gives a {type(fake).__name__}, wants a tensor of samples", error=TypeError)
        if fake.shape != (shape := self._reals(networks, batch).shape):
            shapes = f"the generator gives shape {list(fake.shape)}, the data have {list(shape)}"
            _checks.fail("train", f"{shapes}; both must be the same")
        return fake if self.pool is None or not pooled else self.pool(fake, batch.draws.uniform)

    def _mismatched(self, batch: Batch, discriminator: nn.Module) -> tuple:
        if callable(self.mismatched):
            return as_arguments(self.mismatched(batch))
        if not (given := batch.given_to(discriminator)):
            _checks.fail("train", "mismatched wants conditions, and the discriminator has none", "condition=... of Trainer")
        if len(batch.real) < 2:
            _checks.fail("train", "mismatched takes the next sample's condition, and a process has 1 a batch", "Raise batch_size")
        return trees.mapped(lambda leaf: leaf.roll(1, 0) if isinstance(leaf, Tensor) else leaf, given)


class Terms:
    """The objective of phases by their terms alone: known ones by a config or by what `adversarial` gave, and functions."""

    def __init__(self, usual: "TrainConfig | Adversarial") -> None:
        self.usual = usual if isinstance(usual, Adversarial) else adversarial(usual)

    def __call__(self, phase: Phase, networks: Networks, batch: Batch) -> tuple[Tensor, dict[str, object]]:
        known = {name: weight for name, (function, weight) in phase.weighted.items() if function is None}
        loss, numbers = self.usual.part(phase, networks, batch, known) if known else (0, {})
        for name, (function, weight) in phase.weighted.items():
            if function is None:
                continue
            given = function.part(phase, networks, batch) if isinstance(function, Adversarial) else function(networks, batch)
            part, found = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
            if not isinstance(part, Tensor) or part.dim():
                got = f"a tensor of shape {list(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
                _checks.fail("train", f"the term {name!r} of phase {phase.name!r} is {got}, wants a 0-d tensor", error=TypeError)
            loss = loss + weight * part
            numbers |= {f"{name}/{key}": value for key, value in found.items()} or {name: part}
        return loss, numbers


class Pair:
    """An objective (phase, generator, discriminator, batch) as one of networks by name."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, phase: Phase, networks: Networks, batch: Batch) -> Given:
        return self.objective(phase, networks.generator, vars(networks).get("discriminator"), batch)


def adversaries(phases: tuple[Phase, ...]) -> dict[str, Adversarial]:
    """The adversarial terms among the phases' own, by a name that tells them apart."""
    found = [(f"{phase.name}/{name}", f) for phase in phases for name, (f, _) in phase.weighted.items() if isinstance(f, Adversarial)]
    return {name: term for at, (name, term) in enumerate(found) if term not in [other for _, other in found[:at]]}


def _seen(batch: Batch, images: Tensor, given: tuple) -> tuple[Tensor, tuple]:
    """Samples and their condition as the discriminator sees them."""
    if not given:
        return batch.view(images), ()
    seen, *given = batch.view(images, *given)
    return seen, tuple(given)


def logits_of(discriminator: nn.Module, images: Tensor, given: tuple) -> Tensor:
    logits = discriminator(images, *given)
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
    if batch.latent is None:
        _checks.fail("train", "mode_seeking compares samples of two latents, and the run has none", "Leave it off, or set latent_dim")
    pairs = len(batch.latent) // 2
    if not pairs:
        _checks.fail("train", f"mode_seeking compares pairs of samples, and a process has {len(batch.real)} a batch", "Raise batch_size")
    a, b = batch.latent[:pairs], batch.latent[pairs : 2 * pairs]
    given = trees.mapped(lambda leaf: leaf[:pairs] if isinstance(leaf, Tensor) else leaf, batch.given_to(generator))
    of = lambda latent: parts.samples(generator(latent, *given), batch.output_of(generator), "the generator").float()
    images = (of(a) - of(b)).abs().mean()
    return (a - b).abs().mean() / images.clamp_min(1e-5)
