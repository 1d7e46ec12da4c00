"""The parts of a Trainer: its networks by name, their optimizers and averages, its phases, and how all of them are called."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast.ada import AdaptiveAugment
from ganfast.step.ema import EMA
from ganfast.train import checks, networks, parts, prepare
from ganfast.train.config import TrainConfig
from ganfast.train.data.batches import Source
from ganfast.train.distributed.world import World
from ganfast.train.objectives.autoencoders import Autoencoding
from ganfast.train.objectives.terms import Adversarial, Objective, Pair, Terms, adversaries
from ganfast.train.phases import Call, Draws, Phase, corrections, phases_of, turns_of
from ganfast.train.precision import Precision
from ganfast.train.randomness import mixed
from ganfast.train.sampling import IMITATED, INHERITED, Sampler, conditioner
from ganfast.train.turns import Turn, Updates

WATCHED = 64  # of what the data tell, those that serve in turn where samples are asked for without a condition


class Assembly:
    """What a Trainer is made of; its __init__ calls these methods in their order."""

    config: TrainConfig
    world: World
    device: torch.device
    source: Source
    run_dir: Path | None
    steps: int

    def _name_networks(
        self, generator: object, discriminator: object, given: object, objective: Objective | None, phases: Sequence[Phase] | None
    ) -> None:
        """Networks with their settings, phases, the objective, all checked."""
        short, usual = given is None, objective is None
        self.settings = networks.named(generator, discriminator, given)
        self.networks = networks.Networks(**{name: network.module for name, network in self.settings.items()})
        checks.networks(self.settings, usual or isinstance(objective, Adversarial))
        if phases is None and (lacking := [name for name in ("generator", "discriminator") if name not in self.settings]):
            _checks.fail("train", f"there is no network {lacking[0]!r}", "phases=[...] says what is minimised instead of the usual losses")
        own = self.config if objective is None else objective
        self.objective = Terms(own) if isinstance(own, TrainConfig | Adversarial) else Pair(objective) if short else objective
        self.phases = phases_of(self.config) if phases is None else tuple(phases)
        checks.phases(self.phases, self.settings, self.config, usual, short)
        terms = (objective, *adversaries(self.phases).values())
        self.autoencoders = [term for term in terms if isinstance(term, Autoencoding)]
        if self.autoencoders and sum(isinstance(term, Adversarial) for term in terms) == 1:
            checks.one_config(self.autoencoders[0], self.config)
        for term in self.autoencoders:
            self.settings |= term.arranged(self.settings)
        self.starts = {term.discriminator: term.start for term in self.autoencoders}
        self.waiting: tuple[str, ...] = ()
        self.sampled = networks.sampled(self.settings, self.phases)
        first = [*self.sampled, *(name for phase in self.phases[::-1] for name in phase.networks)]
        self.main = "generator" if "generator" in self.settings else first[0]
        self.generator = self.networks[self.main]
        self.discriminator = vars(self.networks).get("discriminator")

    def _take_conditions(self, condition: object) -> None:
        """What the networks are called with."""
        c = self.config
        takes = any(network.latent for network in self.settings.values())
        self.latent_shape = (c.latent_shape or ((c.latent_dim,) if c.latent_dim else None)) if takes else None
        self.condition, self.conditioner = condition, conditioner(condition, self.device)
        self.classes = list(self.source.classes) if self.conditioner else []
        self.calls = {name: self._call_of(network) for name, network in self.settings.items()}

    def _call_of(self, network: networks.Network) -> Call:
        own = network.condition is not INHERITED
        given = conditioner(network.condition, self.device) if own else self.conditioner
        latent, of_real = network.latent and self.latent_shape is not None, network.condition is IMITATED
        return Call(latent, given, network.output, network.real, network.call, of_real)

    def _put_together(self) -> None:
        """Networks on the device, optimizers, averages, phases as turns."""
        c, used = self.config, adversaries(self.phases)
        terms = (*used.values(), *self.autoencoders)
        critics = [name for name in self.settings if name in ("discriminator", *(term.discriminator for term in terms))]
        if c.spectral_norm and not critics:
            _checks.fail("train", "spectral_norm finds no network 'discriminator', and none of an adversarial term", "Leave it off")
        prepare.prepare(self.settings, critics, c, self.device, self.world)
        keys = ["+".join(phase.networks) for phase in self.phases]
        self.precision = Precision(c.precision, self.device, list(dict.fromkeys(keys)))
        rarer = self.rarer = corrections(c, self.phases)
        self.rates = {name: prepare.rate(network, name in critics, c) * rarer.get(name, 1) for name, network in self.settings.items()}
        self.optimizers = prepare.optimizers(self.settings, self.rates, rarer, c, self.device)
        self.betas = {name: optimizer.defaults["betas"] for name, optimizer in self.optimizers.items()}
        self.rates = {name: self.rates[name] for name in self.optimizers}
        for term in self.autoencoders:
            term.prepare(self.networks, self.reals(1, term.generator), self.world)
        averages = {name: EMA(self.networks[name]) for name in networks.averaged(self.settings, self.phases)}
        self.averages = {name: average.module for name, average in averages.items()}
        self.ema = self.averages.get(self.main, self.generator)
        pools = {f"{name}-pool": term.pool for name, term in used.items() if term.pool is not None}
        kept = pools | self._adaptive()
        for term in used.values():
            if term.pool is not None:
                item = parts.whole(*self.source.reals(1))
                reals = self.reals(1, term.generator) if term.real is None else parts.first(parts.part(item, term.real, "real"))
                term.pool.begin(reals.shape[1:], self.device)
        self.averaged = {"ema" if name == "generator" else f"{name}-ema": module for name, module in self.averages.items()}
        known = getattr(self.objective, "usual", self.objective)  # of phases by their names, by an `adversarial` given as objective
        paths = {f"{name}-paths": term.paths for name, term in {"usual": known, **used}.items() if getattr(term, "paths", None)}
        for module in paths.values():
            module.to(self.device).over = self.world.mean if self.world.size > 1 else None
        held = kept | paths
        self.parts: dict[str, nn.Module] = {name: self.networks[name] for name in self.networks} | self.averaged | held
        how = self.objective, self.precision, self.world, tuple(held.values()), critics
        self.updates = Updates(self.phases, self.networks, self.optimizers, averages, *how)
        self.draws = Draws(torch.Generator(self.device).manual_seed(mixed(c.seed, "draws")), self.world.rank, self.world.size)
        usual = Call(self.latent_shape is not None, self.conditioner)
        calls = {self.networks[name]: call for name, call in self.calls.items() if call != usual}
        look = {"latent_shape": self.latent_shape, "condition": self.conditioner, "noise": c.noise, "calls": calls}
        look |= {"adaptive": kept.get("ada"), "augment": "" if c.adaptive else c.augment}
        distinct = {group: Turn(group, self.updates, self.source, self.draws, look) for group in turns_of(self.phases)}
        self.turns = [distinct[group] for group in turns_of(self.phases)]

    def _adaptive(self) -> dict[str, AdaptiveAugment]:
        """ADA's state under the name that it has in a checkpoint; nothing without ADA."""
        c = self.config
        if not c.adaptive:
            return {}
        checks.adaptive(self.objective, self.phases, self.settings)
        mean = self.world.mean if self.world.size > 1 else None
        return {"ada": AdaptiveAugment(c.adaptive, target=c.ada_target, speed=c.ada_speed, mean=mean).to(self.device)}

    def _follow(self, done: float) -> None:
        """Rates, betas and ADA's probability as they are when this share of the run is done."""
        c = self.config
        for name, optimizer in self.optimizers.items():
            group, (first, second) = optimizer.param_groups[0], self.betas[name]
            group["lr"] = self.rates[name] * c.fall(done)
            betas = first, c.beta2(done, second, self.rarer.get(name, 1))
            if group["betas"] != betas:
                group["betas"] = betas
                for turn in self.turns:  # a recording has the betas in it
                    turn.forget()
        if c.adaptive and c.ada_course is not None:
            self.parts["ada"].p.fill_(c.ada_p(done))

    def _due(self) -> Iterator[tuple[Turn, tuple[str, ...]]]:
        """The turns that are due at this step, and the names of the networks that have not begun to learn."""
        waiting = tuple(name for name, start in self.starts.items() if self.steps < start)
        if waiting != self.waiting:  # what was recorded until now is not needed again, and holds memory
            for turn in self.turns:
                turn.forget()
        self.waiting = waiting
        return ((turn, waiting) for turn in self.turns if turn.due(self.steps, waiting))

    def sample(
        self, n: int, condition: object = None, seed: int = 0, *, network: str | None = None, latents: Tensor | None = None
    ) -> Tensor:
        """[n, ...] of the averaged generator, or of another network by name; see ganfast.train.sampling.Sampler.sample for the rest."""
        return self.sampler(network).sample(n, condition, seed, latents)

    def sampler(self, network: str | None = None) -> Sampler:
        """A Sampler of a network's average, or of the network itself where it has none. Raises: ValueError for an unknown name."""
        name = self.main if network is None else network
        if name not in self.settings:
            _checks.nearest("sample", "network", name, self.settings)
        call, module = self.calls[name], self.averages.get(name, self.networks[name])
        classes = self.classes if self.settings[name].condition is INHERITED else []
        title = f"{type(self.networks[name]).__name__}{f' {name!r}' if name != self.main else ''}"
        said, latent_shape = f"{title}, {self.run_dir or 'not saved'}, step {self.steps}", self.latent_shape if call.latent else None
        seconds = lambda: self.told(WATCHED, name)[1]
        return Sampler(module, latent_shape, said, self.steps, classes, call.conditioner, seconds, call.output, call.by)

    def told(self, n: int, network: str | None = None, source: Source | None = None) -> tuple[Tensor, object]:
        """The first n (or all there are) of the data's fixed shuffle: the reals that a network's samples imitate, and what the data tell of
        them; beside a lone tensor, and for an autoencoder, the reals themselves. source: of other data than the run's."""
        real, told = (self.source if source is None else source).reals(n)
        settings = self.settings[self.main if network is None else network]
        key = settings.real
        imitated = real if key is None else parts.first(parts.part(parts.whole(real, told), key, "real"))
        return imitated, imitated if settings.condition is IMITATED else real if told is None else told

    def reals(self, n: int, network: str | None = None) -> Tensor:
        """[n, ...] of the reals that a network's samples imitate, always the same."""
        return self.told(n, network)[0]
