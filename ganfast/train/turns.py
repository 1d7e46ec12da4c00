"""The part of a step that runs on the device: forwards, backwards and optimizer steps of the phases that share a batch, on a GPU
recorded as one CUDA graph; and the means of their numbers for the log."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast.step.capture import capture
from ganfast.step.ema import EMA
from ganfast.step.finite import FiniteGuard
from ganfast.train.data.sources import Source
from ganfast.train.distributed.world import World
from ganfast.train.phases import Batch, Draws, Objective, Phase
from ganfast.train.precision import Precision


class Updates:
    """Takes the optimizer step of a phase. `networks`, `optimizers` by "discriminator" and "generator"."""

    def __init__(
        self,
        networks: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        objective: Objective,
        precision: Precision,
        world: World,
    ) -> None:
        self.networks, self.optimizers, self.objective, self.precision, self.world = networks, optimizers, objective, precision, world
        self.average, self.guard = EMA(networks["generator"]), FiniteGuard(*networks.values())
        self.learning = {name: [p for p in network.parameters() if p.requires_grad] for name, network in networks.items()}
        held = set(networks["generator"].parameters())
        self.alone = [p for p in networks["discriminator"].parameters() if p not in held]
        self.shared = [p for p in networks["discriminator"].parameters() if p in held]  # learn in both networks' phases

    def __call__(self, phase: Phase, batch: Batch, keep: Tensor) -> dict[str, Tensor]:
        """The objective's numbers, the norm of the gradient, and the norm of the gradient that an image gets from the discriminator."""
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        scaler, optimizer = self.precision.scalers[phase.network], self.optimizers[phase.network]
        moves_g, received = phase.network == "generator", []
        spared = [p for p in self.alone if p.requires_grad] if moves_g else []  # nobody uses their gradients
        batch.detached = not moves_g
        for p in spared:
            p.requires_grad_(False)
        try:
            with self.precision.autocast():
                loss, numbers = self.objective(phase, generator, discriminator, batch)
            _check(phase, loss, numbers)
            fake = batch.made if moves_g else None
            hook = fake.register_hook(received.append) if isinstance(fake, Tensor) and fake.requires_grad else None
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if hook is not None:
                hook.remove()
        finally:
            for p in spared:
                p.requires_grad_(True)
        self.world.average(self.learning[phase.network])
        if not moves_g and any(p.grad is not None for p in self.shared):
            batch.made = None  # its graph needs the weights that this update changes: the generator's phase makes fakes anew
        scaler.unscale_(optimizer)
        average = {"ema": self.average, "decay": keep} if phase.average else {}
        numbers = numbers | {f"grad_{phase.name}": self.guard.step(optimizer, **average)}
        if received:  # per image: the loss is a mean over them
            norms = torch.linalg.vector_norm(received[0].flatten(1), dim=1, dtype=torch.float32)
            numbers["grad_from_d"] = norms.sum() / (scaler._scale if scaler.is_enabled() else 1)
        if scaler.is_enabled():
            scaler.update()
        return numbers


def _check(phase: Phase, loss: object, numbers: object) -> None:
    """Checks what an objective gave, which may be the user's own."""
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        got = f"shape {list(loss.shape)}, requires_grad {loss.requires_grad}" if isinstance(loss, Tensor) else type(loss).__name__
        _checks.fail("train", f"the objective's loss of phase {phase.name!r} is {got}, wants a 0-d tensor to minimise", error=TypeError)
    for name, value in numbers.items():
        if not isinstance(value, Tensor) or value.dim():
            got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            _checks.fail("train", f"the objective's number {name!r} is {got}, wants a 0-d tensor on the device", error=TypeError)


class Turn:
    """One batch and the phases that share it. A call reads nothing back from the device, so that `ganfast.capture` can record it."""

    def __init__(self, phases: tuple[Phase, ...], updates: Updates, source: Source, draws: Draws, look: dict) -> None:
        """look: Batch's settings (augment, noise), with `latent_shape` and `condition`, a function of the data's second item or None."""
        self.phases, self.updates, self.source, self.draws = phases, updates, source, draws
        self.interval, self.run = phases[0].interval, None  # run: the turn recorded by `runner`, made at its first step
        self.look = dict(look)
        self.latent_shape, self.condition = self.look.pop("latent_shape"), self.look.pop("condition")

    def __call__(self, weights: dict[str, Tensor], keep: Tensor, handle: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The phases' numbers, 0-d float32, and `good`, 1; all are 0 where an update was skipped because its gradient was not finite."""
        real, second = self.source.open(handle, self.draws)
        condition = None if self.condition is None else self.condition(second)
        latent = self.draws.normal(len(real), *self.latent_shape)
        moves_g = any(phase.network == "generator" for phase in self.phases)
        batch = Batch(real, latent, condition, weights, self.draws, differentiable=moves_g, **self.look)
        numbers: dict[str, Tensor] = {}
        with self.updates.guard as guard:
            for phase in self.phases:
                found = self.updates(phase, batch, keep)
                if both := numbers.keys() & found.keys() - {"grad_from_d"}:
                    _checks.fail("train", f"{min(both)!r} is a number of two phases that share a batch", "Give each a name of its own")
                numbers |= found
        numbers["good"] = torch.ones_like(guard.bad)
        bad = guard.bad.bool()
        return {name: torch.where(bad, 0.0, value.detach().float()) for name, value in numbers.items()}


def runner(turn: Turn, world: World, device: torch.device, *example) -> Callable:
    """The turn as a function of numbers and tensors, recorded as a CUDA graph on a GPU. With several processes it is not recorded."""
    if world.size == 1:
        return capture(turn, *example)
    as_tensor = lambda number: torch.tensor(number, dtype=torch.float32, device=device)
    return lambda weights, keep, handle: turn({name: as_tensor(w) for name, w in weights.items()}, as_tensor(keep), handle)


class Meters:
    """Sums of the turns' numbers, kept on the device until a log line reads their means."""

    def __init__(self) -> None:
        self.sums: list[tuple[list[str], list[Tensor]]] = []
        self.turns, self.in_a_row, self.worst = 0, None, None

    def add(self, numbers: dict[str, Tensor]) -> None:
        self.turns += 1
        names, values = list(numbers), list(numbers.values())
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
        row = {name: totals[name] / counts[name] for name in totals if name != "good" and counts[name]}
        row |= {"skipped": self.turns - round(good), "skipped_in_a_row": round(next(values))}
        self.sums, self.turns, self.worst = [], 0, self.in_a_row
        return row

    def state_dict(self) -> dict:
        sums = [[list(names), list(values)] for names, values in self.sums]
        return {"sums": sums, "turns": self.turns, "in_a_row": self.in_a_row, "worst": self.worst}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        there = lambda value: None if value is None else value.to(device)
        self.sums = [(names, [there(value) for value in values]) for names, values in state["sums"]]
        self.turns, self.in_a_row, self.worst = state["turns"], there(state["in_a_row"]), there(state["worst"])
