"""The part of a step that runs on the device: forwards, backwards and optimizer steps of the phases that share a batch, on a GPU
recorded as one CUDA graph; and the means of their numbers for the log."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast.step.capture import Captured, capture
from ganfast.step.ema import EMA
from ganfast.step.finite import FiniteGuard
from ganfast.train import parts
from ganfast.train.data.sources import Source
from ganfast.train.distributed.world import World
from ganfast.train.networks import Networks
from ganfast.train.objectives.terms import Adversarial, Objective
from ganfast.train.phases import Batch, Draws, Phase
from ganfast.train.precision import Precision

RESERVED = ("step", "images", "seconds", "images_per_second", "skipped", "skipped_in_a_row", "alarms", "alarm_messages", "good")


class Updates:
    """Takes the optimizer steps of the phases. `networks` and `optimizers` by name; averages: those of the networks that have one; pools:
    modules that hold images, or how they are augmented; objective: a function (phase, networks, batch); judges: names of the
    discriminators, from which fakes get gradients."""

    def __init__(
        self,
        phases: Sequence[Phase],
        networks: Networks,
        optimizers: dict[str, torch.optim.Optimizer],
        averages: dict[str, EMA],
        objective: Objective,
        precision: Precision,
        world: World,
        pools: Sequence[nn.Module] = (),
        judges: Sequence[str] = ("discriminator",),
    ) -> None:
        self.networks, self.optimizers, self.averages, self.objective = networks, optimizers, averages, objective
        self.precision, self.world, self.judges = precision, world, judges
        self.guard = FiniteGuard(*(networks[name] for name in networks), *pools)
        self.held = {name: list(networks[name].parameters()) for name in networks}
        self.learning = {name: [p for p in held if p.requires_grad] for name, held in self.held.items()}
        self.plans = {phase.networks: self._plan(phase.networks) for phase in phases}

    def _plan(self, names: tuple[str, ...]) -> tuple[list[nn.Parameter], list[nn.Parameter], list[tuple[str, list[nn.Parameter]]]]:
        """Of a phase that updates these networks: what learns; what learns in other phases alone; which other networks hold some of what
        learns, and what that is."""
        learning = dict.fromkeys(p for name in names for p in self.learning[name])
        rest = [name for name in self.networks if name not in names]
        spared = dict.fromkeys(p for name in rest for p in self.learning[name] if p not in learning)
        shared = [(name, [p for p in self.held[name] if p in learning]) for name in rest]
        return list(learning), list(spared), [(name, held) for name, held in shared if held]

    def __call__(self, phase: Phase, batch: Batch, keep: Tensor) -> dict[str, Tensor]:
        """The objective's numbers, the norm of the gradient, and the norms of the gradients that fakes get."""
        names, received = phase.networks, {}
        learning, others, shared = self.plans[names]
        spared = [p for p in others if p.requires_grad]  # nobody uses their gradients
        optimizers, scaler = [self.optimizers[name] for name in names], self.precision.scalers["+".join(names)]
        batch.phase, batch.updated = phase, tuple(self.networks[name] for name in names)
        for p in spared:
            p.requires_grad_(False)
        try:
            with self.precision.autocast():
                loss, numbers = _checked(phase, self.objective(phase, self.networks, batch))
            hooks = []
            for name in names if set(self.judges) - set(batch.waiting) else ():
                made = batch.made.get(self.networks[name])
                fake = made if made is None else parts.samples(made, batch.output_of(self.networks[name]), name)
                if fake is not None and fake.requires_grad:
                    hooks.append(fake.register_hook(lambda gradient, name=name: received.__setitem__(name, gradient)))
            for optimizer in optimizers:
                optimizer.zero_grad()
            scaler.scale(loss).backward()
            for hook in hooks:
                hook.remove()
        finally:
            for p in spared:
                p.requires_grad_(True)
        self.world.average(learning)
        for name, held in shared:
            if any(p.grad is not None for p in held):
                batch.made.pop(self.networks[name], None)  # its graph needs weights that this update changes: it is made anew
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        moved = [self.averages[name] for name in names if phase.average and name in self.averages]
        average = {"ema": moved, "decay": keep} if moved else {}
        numbers = numbers | {f"grad_{phase.name}": self.guard.step(*optimizers, **average)}
        terms = {f.generator: term for term, (f, _) in phase.weighted.items() if isinstance(f, Adversarial)}
        for name, gradient in received.items():  # per image: the loss is a mean over them
            norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float32)
            scale = scaler._scale if scaler.is_enabled() else 1
            pair = terms.get(name, name if len(received) > 1 else "")
            numbers[f"{pair}/grad_from_d".removeprefix("/")] = norms.sum() / scale
        if scaler.is_enabled():
            scaler.update()
        return numbers


