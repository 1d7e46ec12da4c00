"""A mark in the pixels of frames that a system made of somebody's face: a strip along the lower border, with a word in capital letters and
hatching. It outlives what text fields do not: screenshots, other formats, uploads. Whoever crops the picture removes it."""

import functools

import torch
from torch import Tensor

_LETTERS = {
    "S": "### #.. ### ..# ###", "Y": "#.# #.# .#. .#. .#.", "N": "##. #.# #.# #.# #.#", "T": "### .#. .#. .#. .#.",
    "H": "#.# #.# ### #.# #.#", "E": "### #.. ##. #.. ###", "I": "### .#. .#. .#. ###", "C": "### #.. #.. #.. ###",
    "F": "### #.. ##. #.. #..", "A": "### #.# ### #.# #.#", "K": "#.# #.# ##. #.# #.#",
}  # fmt: skip
_WORDS = ("SYNTHETIC", "FAKE")  # the first that fits
_ROWS = 7  # a letter and a dark row above and below


def height(size: int) -> int:
    """Rows of the strip in a picture of `size` x `size` pixels."""
    return _ROWS * max(1, size // 64)


SIZES = (32, 64, 128, 256)
"""Sides of the pictures that the strip is looked for in, as they are and enlarged."""


@functools.lru_cache(maxsize=8)
def strip(size: int) -> Tensor:
    """[height(size), size] of -1 and 1."""
    times = max(1, size // 64)
    across = size // times
    word = next((word for word in _WORDS if 4 * len(word) + 1 <= across), "")
    row, column = torch.arange(_ROWS)[:, None], torch.arange(-(-size // times))
    seen = (row + column) % 4 < 2
    seen[:, : 4 * len(word) + 1] = False
    for i, letter in enumerate(word):
        lines = _LETTERS[letter].split()
        seen[1:6, 4 * i + 1 : 4 * i + 4] = torch.tensor([[dot == "#" for dot in line] for line in lines])
    return (seen.repeat_interleave(times, 0).repeat_interleave(times, 1)[:, :size] * 2 - 1).float()


def marked(images: Tensor) -> Tensor:
    """Images [N, C, S, S] in [-1, 1] with the strip in place of their lowest rows; nothing of what was there remains."""
    size = images.shape[-1]
    rows = strip(size).to(images).expand(*images.shape[:2], -1, -1)
    return torch.cat([above(images), rows], 2)


def above(images: Tensor) -> Tensor:
    """The rows [N, C, S - height(S), S] over the strip, of marked or other images."""
    return images[:, :, : -height(images.shape[-1])]


def is_marked(images: Tensor) -> Tensor:
    """bool [N]: whether images [N, C, S, S] in [-1, 1] have the strip: nine tenths of its pixels are light or dark as they should be, so
    that it is found after a JPEG or a GIF too; also in frames of SIZES that were enlarged by a whole number. Each image is one frame, no
    grid of several; in frames that were made smaller, or larger by a fraction, the strip is not found reliably."""
    size = images.shape[-1]
    light, found = images.float().mean(1) > 0, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for made in {size, *(side for side in SIZES if side < size)}:
        from_where = torch.arange(size) * made // size
        rows = from_where[from_where >= made - height(made)] - (made - height(made))
        wanted = strip(made)[rows][:, from_where].to(light.device) > 0
        found |= (light[:, -len(wanted) :] == wanted).float().mean((1, 2)) >= 0.9
    return found
