"""Checks of training data: which shapes, dtypes and ranges are accepted, for images and for labels, and the errors for the others."""

import contextlib
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ganfast.train import parts as parts_of
from ganfast.train import trees

_FEW, _SPARSE = 1000, 10  # labels from so many on, and so many times as many as occur, are no numbers of classes
_LOOKED_AT = 1000  # entries
_OVERSHOOT = 0.1  # bicubic resizing goes beyond the range of its input
_SHOWN = 10  # of what is listed in a warning


class Refused(ValueError):
    """Data that cannot be trained on, and what to do."""


class Failed(RuntimeError):
    """An exception of the user's own code (a Dataset, its transforms, a collate_fn), with what it was raised for; the exception itself is
    the cause. trace: its traceback as text, which survives the way out of a worker process, as the exception need not."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class _InWorker(Exception):
    """The cause of a Failed that comes from a worker process: prints as the traceback there."""

    def __str__(self) -> str:
        return f"in a worker process\n\n{self.args[0]}"


def refuse(message: str) -> NoReturn:
    raise Refused(f"data: {message}")


def failed(where: str, error: Exception, remedy: str = "") -> Failed:
    """where: what was being read. remedy: for items that are known to be unreadable."""
    what = f"data: {where} raised {type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    made = Failed(f"{what}. The traceback in that code stands with this error; mend it there{remedy}.", trace)
    made.__cause__ = error
    return made


def stop_at(entry: object) -> None:
    """Raises: what ended the decoding of an item, which travels as a value: a worker's own exceptions lose their words on the way."""
    if isinstance(entry, Failed):
        raise entry from entry.__cause__ or _InWorker(entry.trace)
    if isinstance(entry, Refused):
        raise entry


@contextlib.contextmanager
def users_code(where: Callable[[Exception], str]) -> Iterator[None]:
    """Raises: Failed for whatever the user's code raises in it, at `where`."""
    try:
        yield
    except (Refused, Failed):
        raise
    except Exception as error:
        raise failed(where(error), error) from error


def opened(item: object, where: str) -> tuple[trees.Structure, list]:
    """Structure and leaves of what a Dataset or DataLoader gives; a tuple of one counts as what it holds.

    Raises: ValueError where there is nothing in it.
    """
    item = _numbers_as_tensors(item)
    while isinstance(item, (tuple, list)) and len(item) == 1:
        (item,) = item
    form, found = trees.structure(item), trees.leaves(item)
    if not found:
        refuse(f"{where} is an empty {type(item).__name__}, wants an image, a tuple or a dict.")
    return form, found


def _numbers_as_tensors(item: object) -> object:
    """A list or tuple of plain numbers in an item is one vector, or the tokens of one text."""
    if isinstance(item, Mapping):
        return {name: _numbers_as_tensors(part) for name, part in item.items()}
    if not isinstance(item, (tuple, list)) or hasattr(item, "_fields"):
        return item
    if item and all(isinstance(part, (int, float)) for part in item):
        return torch.tensor(item)
    return tuple(map(_numbers_as_tensors, item))


def all_checked(
    parts: Sequence[Tensor], form: trees.Structure, real: parts_of.Key, flip: bool, image_size: int | None, *named: str
) -> list[Tensor]:
    """The samples' leaf, checked by `reals`, and all others by `seconds`; `named` is for trees.names."""
    if real is parts_of.NO_SAMPLES:
        length = len(parts[0]) if parts[0].dim() else None
        return [seconds(y, length, name) for y, name in zip(parts, trees.names(form, *named), strict=True)]
    place, names = parts_of.place(form, real), trees.names(form, *named)
    samples = reals(parts[place], names[place], flip, image_size, among=len(parts) > 1)
    return [samples if at == place else seconds(y, len(samples), name) for at, (y, name) in enumerate(zip(parts, names, strict=True))]


