"""`explain`: what every layer of a model became, or why it stayed."""

from typing import NamedTuple

import torch
from torch import nn

from ganfast.nn import patterns
from ganfast.nn.accelerated import Accelerated, SequentialPlan, chains_of, is_sequential, plain_class
from ganfast.nn.convert import chains_in, check_model
from ganfast.nn.fusion import Chain, look_up


class Row(NamedTuple):
    """One chain, or one layer that stayed.

    members: the layers, by their paths in the model, functions as "relu()"; kinds: their classes; became: ganfast's ops, empty for what
    stayed; backend: what ran last, empty before the first call; note: for a chain what happens to the weight, else why it stayed.
    """

    members: tuple[str, ...]
    kinds: tuple[str, ...]
    became: str
    backend: str
    note: str


class Explanation:
    """Rows in the order of the layers; prints as a table.

    rows: list of Row; fused: the members of every chain; stayed: {path: why}; unseen: {path: why} of the modules whose own forward was
    left as it is written, so that only the layers below them could change.
    """

    def __init__(self, rows: list[Row], unseen: dict[str, str]) -> None:
        self.rows, self.unseen = rows, unseen

    @property
    def fused(self) -> list[tuple[str, ...]]:
        return [row.members for row in self.rows if row.became]

    @property
    def stayed(self) -> dict[str, str]:
        return {row.members[0]: row.note for row in self.rows if not row.became}

    def __str__(self) -> str:
        head = ("layers", "what they are", "became", "ran on", "note")
        cells = [(" ".join(row.members), " + ".join(row.kinds), row.became or "-", row.backend or "-", row.note) for row in self.rows]
        widths = [max(len(line[i]) for line in (head, *cells)) for i in range(4)]
        lines = ["  ".join((*(cell.ljust(width) for cell, width in zip(line, widths)), line[4])).rstrip() for line in (head, *cells)]
        lines += [f"{name or 'the model'}: forward left as written: {why}" for name, why in self.unseen.items()]
        return "\n".join(lines)

    __repr__ = __str__


def explain(model: nn.Module) -> Explanation:
    """What ``accelerate`` made of each layer of a model, which backend last ran it, or why it stayed as it is.

    For a model that was not accelerated every layer has stayed, with what ``accelerate`` would find in its way.
    Raises: TypeError for what is no module, and for scripted or compiled ones.
    """
    check_model("explain", model)
    names = {id(module): name for name, module in model.named_modules()}
    inner = _inside_plans(model)
    rows, covered, unseen = [], set(), {}
    for module in model.modules():
        if isinstance(module, Accelerated):
            if id(module) in inner:
                continue
            for chain in chains_of(module):
                layers = [None if member.path is None else look_up(module, member.path) for member in chain.members]
                covered |= {id(layer) for layer in layers if layer is not None}
                rows.append(_chain_row(chain, layers, names))
    accelerated = any(isinstance(module, Accelerated) for module in model.modules())
    position = {name: i for i, name in enumerate(names.values())}
    for name, module in model.named_modules():
        why = "" if isinstance(module, Accelerated) or is_sequential(module) else chains_in(module)
        if isinstance(why, str) and why:
            unseen[name] = why
        made = ".parametrizations." in f".{name}."
        if not module._modules and id(module) not in covered and not isinstance(module, Accelerated) and not made:
            rows.append(Row((name,), (plain_class(module).__name__,), "", "", _why_it_stayed(module, accelerated)))
    first = lambda row: next((position[m] for m in row.members if m in position), 0)
    return Explanation(sorted(rows, key=first), unseen)


def _inside_plans(model: nn.Module) -> set[int]:
    """Sequentials that an outer one's plan runs layer by layer."""
    found = set()
    for module in model.modules():
        if isinstance(module, Accelerated) and is_sequential(module) and id(module) not in found:
            found |= {id(look_up(module, path)) for path in SequentialPlan(module).nested if path}
    return found


def _chain_row(chain: Chain, layers: list[nn.Module | None], names: dict[int, str]) -> Row:
    members = tuple(m.label if layer is None else names[id(layer)] for m, layer in zip(chain.members, layers))
    kinds = tuple(m.label[:-2] if layer is None else plain_class(layer).__name__ for m, layer in zip(chain.members, layers))
    became = " + ".join(chain.ops)
    return Row(members, kinds, became, " + ".join(chain.ran), _weight_note(chain, layers))


def _weight_note(chain: Chain, layers: list[nn.Module | None]) -> str:
    apart = [m.label for i, (m, layer) in enumerate(zip(chain.members, layers)) if layer is not None and not chain.is_free(i, layer)]
    if apart:
        return f"called as layers, with a hook or changed since: {', '.join(apart)}"
    if chain.ran == ("torch's layers",):
        return "measured: faster as torch's layers for the last input"
    if "conv" not in chain.at:
        return ""
    conv = layers[chain.at["conv"]]
    if "upsample" in chain.at:
        note = "weight summed over the upsampled taps at each call"
    elif patterns.hooked(conv) or nn.utils.parametrize.is_parametrized(conv):
        note = "weight made anew at each call by its normalisation"
    elif any(name.startswith("triton") for name in chain.ran) and not _is_channels_last(conv.weight):
        note = "weight copied to channels_last at each call; model.to(memory_format=torch.channels_last) spares that"
    else:
        note = "weight used as it is"
    norm = layers[chain.at["norm"]] if "norm" in chain.at else None
    if norm is not None and chain.bases[chain.at["norm"]] in patterns.BATCH_NORMS and not norm.training and norm.running_mean is not None:
        note += ", times the batch norm's factor at each call where that pays"
    return note


def _is_channels_last(weight: torch.Tensor) -> bool:
    return weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)


def _why_it_stayed(module: nn.Module, accelerated: bool) -> str:
    base = patterns.kind(module)
    why = patterns.why_not(module)
    if why:
        return why
    if base in patterns.LAYERS:
        return "its container's forward does not show how it is called" if accelerated else "not accelerated"
    if base in patterns.UPSAMPLES:
        return "no convolution with stride 1 and zero padding right after it"
    return "an activation with no convolution or norm right before it: one pass already"
