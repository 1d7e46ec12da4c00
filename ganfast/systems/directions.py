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

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.saving.disk import atomic

__all__ = ["Directions", "joined", "learned", "tried"]
ALIKE = 1e-3  # what is added to the gradients' products: two measures that are nearly one stay a little entangled, by no endless direction
NOISE = 0.01  # share of a measure's variance below which the latent is taken to tell nothing of it
LONGEST = 3.0  # standard deviations of the latent that by=1 goes at most, where a measure hardly depends on it


@dataclass(frozen=True)
class Directions:
    """What `learned` found, a row for each name.

    vectors [K, *latent_shape]: what by=1 adds to a latent; mean, sd [K]: of the measure over pictures that were not edited; r2 [K]: the
    share of the measure's variance (within classes, where there were some) that is linear in the latent. moved [K, K]: how far column's
    measure moves in its sd, on average, as one goes from by=-reach to by=reach along the row's direction; none before `tried`.
    """

    names: tuple[str, ...]
    vectors: Tensor
    mean: Tensor
    sd: Tensor
    r2: Tensor
    moved: Tensor | None = None
    reach: float = 2.0

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

    def others(self, name: str) -> dict[str, float]:
        """How far the others' measures move along a direction that was tried: |moved|, without its own."""
        row = self.moved[self.names.index(name)].abs().tolist()
        return {other: far for other, far in zip(self.names, row) if other != name}

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
            more, names, moved, reach = held["more"], tuple(held["names"]), held["moved"], float(held["reach"])
            tensors = {name: torch.tensor(held[name], dtype=torch.float32) for name in ("vectors", "mean", "sd", "r2")}
            if not all(len(tensor) == len(names) for tensor in tensors.values()):
                raise ValueError("its lists are not as long as its names")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"edit: {path} cannot be read: {error}.") from None
        return cls(names, **tensors, moved=None if moved is None else torch.tensor(moved), reach=reach), more


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


def tried(
    found: Directions, latents: Tensor, measured: Callable[[Tensor], Mapping[str, Tensor]], *, rounds: int = 5, reach: float = 2.0
) -> Directions:
    """The same with `moved`: how far all measures move between the ends of each direction, by `measured`, latents [N, ...] -> a number for
    each name and picture. Before that, so many `rounds` correct the directions by what they moved: far from the middle a measure is not
    linear, and what cancels there to first order does not stay cancelled. A correction that makes a direction worse is taken back, and the
    next one goes half as far. Take latents that `learned` did not see."""

    def moves(vectors: Tensor) -> Tensor:
        """[K, K] for by=1: how far each vector, a row, moves each measure."""
        there = replace(found, vectors=vectors.float().view_as(found.vectors))
        ends = [[measured(there.along(latents, {name: sign * reach})) for sign in (-1, 1)] for name in found.names]
        rows = [[(high[name] - low[name]).double().mean().cpu() for name in found.names] for low, high in ends]
        return torch.tensor(rows, dtype=torch.float64) / found.sd.double() / (2 * reach)

    wrong = lambda moved: (moved - torch.eye(len(moved), dtype=moved.dtype)).square().sum(1, keepdim=True)
    vectors = found.vectors.flatten(1).double()
    moved, share = moves(vectors), torch.ones(len(vectors), 1, dtype=torch.float64)
    for _ in range(rounds):
        others = _limited(vectors + share * (corrected(vectors, moved) - vectors))
        by_others = moves(others)
        better = wrong(by_others) < wrong(moved)
        vectors, moved, share = (
            torch.where(better, others, vectors),
            torch.where(better, by_others, moved),
            torch.where(better, share, share / 2),
        )
    return replace(found, vectors=vectors.float().view_as(found.vectors), moved=(moved * 2 * reach).float(), reach=reach)


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
