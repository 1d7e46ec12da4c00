"""A stand-in for `ganfast.systems.form` and for the trainer of networks by name, terms and trees, until both are there: the same names
and rules, a bare loop on the CPU. It goes when they come."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import ganfast
import ganfast.functional as GF
from ganfast import penalties


@dataclass(frozen=True)
class Options:
    data: str | None = None
    run_dir: str | None = None
    steps: int = 1000
    max_seconds: float | None = None
    seed: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    fused: bool = True
    log_every: int = 50

    def want(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise ValueError(f"run: {name} got {getattr(self, name)!r}, wants {wanted}.")

    def config(self, **settings) -> SimpleNamespace:
        usual = {"loss": "nonsaturating", "learning_rate": 5e-4, "discriminator_learning_rate": None, "betas": (0.5, 0.9), "noise": 0.0}
        usual |= {"decay_from": 0.75, "ema": 0.998, "latent_dim": 0}
        return SimpleNamespace(**(vars(self) | usual | settings))


@dataclass(frozen=True)
class System:
    name: str
    does: str
    options: type[Options]
    build: Callable
    measure: Callable
    picture: Callable
    goals: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    credit: object = ""

    def trainer(self, options: Options) -> "Trainer":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return self.build(options)


@dataclass
class Network:
    module: nn.Module
    condition: object = None
    learning_rate: float | None = None
    average: bool = False


@dataclass(frozen=True)
class Phase:
    name: str
    networks: tuple[str, ...] | str
    terms: Mapping[str, object]
    average: bool = False


class Draws:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


class ImagePool:
    """Earlier fakes: once it is full, half of the new ones are kept in an older one's place, and that one is shown instead."""

    def __init__(self, size: int) -> None:
        self.size, self.kept = size, None

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        chosen, place = draws.uniform(len(images)), draws.uniform(len(images))
        if not self.size:
            return images
        if self.kept is None or len(self.kept) < self.size:
            self.kept = images if self.kept is None else torch.cat([self.kept, images])[: self.size]
            return images
        shown = images.clone()
        for i in range(len(images)):
            if chosen[i] < 0.5:
                j = int(place[i] * self.size)
                shown[i], self.kept[j] = self.kept[j].clone(), images[i]
        return shown


def unpaired(**parts: Tensor) -> dict[str, Tensor]:
    return parts


def arriving(part: Tensor) -> Tensor:
    return part.float().div(127.5).sub(1) if part.dtype == torch.uint8 else part


@dataclass
class Batch:
    data: Mapping[str, Tensor]
    real: Tensor
    draws: Draws
    noise: float
    given: Callable
    held: tuple[str, ...] = ()
    made: dict = field(default_factory=dict)

    def view(self, images: Tensor) -> Tensor:
        return images + self.noise * self.draws.normal(*images.shape) if self.noise else images

    def fake(self, network: nn.Module) -> Tensor:
        name, given = self.given(network, self.data)
        if name not in self.made:
            self.made[name] = network(*given)
        return self.made[name] if name in self.held else self.made[name].detach()


