"""Masks of what is missing in pictures: blocks, borders and free-form strokes, tensors made of uniform numbers alone; or a folder's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.data.folders import existing

KINDS = ("block", "border", "free")
_TURNS = 6  # stretches of a stroke
_NUMBERS = 4 + 2 * _TURNS


def masks(kind: str, n: int, size: int, hole: int, *, seed: int = 0, uniform: Callable[..., Tensor] | None = None) -> Tensor:
    """[n, 1, size, size] float32, 1 where a picture is missing and 0 where it is known.

    kind: "block": a square of `hole` x `hole` pixels, at least (size - hole) // 4 from the picture's edge. "border": all but such a square.
    "free": two strokes as of a brush, each of six stretches, that cover about as much as the block does.
    Numbers follow from `seed`; or `uniform(n, count)` gives them, in [0, 1), equally many for each kind.

    Raises: ValueError for another kind, or a hole that leaves nothing known or nothing missing.
    """
    if kind not in KINDS:
        _checks.nearest("masks", "kind", kind, KINDS)
    if not 0 < hole < size:
        _checks.fail("masks", f"hole is {hole}, wants 1 to {size - 1}", f"The pictures have {size} x {size} pixels")
    if uniform is None:
        source = torch.Generator().manual_seed(seed)
        uniform = lambda *shape: torch.rand(*shape, generator=source)
    numbers = uniform(n, 2 * _NUMBERS)
    if kind == "free":
        return torch.maximum(_stroke(numbers[:, :_NUMBERS], size, hole), _stroke(numbers[:, _NUMBERS:], size, hole))
    inside = _square(numbers, size, hole)
    return inside if kind == "block" else 1 - inside


def of_folder(path: str, size: int) -> Tensor:
    """[n, 1, size, size] float32 of the pictures in a folder, in the order of their names: 1 where one is lighter than the middle grey.

    Raises: ValueError for a folder that is missing, holds no pictures, masks that miss nothing or everything, or pictures of another size,
        which are listed: a mask that is resized fits its picture no longer.
    """
    from PIL import Image, UnidentifiedImageError

    found, others = [], []
    for file in sorted(Path(existing(path)).iterdir()):
        try:
            with Image.open(file) as image:
                grey = image.convert("L")
        except (UnidentifiedImageError, IsADirectoryError):
            continue
        if grey.size != (size, size):
            others.append(f"{file.name} ({grey.width} x {grey.height})")
        found.append(torch.from_numpy(np.array(grey) > 127))
    if not found:
        _checks.fail("masks", f"there is no picture in {path}", "White is what is missing")
    if others:
        listed = ", ".join(others[:10]) + (f" and {len(others) - 10} more" if len(others) > 10 else "")
        _checks.fail("masks", f"{path} has masks of another size than {size} x {size}: {listed}", "image_size says the pictures' size")
    made = torch.stack(found)[:, None].float()
    share = made.mean((1, 2, 3))
    if useless := int(((share == 0) | (share == 1)).sum()):
        cause = "White, 255, is what is missing; some of a picture is, and some is not"
        _checks.fail("masks", f"{useless} of the {len(made)} masks in {path} are all black or all white", cause)
    return made


def _square(numbers: Tensor, size: int, side: int) -> Tensor:
    margin = (size - side) // 4
    start = margin + (numbers[:, :2] * (size - side - 2 * margin + 1)).long()
    place = torch.arange(size, device=numbers.device) - start[:, :, None]
    inside = ((place >= 0) & (place < side)).float()
    return (inside[:, 0, :, None] * inside[:, 1, None, :])[:, None]


def _stroke(numbers: Tensor, size: int, hole: int) -> Tensor:
    """All pixels nearer than half the brush's width to a line of straight stretches that turns at each joint."""
    n, device = len(numbers), numbers.device
    width = hole * (0.2 + 0.15 * numbers[:, 0])
    point = size * (0.2 + 0.6 * numbers[:, 1:3])
    angle = 2 * torch.pi * numbers[:, 3]
    axis = torch.arange(size, device=device) + 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(1, -1, 2)
    near = torch.full((n, size * size), torch.inf, device=device)
    for i in range(4, _NUMBERS, 2):
        angle = angle + torch.pi * (numbers[:, i] - 0.5)
        ahead = torch.stack([angle.sin(), angle.cos()], 1) * hole * (0.2 + 0.4 * numbers[:, i + 1, None])
        following = (point + ahead).clamp(0, size)
        near = torch.minimum(near, _distance(pixels, point[:, None], following[:, None]))
        point = following
    return (near <= width[:, None] / 2).float().view(n, 1, size, size)


def _distance(points: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """[n, points], of each point from a stretch of a line."""
    along = end - begin
    share = ((points - begin) * along).sum(2) / along.square().sum(2).clamp_min(1e-6)
    return (points - begin - share.clamp(0, 1)[:, :, None] * along).norm(dim=2)
