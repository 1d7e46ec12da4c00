"""Checks of training data: which shapes, dtypes and ranges are accepted, for images and for labels, and the errors for the others."""

import math
import warnings
from typing import NoReturn

import torch
from torch import Tensor


class Refused(ValueError):
    """Data that cannot be trained on, and what to do."""


def refuse(message: str) -> NoReturn:
    raise Refused(f"data: {message}")


def parts(item: object, where: str) -> tuple[object, object | None]:
    """(first, second or None) of what a Dataset or DataLoader gives.

    Raises: ValueError for a dict, or another number of things.
    """
    if isinstance(item, dict):
        refuse(f"{where} is a dict with {', '.join(map(repr, item))}, wants an image or (image, second); a Dataset around it can choose.")
    if not isinstance(item, (tuple, list)):
        return item, None
    if len(item) not in (1, 2):
        refuse(f"{where} has {len(item)} parts, wants an image or (image, second).")
    return item[0], item[1] if len(item) == 2 else None


def reals(x: Tensor, name: str = "the first item", flip: bool = False, image_size: int | None = None) -> Tensor:
    """x [N, ...], checked: uint8 images [N, C, H, W] contiguous, or float32.

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
        refuse(f"{name} has dtype {x.dtype}, wants uint8 images [N, C, H, W], or floats; levels of 0 to 255: x.to(torch.uint8).")
    if x.dim() < 2:
        refuse(f"{name} has shape {shape}, wants [N, ...]; numbers are vectors of one: x.unsqueeze(1).")
    if x.dim() == 4 and shape[1] > 4 and shape[3] in (1, 3, 4):
        refuse(f"{name} has shape {shape}, wants [N, C, H, W]; channels come last here: images.permute(0, 3, 1, 2).contiguous().")
    if flip and x.dim() != 4:
        refuse(f"flip mirrors images [N, C, H, W], {name} has shape {shape}.")
    if image_size is not None and x.dim() == 4 and shape[2:] != (image_size, image_size):
        refuse(f"{name} has images of {shape[2]}x{shape[3]}, image_size wants {image_size}x{image_size}; tensors are not resized.")
    return x.detach().contiguous() if x.dtype == torch.uint8 else x.detach().float()


def look_at_range(x: Tensor, name: str = "the first item") -> None:
    """Float images are taken as they are, and the generator's tanh gives [-1, 1]; warns where x [N, ...] is not like that.

    Raises: ValueError for levels of 0 to 255.
    """
    if x.dtype == torch.uint8:
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
    if low >= 0 and high <= 1 and low != high:
        warn(
            f"{name} has floats from {low:g} to {high:g} and is taken as it is; a generator's tanh gives [-1, 1]. Scale it, x * 2 - 1 "
            "(torchvision: transforms.Normalize(0.5, 0.5) after ToTensor()), unless your generator ends in a sigmoid."
        )
    elif low < -1.01 or high > 1.01:
        warn(f"{name} has floats from {low:g} to {high:g} and is taken as it is; a generator that ends in tanh gives [-1, 1] alone.")


def warn(message: str) -> None:
    warnings.warn(f"data: {message}", stacklevel=2)


def seconds(y: Tensor, length: int | None, name: str = "the second item") -> Tensor:
    """Labels [N] int64, vectors [N, ...] float32, or images [N, C, H, W] uint8, checked.

    Raises: ValueError for another length, for labels that are floats or below 0, for other integers.
    """
    shape = tuple(y.shape)
    if y.dim() == 0 or (length is not None and shape[0] != length):
        refuse(f"{name} has shape {shape}, the first has {length} entries; wants one for each.")
    y = y.detach()
    if y.dim() == 1:
        if y.is_floating_point():
            refuse(f"{name} has dtype {y.dtype} and shape {shape}; labels are whole numbers: y.long(). Vectors of one: y.unsqueeze(1).")
        if y.is_complex():
            refuse(f"{name} has dtype {y.dtype}, wants labels int64 [N], vectors [N, D] or images.")
        if y.numel() and y.min() < 0:
            refuse(f"{name} has labels from {int(y.min())}, wants 0 and up; what marks entries without a label must be taken out.")
        return y.long()
    if y.dtype == torch.uint8 and y.dim() == 4:
        return y.contiguous()
    if not y.is_floating_point():
        cause = "labels have one dimension: y[:, 0]" if shape[1:] == (1,) else "vectors are floats: y.float()"
        refuse(f"{name} has dtype {y.dtype} and shape {shape}; {cause}.")
    return y.float()


def named(labels: Tensor | None, names: list[str] | None) -> list[str]:
    """The classes' names: as given, or the labels as text; none where there are no labels [N] int64.

    Raises: ValueError for labels beyond the names, or without names for labels that do not start at 0.
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
    present = len(labels.unique())
    if present <= high:
        warn(f"the labels go up to {high}, but only {present} of these {high + 1} classes occur; {renumber}.")
    return [str(i) for i in range(high + 1)]