def adversarial(config, generator="generator", discriminator="discriminator", real: str | None = None, fake: Callable | None = None):
    def term(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        g, d = networks[generator], networks[discriminator]
        _, given = batch.given(d, batch.data)
        images = batch.fake(g)
        if generator in batch.held:
            return GF.generator_loss(d(batch.view(images), *given), None, kind=config.loss)
        shown = fake(images, batch.draws) if fake else images
        reals = batch.real if real is None else batch.data[real]
        return GF.discriminator_loss(d(batch.view(reals), *given), d(batch.view(shown), *given), kind=config.loss)

    return term


def r1(config):
    def term(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        d = networks["discriminator"]
        return config.r1 * penalties.r1_penalty(d, batch.view(batch.real), *batch.given(d, batch.data)[1])

    return term


class Trainer:
    def __init__(
        self,
        generator=None,
        discriminator=None,
        data=None,
        config=None,
        *,
        networks=None,
        phases: Sequence[Phase],
        condition=None,
        real=None,
    ) -> None:
        self.config, self.data, self.phases, self.real = config, data, phases, real
        self.usual = {"adversarial": adversarial(config), "r1": r1(config)}
        if networks is None:
            networks = {"generator": Network(generator, condition, average=True)}
            networks |= {"discriminator": Network(discriminator, condition, config.discriminator_learning_rate)} if discriminator else {}
        self.networks = {name: n.module for name, n in networks.items()}
        self.conditions = {id(n.module): (name, n.condition) for name, n in networks.items()}
        self.averages = {name: copy.deepcopy(n.module) for name, n in networks.items() if n.average}
        self.rates = {name: n.learning_rate or config.learning_rate for name, n in networks.items()}
        if config.fused:
            for module in (*self.networks.values(), *self.averages.values()):
                ganfast.accelerate(module)
        adam = lambda name, m: torch.optim.Adam(m.parameters(), lr=self.rates[name], betas=config.betas, fused=True)
        self.optimizers = {name: adam(name, m) for name, m in self.networks.items()}
        self.draws, self.shuffles = Draws(config.seed), torch.Generator().manual_seed(config.seed + 1)
        self.orders = {name: self._order(len(part)) for name, part in data.items()}
        self.steps, self.rows, self.seconds, self.cpu = 0, [], 0.0, 0.0

    def _order(self, length: int):
        size, rest = self.config.batch_size, torch.empty(0, dtype=torch.long)
        while True:
            while len(rest) < size:
                rest = torch.cat([rest, torch.randperm(length, generator=self.shuffles)])
            yield rest[:size]
            rest = rest[size:]

    def _given(self, network: nn.Module, data: Mapping[str, Tensor]):
        name, condition = self.conditions[id(network)]
        given = condition(data) if callable(condition) else () if condition is None else data[condition]
        return name, given if isinstance(given, tuple) else (given,)

    def fit(self, progress: Callable | None = None, every: int = 100) -> None:
        c, start, cpu, sums = self.config, time.monotonic(), time.process_time(), {}
        while self.steps < c.steps:
            fall = min(1.0, (1 - self.steps / c.steps) / (1 - c.decay_from)) if c.decay_from < 1 else 1.0
            self.steps += 1
            data = {name: arriving(part[next(self.orders[name])]) for name, part in self.data.items()}
            batch = Batch(data, data[self.real or next(iter(data))], self.draws, c.noise, self._given)
            for phase in self.phases:
                batch.held = (phase.networks,) if isinstance(phase.networks, str) else phase.networks
                for name, module in self.networks.items():  # a fake that is already made keeps its graph
                    module.requires_grad_(name in batch.held or name in self.averages)
                loss = 0
                for name, term in phase.terms.items():
                    function, weight = term if isinstance(term, tuple) else (self.usual[name], term)
                    value = function(self.networks, batch)
                    loss = loss + weight * value
                    sums[f"{phase.name}.{name}"] = sums.get(f"{phase.name}.{name}", 0) + float(value.detach())
                for name in batch.held:
                    self.optimizers[name].param_groups[0]["lr"] = self.rates[name] * fall
                    self.optimizers[name].zero_grad()
                loss.backward()
                for name in batch.held:
                    self.optimizers[name].step()
                if phase.average:
                    keep = min(c.ema, self.steps / (self.steps + 10))
                    for name in self.averages.keys() & set(batch.held):
                        for mean, now in zip(self.averages[name].parameters(), self.networks[name].parameters()):
                            mean.data.lerp_(now.data, 1 - keep)
                        for mean, now in zip(self.averages[name].buffers(), self.networks[name].buffers()):
                            mean.copy_(now)
            self.seconds, self.cpu = time.monotonic() - start, time.process_time() - cpu
            if self.steps % every == 0 or self.steps == c.steps:
                row = {"step": self.steps, "seconds": round(self.seconds, 1), "cpu": round(self.cpu, 1)}
                self.rows.append(row | {name: round(value / every, 4) for name, value in sums.items()})
                sums = {}
                if progress:
                    progress(self, self.rows[-1])

    @torch.no_grad()
    def sample(self, n: int, condition: object, seed: int = 0, network: str = "generator") -> Tensor:
        given = condition if isinstance(condition, tuple) else (condition,)
        module = self.averages[network].eval()
        return torch.cat([module(*(arriving(part) for part in parts)) for parts in zip(*(part.split(256) for part in given))])
