"""Labelled images of which few are to learn from, some of each class, and all others to test with."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import digits
from ganfast.train.data import folder
from ganfast.train.data.folders import ImageData
from ganfast.train.randomness import mixed


class Task(NamedTuple):
    """images uint8 [N, C, S, S] with labels int64 [N], to learn from; tested, tested_labels: all others; scarce bool [classes]; names of
    the classes; places int64 [S * S]: which pixel came where; broken: what of a folder cannot be read and is left out."""

    images: Tensor
    labels: Tensor
    tested: Tensor
    tested_labels: Tensor
    scarce: Tensor
    names: list[str]
    places: Tensor
    broken: list[str]


@functools.lru_cache(maxsize=1)  # training, measure and picture read the same
def task(data: str | None, size: int, per_class: int, transfer: bool, permuted: bool, seed: int) -> Task:
    """Of a folder with classes, or of MNIST's digits. transfer: half of the classes, drawn by the seed, have four fifths of their images.

    Raises: ValueError for data without classes, or with too few images of one.
    """
    found = folder(data, size) if data else digits.mnist(size)
    _check(found, data, per_class, transfer)
    classes, draw = len(found.classes), torch.Generator().manual_seed(mixed(seed, "scarce"))
    scarce = torch.ones(classes, dtype=torch.bool)
    scarce[torch.randperm(classes, generator=draw)[: classes // 2 if transfer else 0]] = False
    learned, tested = [], []
    for label, few in enumerate(scarce.tolist()):
        rows = (found.labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draw)]
        count = per_class if few else max(per_class, len(rows) * 4 // 5)
        learned.append(rows[:count])
        tested.append(rows[count:])
    learned, tested, images = torch.cat(learned), torch.cat(tested), found.images
    places = torch.arange(size * size)
    if permuted:
        places = places[torch.randperm(size * size, generator=torch.Generator().manual_seed(0))]
        images = images.flatten(2)[:, :, places].view_as(images)
    tested_labels = found.labels[tested]
    return Task(images[learned], found.labels[learned], images[tested], tested_labels, scarce, found.classes, places, found.broken)


def _check(found: ImageData, data: str | None, per_class: int, transfer: bool) -> None:
    least = 4 if transfer else 2
    if len(found.classes) < least:
        what = f"{len(found.classes)} classes: {', '.join(found.classes)}" if found.classes != [""] else "no classes"
        few = ", as transfer learns from half of them" if transfer else ""
        _checks.fail("augmentation", f"data {data!r} has {what}; wants a sub-folder of images for each class, at least {least}{few}")
    for name, count in zip(found.classes, found.labels.bincount(minlength=len(found.classes)).tolist()):
        if count <= per_class:
            wants = f"wants more than per_class, now {per_class}, as all others are tested"
            _checks.fail("augmentation", f"the class {name!r} of {data or 'digits'!r} has {count} images, {wants}")


class ByClass:
    """Rows of labels int64 [N], to be drawn at random by class."""

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.order, self.count = labels.argsort(stable=True), labels.bincount(minlength=classes)
        self.first = self.count.cumsum(0) - self.count

    def rows(self, labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """For each label a row of its class, and another one."""
        count = self.count[labels].clamp_min(2)
        one, step = (torch.rand(2, len(labels), generator=draw) * torch.stack([count, count - 1])).long()
        place = lambda at: self.order[(self.first[labels] + at).clamp_max(len(self.order) - 1)]
        return place(one), place((one + 1 + step) % count)