def reals(x: Tensor, name: str = "the first item", flip: bool = False, image_size: int | None = None, among: bool = False) -> Tensor:
    """x [N, ...], checked: uint8 images [N, C, H, W] contiguous, or float32. among: an item has other parts too.

    Raises: ValueError for bytes that are no images, other integers, images of another size; for flip where there are none.
    """
    shape = tuple(x.shape)
    if x.dim() == 0 or shape[0] == 0:
        refuse(f"{name} is empty: shape {shape}; wants [N, ...] with at least one item.")
    if x.dtype == torch.uint8:
        if x.dim() != 4:
            cause = " Grey images want a channel: images.unsqueeze(1)." if x.dim() == 3 else ""
            refuse(f"{name} has dtype uint8 and shape {shape}, wants images [N, C, H, W].{cause}")
    elif not x.is_floating_point():
        other = " If the samples are another part, real=... of Trainer names it, for all networks." if among else ""
        refuse(f"{name} has dtype {x.dtype}, wants uint8 images [N, C, H, W], or floats; levels of 0 to 255: x.to(torch.uint8).{other}")
    if x.dim() < 2:
        refuse(f"{name} has shape {shape}, wants [N, ...]; numbers are vectors of one: x.unsqueeze(1).")
    if x.dim() == 4 and shape[1] > 4 and shape[3] in (1, 3, 4):
        refuse(f"{name} has shape {shape}, wants [N, C, H, W]; channels come last here: images.permute(0, 3, 1, 2).contiguous().")
    if flip and x.dim() != 4:
        refuse(f"flip mirrors images [N, C, H, W], {name} has shape {shape}.")
    if image_size is not None and x.dim() == 4 and shape[2:] != (image_size, image_size):
        refuse(f"{name} has images of {shape[2]}x{shape[3]}, image_size wants {image_size}x{image_size}; tensors are not resized.")
    return x.detach().contiguous() if x.dtype == torch.uint8 else x.detach().float()


def look_at_bytes(x: Tensor, name: str) -> None:
    """Warns of images whose bytes look like floats that were not scaled."""
    if x.dtype == torch.uint8 and x[:_LOOKED_AT].max() == 1:
        warn(
            f"{name} has bytes of 0 and 1 alone, of 0 to 255: nearly black images. Floats in [0, 1] are scaled first: "
            "(x * 255).round().to(torch.uint8); masks: x * 255, or x.bool()."
        )