def _checked(phase: Phase, given: object) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and numbers of what an objective gave, which may be the user's own: a loss, or a pair; numbers are tensors or floats."""
    loss, numbers = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        got = f"shape {list(loss.shape)}, requires_grad {loss.requires_grad}" if isinstance(loss, Tensor) else type(loss).__name__
        _checks.fail("train", f"the objective's loss of phase {phase.name!r} is {got}, wants a 0-d tensor to minimise", error=TypeError)
    if not isinstance(numbers, Mapping):
        got = type(numbers).__name__
        _checks.fail("train", f"the objective's numbers of phase {phase.name!r} are a {got}, wants a dict", error=TypeError)
    found = {}
    for name, value in numbers.items():
        if name in RESERVED:
            _checks.fail("train", f"phase {phase.name!r} logs {name!r}, which is a field of the log's own", "Give it another name")
        if isinstance(value, (int, float)):
            value = torch.full((), float(value), device=loss.device)
        if not isinstance(value, Tensor) or value.dim():
            got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            _checks.fail("train", f"the objective's number {name!r} is {got}, wants a 0-d tensor on the device", error=TypeError)
        found[name] = value
    return loss, found


class Turn:
    """One batch and the phases that share it. A call reads nothing back from the device, so that `ganfast.capture` can record it."""

    def __init__(self, phases: tuple[Phase, ...], updates: Updates, source: Source, draws: Draws, look: dict) -> None:
        """look: Batch's settings (augment, adaptive, noise, calls), with `latent_shape`, None for no latent, and `condition`, a function of
        what the data tell of the samples, or None."""
        self.phases, self.updates, self.source, self.draws = phases, updates, source, draws
        self.interval, self.run = phases[0].interval, None  # run: the turn recorded by `runner`, made at its first step
        self.look = dict(look)
        self.latent_shape, self.condition = self.look.pop("latent_shape"), self.look.pop("condition")
        learn = [name for phase in phases for name in phase.networks]
        self.learning = {updates.networks[name]: updates.learning[name] for name in learn}

    def due(self, step: int, waiting: tuple[str, ...]) -> bool:
        return step % self.interval == 0 and any(map(self._begun(waiting), self.phases))

    @staticmethod
    def _begun(waiting: tuple[str, ...]) -> Callable[[Phase], bool]:
        return lambda phase: not set(phase.networks) & set(waiting)

    def forget(self) -> None:
        """Frees what was recorded; the next step is recorded anew."""
        if isinstance(self.run, Captured):
            self.run.reset()

    def __call__(
        self, weights: dict[str, Tensor], keep: Tensor, handle: tuple[Tensor, ...], waiting: tuple[str, ...] = ()
    ) -> dict[str, Tensor]:
        """The phases' numbers, 0-d float32, each as "phase|name", and `good`, 1; all are 0 where an update was skipped because its gradient
        was not finite. waiting: the names of networks that have not begun to learn; phases that update one are left out."""
        real, told = self.source.open(handle, self.draws)
        condition = None if self.condition is None else self.condition(real if told is None else told)
        latent = None if self.latent_shape is None else self.draws.normal(len(real), *self.latent_shape)
        data = parts.whole(real, told)
        seen = {"data": data, "told": told, "learning": self.learning, "waiting": waiting}
        batch = Batch(real, latent, condition, weights, self.draws, **seen, **self.look)
        numbers: dict[str, Tensor] = {}
        with self.updates.guard as guard:
            for phase in filter(self._begun(waiting), self.phases):
                numbers |= {f"{phase.name}|{name}": value for name, value in self.updates(phase, batch, keep).items()}
        numbers["good"] = torch.ones_like(guard.bad)
        bad = guard.bad.bool()
        return {name: torch.where(bad, 0.0, value.detach().float()) for name, value in numbers.items()}


