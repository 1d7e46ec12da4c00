"""Which part of an item is what: the samples that are imitated, and what conditions are made from."""

from collections.abc import Callable

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train import trees

Key = str | int | Callable | None


class _NoSamples:
    """The key of data in which nothing is imitated, such as masks."""


NO_SAMPLES = _NoSamples()


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], the range of the generator's tanh."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, rounded to the nearest; the inverse of `to_float`."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def as_networks_see(tree: object) -> object:
    """A tree with its bytes [N, C, H, W] in [-1, 1], as they arrive in training; all other leaves as they are."""
    there = lambda leaf: to_float(leaf) if isinstance(leaf, Tensor) and leaf.dtype == torch.uint8 and leaf.dim() == 4 else leaf
    return trees.mapped(there, tree)


def part(item: object, key: Key, what: str) -> object:
    """item[key], or what a function makes of the item. what: the argument that the key was given as.

    Raises: ValueError for a key that the item lacks.
    """
    if callable(key):
        return key(item)
    form = trees.structure(item)
    if form == trees.LEAF:
        _checks.fail("train", f"{what} got {key!r}, and the data are one tensor", "A dict of tensors has names")
    known = list(form[1]) if form[0] == "dict" else list(range(len(form[-1])))
    fields = getattr(item, "_fields", ())  # of a named tuple
    if isinstance(key, bool) or key not in (*known, *fields):
        _checks.nearest("train", what, key, list(map(str, fields or known)))
    return getattr(item, key) if key in fields else item[key]


def place(form: trees.Structure, key: Key) -> int:
    """Which leaf of an item holds the samples: the first, or the one that Trainer's `real` leads to.

    Raises: ValueError where it leads to none.
    """
    if key is None or key is NO_SAMPLES:
        return 0
    if callable(key):
        cause = "Its samples are one of the item's tensors as it is; ganfast.train.Network(real=) takes a function"
        _checks.fail("train", "real got a function, wants a part's name or place", cause, TypeError)
    return first(part(trees.rebuilt(form, range(len(trees.names(form)))), key, "real"))


def whole(real: Tensor, told: object) -> object:
    """The item that `real` and `told` are of."""
    return real if told is None else told if any(leaf is real for leaf in trees.leaves(told)) else (real, told)


def samples(given: object, key: Key, what: str) -> Tensor:
    """The samples among what a network gives: the first tensor, or the part that `key` leads to.

    Raises: TypeError where there is no tensor; ValueError for a key that leads to none.
    """
    lone = not isinstance(given, Tensor) and trees.structure(given) == trees.LEAF
    found = trees.leaves(given)[:1] if key is None or lone else [part(given, key, "output")]
    if not found or not isinstance(found[0], Tensor):
        kind = type(found[0] if found else given).__name__
        _checks.fail("train", f"{what} gives a {kind}, wants a tensor, or a tuple or dict whose first is one", error=TypeError)
    return found[0]


def first(tree: object) -> object:
    """The first leaf: of a domain with labels its images."""
    return trees.leaves(tree)[0]


def told(item: object, key: Key = None) -> object | None:
    """What conditions are made from: None beside a lone tensor, the second of a pair whose first is the samples, else the whole item."""
    form = trees.structure(item)
    if form == trees.LEAF:
        return None
    pair = form[0] == "tuple" and len(form[-1]) == 2 and form[-1][0] == trees.LEAF and key in (None, 0, NO_SAMPLES)
    return item[1] if pair else item
