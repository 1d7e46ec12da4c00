"""Directions in a generator's latent space along which one measure of its pictures moves and the others stay; of any generator that was
trained.

    z = torch.randn(4000, 64)
    found = directions.learned(z, {"slant": slant(G(z)), "thickness": thickness(G(z))})
    edited = G(found.along(z, {"slant": 2.0}))  # two standard deviations further right

Source: TL-GAN (Guan 2018, "Generating custom photo-realistic faces using AI"): a linear regression of attributes on latents, and directions
made orthogonal to each other; Shen et al. 2020, "Interpreting the latent space of GANs for semantic face editing" (InterFaceGAN: one
attribute's direction with the others' projected out). A regression's slope over normal latents is the measure's mean gradient (Stein 1981).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.saving.disk import atomic

__all__ = ["Directions", "joined", "learned", "moves", "tried"]
ALIKE = 1e-3  # what is added to the gradients' products: two measures that are nearly one stay a little entangled, by no endless direction
NOISE = 0.01  # share of a measure's variance below which the latent is taken to tell nothing of it
LONGEST = 3.0  # standard deviations of the latent that by=1 goes at most, where a measure hardly depends on it


@dataclass(frozen=True)
class Directions:
    """What `learned` found, a row for each name.

    vectors [K, *latent_shape]: what by=1 adds to a latent; mean, sd [K]: of the measure over pictures that were not edited; r2 [K]: the
    share of the measure's variance (within classes, where there were some) that is linear in the latent. What a trial found, in sd of
    the column's measure, none before `tried`: ends [2, K, K], how far the measure's mean is from where it was, at by=-reach and at
    by=reach along the row's direction; each [K, K], how far it goes in one picture, up or down, on average, at the end where that is more.
    """

    names: tuple[str, ...]
    vectors: Tensor
    mean: Tensor
    sd: Tensor
    r2: Tensor
    ends: Tensor | None = None
    each: Tensor | None = None
    reach: float = 2.0

    @property
    def moved(self) -> Tensor | None:
        """[K, K]: how far column's measure moves in its sd, on average, from by=-reach to by=reach along the row's direction."""
        return None if self.ends is None else self.ends[1] - self.ends[0]

    def along(self, latents: Tensor, by: Mapping[str, float]) -> Tensor:
        """Latents [N, *latent_shape] moved, {"slant": 2.0}: by two standard deviations of slant, as far as slant is linear; several at
        once add up. Raises: ValueError for an unknown name, with the nearest one."""
        for name in by:
            if name not in self.names:
                _checks.nearest("edit", "direction", name, self.names)
        step = sum((amount * self.vectors[self.names.index(name)] for name, amount in by.items()), torch.zeros_like(self.vectors[0]))
        return latents + step.to(latents)

    def only(self, name: str) -> "Directions":
        """That one, independent of the others it was learned with; not tried."""
        row = self.names.index(name)
        return Directions((name,), *(tensor[row : row + 1] for tensor in (self.vectors, self.mean, self.sd, self.r2)))

    def others(self, name: str, what: Literal["net", "end", "each"] = "net") -> dict[str, float]:
        """How far the others' measures move along a direction that was tried. net: |moved|, of the mean from end to end, where what is
        alike at both ends cancels; end: of the mean from the middle to the end where it is further away; each: of each picture, where
        nothing cancels."""
        table = {"net": lambda: self.moved.abs(), "end": lambda: self.ends.abs().amax(0), "each": lambda: self.each}[what]()
        return {other: far for other, far in zip(self.names, table[self.names.index(name)].tolist()) if other != name}

    def save(self, path: str | Path, **more: object) -> None:
        """As JSON, with `more`, which `load` gives back."""
        fields = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()}
        with atomic(Path(path)) as file:
            file.write((json.dumps(fields | {"more": more}) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> tuple["Directions", dict]:
        """Raises: ValueError for a file of another form."""
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            more, names, reach = held["more"], tuple(held["names"]), float(held["reach"])
            trial = {name: None if held[name] is None else torch.tensor(held[name], dtype=torch.float32) for name in ("ends", "each")}
            tensors = {name: torch.tensor(held[name], dtype=torch.float32) for name in ("vectors", "mean", "sd", "r2")}
            if not all(len(tensor) == len(names) for tensor in tensors.values()):
                raise ValueError("its lists are not as long as its names")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"edit: {path} cannot be read: {error}.") from None
        return cls(names, **tensors, **trial, reach=reach), more


def learned(latents: Tensor, measures: Mapping[str, Tensor], labels: Tensor | None = None) -> Directions:
    """Directions from samples of a generator and what was measured of them: numbers of a function, labels as 0 and 1, a reader's logits.

    A direction is the measure's gradient by least squares, less its projection on the others' gradients: to first order the others stay.
    by=1 is one standard deviation of the measure, as far as it is linear in the latent; no more than LONGEST in the latent, though.
    Shapes: latents [N, *latent_shape], measures [N] each; labels int64 [N] of a generator that is told a class, whose means are taken out.
    Raises: ValueError for too few samples, for measures that are not finite, of another length, or the same for all pictures.
    """
    n, z = len(latents), latents.detach().flatten(1).double().cpu()
    classes = 1 if labels is None else int(labels.max()) + 1
    if n < (least := 2 * (z.shape[1] + classes)):
        _checks.fail("edit", f"there are {n} samples, wants {least} at least, for {z.shape[1]} numbers of a latent")
    if not measures:
        _checks.fail("edit", "measures is empty, wants one at least")
    columns = torch.stack([_column(name, values, n) for name, values in measures.items()], 1)
    mean, sd = columns.mean(0), columns.std(0)
    wanted = (columns - mean) / sd
    if labels is not None:
        share = torch.nn.functional.one_hot(labels.cpu(), classes).double()
        within = lambda x: x - share @ ((share.T @ x) / share.sum(0).clamp_min(1)[:, None])
        wanted, z = within(wanted), within(z)
    else:
        z = z - z.mean(0)
    gradients = torch.linalg.lstsq(z, wanted).solution.T
    left = (wanted - z @ gradients.T).square().sum(0) / wanted.square().sum(0).clamp_min(1e-12)
    r2 = (1 - left * (n - 1) / (n - z.shape[1] - classes)).clamp_min(0)  # adjusted: many numbers fit something by chance
    vectors = _limited(apart(gradients, r2 > NOISE)).float().view(len(gradients), *latents.shape[1:])
    return Directions(tuple(measures), vectors, mean.float(), sd.float(), r2.float())


def _column(name: str, values: Tensor, n: int) -> Tensor:
    values = torch.as_tensor(values).detach().double().cpu()
    if values.shape != (n,):
        _checks.fail("edit", f"the measure {name} has shape {list(values.shape)}, wants [{n}], a number for each picture")
    if not values.isfinite().all():
        _checks.fail("edit", f"the measure {name} is not finite for {int((~values.isfinite()).sum())} of {n} pictures")
    if values.std() <= 1e-6 * values.abs().max():
        _checks.fail("edit", f"the measure {name} is the same for all pictures, wants one that differs")
    return values


def apart(gradients: Tensor, told: Tensor) -> Tensor:
    """[K, D] -> [K, D]: each gradient without what the others span, scaled so that it moves its own measure by 1. told [K]: which measures
    the latent tells of; the gradients of others are noise, and cost nothing here."""
    units = gradients / gradients.norm(dim=1, keepdim=True).clamp_min(1e-12)
    rows = []
    for k in range(len(units)):
        some = torch.cat([units[k : k + 1], units[[j for j in range(len(units)) if told[j] and j != k]]])
        products = some @ some.T + ALIKE * torch.eye(len(some), dtype=some.dtype)
        vector = torch.linalg.solve(products, some)[0]
        rows.append(vector / (vector @ gradients[k]).clamp_min(1e-12))
    return torch.stack(rows)


def _limited(vectors: Tensor) -> Tensor:
    return vectors * (LONGEST / vectors.flatten(1).norm(dim=1).clamp_min(LONGEST)).view(-1, *[1] * (vectors.dim() - 1))


Measured = Callable[[Tensor], Mapping[str, Tensor]]


def moves(
    vectors: Tensor, latents: Tensor, measured: Measured, sd: Mapping[str, float], reach: float, middle: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """What latents moved by -reach and by reach times each of the vectors do to the measures that sd names, against latents that stay, of
    which `middle` is measured, if that is known.

    Shapes: vectors [R, *latent_shape], latents [N, *latent_shape] -> float64, in sd: [2, R, K], how far the mean of a measure is from where
    it was, at each end; [R, K], how far it goes in one picture, up or down, on average, at the end where that is more.
    """
    middle = measured(latents) if middle is None else middle
    ends = []
    for sign in (-1, 1):
        there = [measured(latents + sign * reach * vector.to(latents)) for vector in vectors]
        rows = [torch.stack([(one[name] - middle[name]).double().cpu() / sd[name] for name in sd]) for one in there]
        ends.append(torch.stack(rows))
    shifts = torch.stack(ends)  # [2, R, K, N]
    return shifts.mean(3), shifts.abs().mean(3).amax(0)


def tried(found: Directions, latents: Tensor, measured: Measured, *, rounds: int = 5, reach: float = 2.0) -> Directions:
    """The same with `ends` and `each`: how far all measures move along each direction, by `measured`, latents [N, ...] -> a number for
    each name and picture. Before that, so many `rounds` correct the directions by what they moved: far from the middle a measure is not
    linear, and what cancels there to first order does not stay cancelled. A correction that makes a direction worse is taken back, and the
    next one goes half as far. They look at the mean from end to end: what another measure does alike at both ends, another step along the
    same line does not undo, and `ends` says how much that is. Take latents that `learned` did not see."""
    sd, middle = dict(zip(found.names, found.sd.double().tolist())), measured(latents)
    trial = lambda vectors: moves(vectors.float().view_as(found.vectors), latents, measured, sd, reach, middle)
    vectors = found.vectors.flatten(1).double()
    (ends, each), share = trial(vectors), torch.ones(len(vectors), 1, dtype=torch.float64)
    net = lambda ends: (ends[1] - ends[0]) / (2 * reach)  # [K, K] for by=1
    wrong = lambda ends: (net(ends) - torch.eye(len(vectors), dtype=torch.float64)).square().sum(1, keepdim=True)
    for _ in range(rounds):
        others = _limited(vectors + share * (corrected(vectors, net(ends)) - vectors))
        their_ends, their_each = trial(others)
        better = wrong(their_ends) < wrong(ends)
        vectors, ends, each, share = (
            torch.where(better, others, vectors),
            torch.where(better, their_ends, ends),
            torch.where(better, their_each, each),
            torch.where(better, share, share / 2),
        )
    return replace(found, vectors=vectors.float().view_as(found.vectors), ends=ends.float(), each=each.float(), reach=reach)


def corrected(vectors: Tensor, moved: Tensor) -> Tensor:
    """Vectors [K, D] that move their own measure by 1 and no other, if what they move, [K, K], adds up as they do. One grows or shrinks by
    a half at most; those that move their own by less than a half have no part in correcting others, as that would take them far."""
    own = moved.diagonal()
    share = torch.where(own > 0.5, moved / own.clamp_min(0.5), 0.0)
    share.fill_diagonal_(1.0)
    return (1 / own.clamp_min(1e-3)).clamp(2 / 3, 1.5)[:, None] * torch.linalg.solve(share, vectors)


def joined(found: Sequence[Directions]) -> Directions:
    """Several, learned apart, as one, which is not tried yet."""
    names = tuple(name for one in found for name in one.names)
    return Directions(names, *(torch.cat([getattr(one, field) for one in found]) for field in ("vectors", "mean", "sd", "r2")))