def look_at_range(x: Tensor, name: str = "the first item") -> None:
    """Float images are taken as they are, and the generator's tanh gives [-1, 1]; warns where x [N, ...] is not like that, and where bytes
    look like floats that were not scaled.

    Raises: ValueError for levels of 0 to 255 as floats.
    """
    if x.dtype == torch.uint8:
        look_at_bytes(x, name)
        return
    low, high = (bound.item() for bound in torch.aminmax(x))  # NaN where there is one
    if not math.isfinite(high - low):
        bad = (~x.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
        warn(f"{len(bad)} of {len(x)} entries of {name} hold NaN or infinity, the first is {bad[0]}; steps that draw one are skipped.")
        return
    if x.dim() != 4:
        return
    if low >= 0 and high > 100:
        refuse(
            f"{name} has floats from {low:g} to {high:g}, wants [-1, 1], the range of a generator's tanh: x / 127.5 - 1, or uint8, "
            "which is scaled as it is drawn."
        )
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT and low != high:
        warn(
            f"{name} has floats from {low:g} to {high:g} and is taken as it is; a generator's tanh gives [-1, 1]. Scale it, x * 2 - 1 "
            "(torchvision: transforms.Normalize(0.5, 0.5) after ToTensor()), unless your generator ends in a sigmoid."
        )
    elif low < -1.01 or high > 1.01:
        warn(
            f"{name} has floats from {low:g} to {high:g} and is taken as it is; a generator that ends in tanh gives [-1, 1] alone "
            "(torchvision: Normalize(0.5, 0.5) gives that range, ImageNet's mean and deviation do not)."
        )


def warn(message: str) -> None:
    warnings.warn(f"data: {message}", stacklevel=2)


def seconds(y: Tensor, length: int | None, name: str = "the second item") -> Tensor:
    """Labels [N] int64, tokens [N, L, ...] int64, vectors [N, ...] float32, images [N, C, H, W] uint8, masks [N, ...] bool, checked.

    Raises: ValueError for another length, for labels that are floats or below 0, for bytes that are no images.
    """
    shape = tuple(y.shape)
    if y.dim() == 0 or (length is not None and shape[0] != length):
        own = "" if y.dim() == 0 else " Data that do not belong together: ganfast.train.data.unpaired(a=..., b=...)."
        refuse(f"{name} has shape {shape}, there are {length} samples; wants one for each.{own}")
    y = y.detach()
    if y.dim() == 1:
        if y.is_floating_point():
            refuse(f"{name} has dtype {y.dtype} and shape {shape}; labels are whole numbers: y.long(). Vectors of one: y.unsqueeze(1).")
        if y.is_complex():
            refuse(f"{name} has dtype {y.dtype}, wants labels int64 [N], vectors [N, D] or images.")
        y = y.long()  # torch has no min of some unsigned kinds
        if y.numel() and y.min() < 0:
            refuse(f"{name} has labels from {int(y.min())}, wants 0 and up; what marks entries without a label must be taken out.")
        return y
    if y.dtype == torch.uint8 and y.dim() == 4:
        return y.contiguous()
    if y.dtype == torch.bool:
        return y.contiguous()
    if y.is_floating_point():
        return y.float()
    if y.dtype in (torch.int64, torch.int32) and shape[1:] != (1,) and not _one_hot(y):
        return y.long().contiguous()
    cause = "labels have one dimension: y[:, 0]" if shape[1:] == (1,) else "vectors are floats: y.float(); tokens: y.long()"
    refuse(f"{name} has dtype {y.dtype} and shape {shape}; {cause}.")


def _one_hot(y: Tensor) -> bool:
    return y.dim() == 2 and bool((y >= 0).all() and (y.sum(1) == 1).all())


def named(labels: Tensor | None, names: list[str] | None) -> list[str]:
    """The classes' names: as given, or the labels as text; none where there are no labels [N] int64.

    A label is a row of the networks' embedding, so there are as many classes as the highest label says, also where some do not occur.
    Raises: ValueError for labels beyond the names, or without names for labels that do not start at 0, or that are so far apart that they
        number no classes.
    """
    if labels is None or labels.dim() != 1:
        return []
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if names is not None:
        if high >= len(names):
            refuse(f"the labels go up to {high}, but there are names for {len(names)} classes: 0 to {len(names) - 1}.")
        return [str(name) for name in names]
    renumber = "labels.unique(return_inverse=True)[1] numbers them anew"
    if low > 0:
        refuse(f"the labels go from {low} to {high}, wants 0 to the number of classes - 1; {renumber}.")
    occur = labels.unique()
    present = len(occur)
    if high >= max(_FEW, _SPARSE * present):
        refuse(
            f"the labels go up to {high}, and only {present} different ones occur: the networks would need {high + 1} classes. Wants 0 to "
            f"the number of classes - 1; {renumber}. Are they identities of the entries, or hashes? Those are no classes. Names for all "
            "classes, as ImageData and torchvision's Datasets have them in `classes`, say that as many are meant."
        )
    if present <= high:
        absent = sorted(set(range(high + 1)) - set(occur.tolist()))
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        gaps = ", ".join(map(str, absent[:_SHOWN])) + more
        warn(
            f"the labels go up to {high}, but only {present} of these {high + 1} classes occur; there is nothing to learn of {gaps}. "
            f"{renumber}."
        )
    return [str(i) for i in range(high + 1)]
