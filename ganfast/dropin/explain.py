"""`explain`: what every layer of a model became, what ran and why, and what was left."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from ganfast import _tune
from ganfast._place import place
from ganfast.dropin.accelerate import Accelerated, check_model, closed
from ganfast.dropin.compiled import Break, Compiled
from ganfast.dropin.entry import armed
from ganfast.dropin.groups import Group


class Row(NamedTuple):
    """One group.

    layers: by their paths in the model, functions as "relu()"; became: ganfast's ops; ran: the backend of each that ran last, or "eager"
    where torch's own calls ran instead; note: the times that decided, what happens to the weight.
    """

    layers: tuple[str, ...]
    became: str
    ran: str
    note: str


class Weights(NamedTuple):
    """Normalised weights that can be made together.

    kind: "weight norms", "spectral norms" or "equalised weights"; count: how many in one call; layers: whose they are, by their paths; ran:
    the backend that made them, or "eager" where torch's own calls did, one by one; note: the times that decided.
    """

    kind: str
    count: int
    layers: tuple[str, ...]
    ran: str
    note: str


class Explanation:
    """Prints as a table.

    groups: list of Row in the order of the layers; weights: list of Weights; left: [(layer, reason)] of those in no group; breaks: list of
    Break, where dynamo left the graph, compiled anew or gave up; graphs: how many there are; seconds: what compiling took, all in all. A
    layer that never ran is in none of them.
    """

    def __init__(
        self,
        groups: list[Row],
        left: list[tuple[str, str]],
        breaks: list[Break],
        graphs: int,
        seconds: float,
        weights: Sequence[Weights] = (),
    ) -> None:
        self.groups, self.left, self.breaks, self.graphs, self.seconds = groups, left, breaks, graphs, seconds
        self.weights = list(weights)

    def __str__(self) -> str:
        head = ("layers", "became", "ran", "note")
        cells = [(" ".join(row.layers), *row[1:]) for row in self.groups]
        widths = [max(len(line[i]) for line in (head, *cells)) for i in range(3)]
        lines = ["  ".join((*(cell.ljust(width) for cell, width in zip(line, widths)), line[3])).rstrip() for line in (head, *cells)]
        if not self.graphs and not self.left:
            lines = ["nothing was called yet: graphs are made at the first call"]
        for row in self.weights:
            how = "by torch's own calls" if row.ran == "eager" else f"in one call, {row.ran}"
            note = f" ({row.note})" if row.note else ""
            lines.append(f"{row.count} {row.kind}, {row.layers[0]} to {row.layers[-1]}: made {how}{note}")
        lines += [f"{name or 'the model'}: left: {reason}" for name, reason in self.left]
        lines += [f"{kind}: {reason}" for kind, reason in self.breaks]
        if self.graphs:
            lines.append(f"{self.graphs} graph{'s' * (self.graphs != 1)}, compiled in {self.seconds:.1f} s")
        return "\n".join(lines)

    __repr__ = __str__


def explain(model: nn.Module | Callable) -> Explanation:
    """What ``accelerate`` made of each layer of a model in the calls so far, which backend last ran it, and why others were left.

    For a model that was not accelerated, everything was left. Of graphs that compiled the same layers again, the last one counts.
    Raises: TypeError for what is no module and no function.
    """
    check_model("explain", model)
    compiled = list(_compiled(model))
    if why := closed(model) or ("" if compiled or _is_accelerated(model) else "not accelerated"):
        return Explanation([], [("", why)], [], 0, 0.0)
    groups: dict[tuple, Row] = {}
    weights: dict[tuple, Weights] = {}
    left: dict[str, str] = {}
    for i, graph in ((i, graph) for i, each in enumerate(compiled) for graph in each.graphs):
        times: Counter = Counter()  # a layer may be called twice, and functions have names in common
        for group in (group for group in graph.groups if group.ran):
            row = Row(group.layers, " + ".join(group.spec.ops), " + ".join(group.ran), _note(group))
            nameless = all(layer.endswith("()") for layer in row.layers)
            groups[row.layers, times[row.layers], i if nameless else -1] = row
            times[row.layers] += 1
        for batch in (batch for batch in graph.batches if batch.ran):
            weights[batch.kind, batch.layers] = Weights(batch.kind, batch.count, batch.layers, batch.ran, _times(batch.question))
        left |= dict(graph.left)
    covered = {layer for row in groups.values() for layer in row.layers if not layer.endswith("()")}
    rows = [(name, reason) for name, reason in left.items() if name not in covered]
    breaks = [entry for each in compiled for entry in each.breaks]
    return Explanation(
        _ordered(model, groups), rows, breaks, sum(len(c.graphs) for c in compiled), compile_seconds(model), weights.values()
    )


def compile_seconds(*models: nn.Module) -> float:
    """What compiling took in the calls of accelerated models so far, all in all; 0 for others."""
    return sum(compiled.seconds for model in models for compiled in _compiled(model))


def _is_accelerated(model: object) -> bool:
    if not isinstance(model, nn.Module):
        return hasattr(model, "_ganfast_plain")
    return bool(armed(model)) or any(isinstance(m, Accelerated) for m in model.modules())


def _compiled(model: object) -> Iterator[Compiled]:
    if not isinstance(model, nn.Module):
        yield from getattr(model, "_ganfast_compiled", ())
        return
    for entry in armed(model).values():
        yield from (each for each in (entry.compiled, entry.slices, *entry.pieces.values()) if each is not None)


def _ordered(model: object, groups: dict[tuple, Row]) -> list[Row]:
    """By the layers' place in the model; functions stand by what they came with."""
    names = model.named_modules() if isinstance(model, nn.Module) else ()
    position = {name: i for i, (name, _) in enumerate(names)}
    first = lambda row: next((position[layer] for layer in row.layers if layer in position), len(position))
    return sorted(groups.values(), key=first)


def _times(question: str) -> str:
    choice = _tune.chosen().get(f"{question} | {place(torch.device('cpu'))}")
    return ", ".join(f"{name} {us:.0f} us" for name, us in choice.microseconds.items()) if choice is not None else ""


def _note(group: Group) -> str:
    notes = []
    choice = _tune.chosen().get(f"{group.question} | {place(torch.device('cpu'))}")
    if choice is not None and len(choice.microseconds) > 1:
        notes.append(_times(group.question))
    if group.outvoted:
        notes.append("the whole graph was faster with torch's calls")
    if choice is not None:
        notes += [f"{name} failed: {why}" for name, why in choice.failed.items()]
    if group.ran != ("eager",):
        if group.spec.scale is not None:
            notes.append("weight summed over the upsampled taps at each call")
        if group.spec.folds:
            notes.append("weight times the batch norm's factor at each call where that pays")
        if any(name.startswith("triton") for name in group.ran):
            notes.append(
                "a weight that is not channels_last is copied at each call: model.to(memory_format=torch.channels_last) spares that"
            )
    return "; ".join(notes)
