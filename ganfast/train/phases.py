"""A training step described as data: its phases (one update each), when they are due, their loss terms and their batch."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast.ada import AdaptiveAugment
from ganfast.augment import diff_augment
from ganfast.augment import parts as policies
from ganfast.train import parts, trees
from ganfast.train.config import TrainConfig
from ganfast.train.sampling import Conditioner, as_arguments

PENALTIES = ("r1", "r2", "gradient_penalty")
OF_GENERATOR = ("mode_seeking", "path_length")
EVERY = dict.fromkeys(PENALTIES, "penalty_every") | {name: f"{name}_every" for name in OF_GENERATOR}
"""A regulariser -> the setting that says how often it is due."""


@dataclass(frozen=True)
class Phase:
    """One update: the networks called `network`, a name or a tuple of names, take an optimizer step on what the objective makes of `terms`.

    terms: names that `adversarial` knows ("adversarial", "r1", "r2", "gradient_penalty", "mode_seeking", "path_length"), or a dict: such a
    name with a factor, {"adversarial": 1}, or a name of your own with a function and its weight, {"l1": (function, 100)}. The function
    takes (networks, batch) and gives a 0-d tensor, or that and numbers to log; what `adversarial(...)` gives is one too.
    interval: every how many steps; the terms that `adversarial` knows weigh as many times as much. repeats: how often in such a step,
    on a new batch each time. average: the networks' averages move after it.

    Raises: TypeError for names, terms and weights of another kind; ValueError for counts below 1.
    """

    name: str
    network: str | tuple[str, ...]
    terms: tuple[str, ...] | dict = field(default=(), hash=False)
    interval: int = 1
    repeats: int = 1
    average: bool = False

    def __post_init__(self) -> None:
        names = self.networks
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            _checks.fail("Phase", f"network is {self.network!r}, wants a network's name, or a tuple of names", error=TypeError)
        for name in ("interval", "repeats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                _checks.fail("Phase", f"{name} is {value!r}, wants a whole number of at least 1")
        if isinstance(self.terms, str) or not all(isinstance(term, str) for term in self.terms):
            _checks.fail("Phase", f"terms is {self.terms!r}, wants a tuple of names, or a dict", error=TypeError)
        for name, (function, weight) in self.weighted.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not (function is None or callable(function)):
                wants = "a number for a known term, (function, number) for one of your own"
                _checks.fail("Phase", f"the term {name!r} is {self.terms[name]!r}, wants {wants}", error=TypeError)

    @functools.cached_property
    def networks(self) -> tuple[str, ...]:
        return (self.network,) if isinstance(self.network, str) else tuple(self.network)

    @functools.cached_property
    def weighted(self) -> dict[str, tuple[Callable | None, float]]:
        """Name -> (function, weight); the function is None for the terms that `adversarial` knows."""
        given = self.terms if isinstance(self.terms, Mapping) else dict.fromkeys(self.terms, 1.0)
        pair = lambda term: term if isinstance(term, tuple) and len(term) == 2 else (term, 1.0) if callable(term) else (None, term)
        return {name: pair(term) for name, term in given.items()}


def phases_of(config: TrainConfig) -> tuple[Phase, ...]:
    """The usual phases: D, G, then lazy regularisers, due every few steps. Regularisers due at every step are terms of D and G."""
    c = config
    held = {name: getattr(c, every) for name, every in EVERY.items() if getattr(c, name)}
    always = {side: tuple(n for n in names if held.get(n) == 1) for side, names in (("d", PENALTIES), ("g", OF_GENERATOR))}
    d = Phase("d", "discriminator", ("adversarial", *always["d"]), repeats=c.n_critic)
    g = Phase("g", "generator", ("adversarial", *always["g"]), average=True)
    lazy = []
    if c.penalty_every > 1 and (penalties := tuple(name for name in PENALTIES if name in held)):
        lazy.append(Phase("d_reg", "discriminator", penalties, interval=c.penalty_every))
    for name, of in (("mode_seeking", "g_reg"), ("path_length", "g_path")):
        if held.get(name, 1) > 1:
            lazy.append(Phase(of, "generator", (name,), interval=held[name]))
    return (d, g, *lazy)


def corrections(config: TrainConfig, phases: Sequence[Phase]) -> dict[str, float]:
    """Network -> k / (k + 1) where a phase of its own updates it every k steps beside the one of each step, by lazy_correction: the updates
    of each step over all of them."""
    found = {}
    for name in {name for phase in phases for name in phase.networks} if config.lazy_correction else ():
        counts = [(phase.interval, phase.repeats / phase.interval) for phase in phases if name in phase.networks]
        if always := sum(count for interval, count in counts if interval == 1):
            found[name] = always / sum(count for _, count in counts)
    return found


def turns_of(phases: tuple[Phase, ...]) -> list[tuple[Phase, ...]]:
    """Phases grouped by the batch they share, whose fakes are then made once: the generator learns on the fakes that the discriminator
    was just shown. A phase joins the group before it if all of them are due at every step and the others update other networks. Of a
    phase that repeats, only the last repeat shares its batch."""
    turns: list[tuple[Phase, ...]] = []
    for phase in phases:
        shares = phase.interval == 1 and phase.repeats == 1
        if shares and turns and all(other.interval == 1 and not set(other.networks) & set(phase.networks) for other in turns[-1]):
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


class Call(NamedTuple):
    """How a batch calls a network: with a latent or without, with which condition; which part of its output are samples, and which part of
    an item these imitate; by which function (ganfast.train.Network says more). of_real: with the samples that it imitates."""

    latent: bool = True
    conditioner: Conditioner | None = None
    output: parts.Key = None
    real: parts.Key = None
    by: Callable | None = None
    of_real: bool = False


@dataclass
class Batch:
    """What a phase works on.

    real [B, ...] float, images in [-1, 1]; latent [B, *latent_shape], None where the run has none; condition: what Trainer's `condition`
    made of the data, None without; weights: the penalties' weights now, 0-d tensors; draws: where random numbers come from; augment,
    adaptive, noise: what happens to all that the discriminator sees. data: the whole item, a tree; phase: the one that is due.
    calls: how networks are called, of those that are not called as `latent` and `condition` say. learning: the parameters of each network
    that a phase of this batch updates, whose fakes carry a graph; None: all do. updated: the networks that the phase updates, the
    others' fakes are detached; None: none are. told: what the data tell of the samples, None beside a lone tensor. waiting: the names of
    networks that have not begun to learn.
    """

    real: Tensor
    latent: Tensor | None
    condition: object
    weights: dict[str, Tensor]
    draws: Draws
    augment: str = ""
    adaptive: AdaptiveAugment | None = None
    noise: float = 0.0
    data: object = None
    calls: dict[nn.Module, Call] = field(default_factory=dict, repr=False)
    learning: dict[nn.Module, list[nn.Parameter]] | None = field(default=None, repr=False)
    updated: tuple[nn.Module, ...] | None = field(default=None, repr=False)
    phase: Phase | None = None
    told: object = None
    waiting: tuple[str, ...] = ()
    made: dict[nn.Module, object] = field(default_factory=dict, repr=False)
    own: dict[nn.Module, tuple] = field(default_factory=dict, repr=False)

    @property
    def given(self) -> tuple:
        """The condition as the networks' further arguments; a tuple is several."""
        return as_arguments(self.condition)

    def given_to(self, network: nn.Module) -> tuple:
        """The same for a network that may have a condition of its own, made once a batch."""
        call = self.calls.get(network)
        if call is None:
            return self.given
        if call.of_real:
            return (self.imitated(network),)
        if network not in self.own:
            self.own[network] = as_arguments(call.conditioner and call.conditioner(self.data if self.told is None else self.told))
        return self.own[network]

    def fake(self, network: nn.Module) -> object:
        """network(latent, *condition), made once for all phases of the batch and kept in `made`; detached while a phase does not update the
        network, as its backward must not reach it."""
        if network not in self.made:
            call = self.calls.get(network, Call())
            latent = () if self.latent is None or not call.latent else (self.latent,)
            given = (*latent, *self.given_to(network))
            learned = None if self.learning is None else self.learning.get(network)
            spared = [p for p in learned or () if not p.requires_grad]  # by a phase before the one that updates it
            with torch.set_grad_enabled(torch.is_grad_enabled() if self.learning is None else learned is not None):
                for p in spared:
                    p.requires_grad_(True)
                try:
                    self.made[network] = call.by(network, *given) if call.by else network(*given)
                finally:
                    for p in spared:
                        p.requires_grad_(False)
        made = self.made[network]
        if self.updated is None or (network in self.updated and torch.is_grad_enabled()):
            return made
        return trees.renewed(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, made)

    def samples(self, network: nn.Module) -> Tensor:
        """The samples in `fake(network)`: the first tensor, or the part that the network's `output` says."""
        return parts.samples(self.fake(network), self.output_of(network), "the generator")

    def output_of(self, network: nn.Module) -> parts.Key:
        return self.calls.get(network, Call()).output

    def imitated(self, network: nn.Module) -> Tensor:
        """The reals that a network's samples imitate."""
        key = self.calls.get(network, Call()).real
        return self.real if key is None else parts.first(parts.part(self.data, key, "real"))

    def view(self, images: Tensor, *others: object) -> object:
        """Images as the discriminator sees them: augmented, with noise, both drawn anew. Others, such as condition images: moved and cut
        along with them, but neither coloured nor noisy; what is no image [N, C, H, W] stays. With others a tuple comes back.

        Raises: ValueError for other images of another size, which cannot be moved along, and for any where ADA moves the samples.
        """
        seen = images
        if self.adaptive is not None:
            if self.adaptive.moves:
                trees.mapped(lambda other: _unmoved(other, images), others)
            seen = self.adaptive(seen, uniform=self.draws.uniform, normal=self.draws.normal)
        if self.augment:
            draws = self.draws.uniform(len(images), 7)
            seen = diff_augment(images, self.augment, uniform=lambda *_: draws)
            along = ",".join(name for name in policies(self.augment) if name != "color")
            if along:
                others = trees.mapped(lambda other: self._moved(other, images, along, draws), others)
        if self.noise:
            seen = torch.add(seen, self.draws.normal(*seen.shape), alpha=self.noise)
        return (seen, *others) if others else seen

    @staticmethod
    def _moved(other: object, images: Tensor, along: str, draws: Tensor) -> object:
        if not isinstance(other, Tensor) or other.dim() not in (3, 4) or images.dim() != 4:
            return other
        if other.dim() == 3:  # a mask without channels; of another size it is no image, but a sequence
            same = other.shape[1:] == images.shape[2:]
            return Batch._moved(other[:, None], images, along, draws)[:, 0] if same else other
        if other.shape[2:] != images.shape[2:]:
            sizes = f"{list(other.shape[2:])} pixels, the samples {list(images.shape[2:])}"
            cause = 'Leave augment to "color", or give the discriminator a condition of the samples\' size'
            _checks.fail("train", f"augment={along!r} moves the samples, and the images that belong to them have {sizes}", cause)
        return diff_augment(other.float(), along, uniform=lambda *_: draws).to(other.dtype)


def _unmoved(other: object, images: Tensor) -> None:
    """Turned and stretched pixels lie between pixels, where a map of classes or a mask says nothing."""
    if isinstance(other, Tensor) and (other.dim() == 4 or (other.dim() == 3 and other.shape[1:] == images.shape[2:])):
        cause = 'Take augment="ada:color", or DiffAugment, which moves both by whole pixels: augment="color,translation,cutout"'
        _checks.fail("train", "ADA turns and stretches the samples, and not the images that belong to them", cause)