def runner(turn: Turn, world: World, device: torch.device, *example) -> Callable:
    """The turn as a function of numbers and tensors, recorded as a CUDA graph on a GPU. With several processes it is not recorded."""
    if world.size == 1:
        return capture(turn, *example)
    as_tensor = lambda number: torch.tensor(number, dtype=torch.float32, device=device)
    return lambda weights, keep, *others: turn({name: as_tensor(w) for name, w in weights.items()}, as_tensor(keep), *others)


class Meters:
    """Sums of the turns' numbers, kept on the device until a log line reads their means."""

    def __init__(self) -> None:
        self.sums: list[tuple[list[str], list[Tensor]]] = []
        self.turns, self.in_a_row, self.worst = 0, None, None
        self.phases: dict[str, set[str]] = {}  # a number's name -> the phases that have it

    def add(self, numbers: dict[str, Tensor]) -> None:
        self.turns += 1
        names, values = list(numbers), list(numbers.values())
        for name in names:
            phase, _, bare = name.rpartition("|")
            self.phases.setdefault(bare, set()).add(phase)
        for known, sums in self.sums:
            if known == names:
                torch._foreach_add_(sums, values)
                break
        else:
            self.sums.append((names, [value.clone() for value in values]))
        bad = 1 - numbers["good"]
        self.in_a_row = bad if self.in_a_row is None else (self.in_a_row + 1) * bad
        self.worst = self.in_a_row if self.worst is None else torch.maximum(self.worst, self.in_a_row)

    def read(self, world: World) -> dict[str, float]:
        """Means over the turns since the last call that were not skipped, over all processes; `skipped` turns, and how many in a row at
        most, `skipped_in_a_row`. Waits for the device."""
        if not self.turns:
            return {}
        flat = torch.stack([*(value for _, sums in self.sums for value in sums), self.worst])
        values = iter(world.mean(flat).tolist())
        totals: dict[str, float] = {}
        counts: dict[str, float] = {}
        good = 0.0
        for names, _ in self.sums:
            of_group = dict(zip(names, values))
            good += of_group["good"]
            for name in names:
                totals[name] = totals.get(name, 0.0) + of_group[name]
                counts[name] = counts.get(name, 0.0) + of_group["good"]
        means = {name: totals[name] / counts[name] for name in totals if name != "good" and counts[name]}
        row = {self._name(name): value for name, value in means.items()}
        row |= {"skipped": self.turns - round(good), "skipped_in_a_row": round(next(values))}
        self.sums, self.turns, self.worst = [], 0, self.in_a_row
        return row

    def _name(self, name: str) -> str:
        """ "phase|name" as a number is called: by its name, or where two phases have it as phase/name."""
        phase, bar, bare = name.rpartition("|")
        return f"{phase}/{bare}" if bar and len(self.phases[bare]) > 1 else bare

    def state_dict(self) -> dict:
        sums = [[list(names), list(values)] for names, values in self.sums]
        phases = {name: sorted(of) for name, of in self.phases.items()}
        return {"sums": sums, "turns": self.turns, "in_a_row": self.in_a_row, "worst": self.worst, "phases": phases}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        there = lambda value: None if value is None else value.to(device)
        self.sums = [(names, [there(value) for value in values]) for names, values in state["sums"]]
        self.phases = {name: set(phases) for name, phases in state.get("phases", {}).items()}
        self.turns, self.in_a_row, self.worst = state["turns"], there(state["in_a_row"]), there(state["worst"])
