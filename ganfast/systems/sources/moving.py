"""Clips of digits that move at constant speed through a dark square and bounce off its borders: where each one is, and so each next
frame, is known exactly.

    clips = moving.clips(100, digits.mnist(28).images, frames=14, seed=0)    # clips.frames: uint8 [100, 14, 1, 32, 32]

Source: Srivastava, Mansimov & Salakhutdinov 2015, "Unsupervised learning of video representations using LSTMs", whose moving digits these
    are, with places that are whole numbers on a grid twice as fine as the pixels: no frame is rounded or interpolated.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks

FINE = 2  # steps of the grid in a pixel, in both directions
INK = 64  # of 255: what is as light counts where a digit touches a border
_CHUNK = 2048  # clips that are drawn at once


class Clips(NamedTuple):
    """frames uint8 [N, T, 1, S, S]. which int64 [N, D]: the digits' rows. places int64 [N, T, D, 2]: of their pictures' upper left corners
    from the field's, down and to the right, in half pixels; without ink there, a corner may lie outside. speeds int64 [N, D, 2]: in half
    pixels a frame, at the first frame."""

    frames: Tensor
    which: Tensor
    places: Tensor
    speeds: Tensor


def clips(n: int, digits: Tensor, frames: int, *, field: int = 32, count: int = 2, fastest: int = 5, seed: int = 0) -> Clips:
    """`n` clips, each with `count` of the digits; the same for the same seed. digits: uint8 [M, 1, h, w] on the fine grid, so that one of
    28 pixels is 14 wide in the field. fastest: in half pixels a frame, of each direction; none stands still. Where digits overlap the
    lighter one shows. They bounce where their ink touches a border, so that one sees when they will.

    Raises: ValueError for counts below 1, for digits without ink, and for digits that have no room to move in the field.
    """
    for name, value in {"n": n, "frames": frames, "count": count, "fastest": fastest}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            _checks.fail("moving", f"{name} got {value!r}, wants a whole number of at least 1")
    first, last = inked(digits)
    room = FINE * field - 1 - (last - first)  # [M, 2]
    if (room < 1).any():
        sizes = f"up to {(last - first + 1).amax().item()} half pixels, the field {FINE * field}"
        _checks.fail("moving", f"the digits have {sizes}, wants room to move")
    draw = torch.Generator().manual_seed(seed)
    which = torch.randint(len(digits), (n, count), generator=draw)
    first, room = first[which], room[which]  # [N, D, 2]
    start = (torch.rand(n, count, 2, generator=draw) * (room + 1)).long()
    # The speeds but (0, 0), which is in the middle of the square of all.
    side = 2 * fastest + 1
    number = torch.randint(side * side - 1, (n, count), generator=draw)
    number += (number >= side * side // 2).long()
    speeds = torch.stack([number // side, number % side], -1) - fastest
    places = bounced(start[:, None] + speeds[:, None] * torch.arange(frames)[:, None, None], room[:, None]) - first[:, None]
    drawn = [render(digits, which[i : i + _CHUNK], places[i : i + _CHUNK], field) for i in range(0, n, _CHUNK)]
    return Clips(torch.cat(drawn), which, places, speeds)


def inked(digits: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [M, 2] each: the first row and column with ink, and the last, of digits [M, 1, h, w].

    Raises: ValueError for digits without ink.
    """
    ink = digits[:, 0] >= INK
    if not ink.any(2).any(1).all():
        _checks.fail("moving", f"some digits have no pixel of at least {INK}, wants ink")
    of = lambda lines: (lines.int().argmax(1), lines.shape[1] - 1 - lines.flip(1).int().argmax(1))
    (top, bottom), (left, right) = of(ink.any(2)), of(ink.any(1))
    return torch.stack([top, left], 1), torch.stack([bottom, right], 1)


def bounced(places: Tensor, room: Tensor) -> Tensor:
    """Where what would be at `places` without borders is with them: reflected at 0 and `room`, as often as it comes there."""
    return room - ((places % (2 * room)) - room).abs()


def render(digits: Tensor, which: Tensor, places: Tensor, field: int) -> Tensor:
    """uint8 [N, T, 1, field, field] of which [N, D] and places [N, T, D, 2]: each pixel the mean of its four on the fine grid."""
    chosen = digits[which, 0].float()[:, None]  # [N, 1, D, h, w]
    down, right = (_covers(places[..., axis], chosen.shape[3 + axis], field) for axis in (0, 1))
    every = down @ chosen @ right.transpose(-1, -2)  # [N, T, D, field, field]
    return every.amax(2)[:, :, None].round().to(torch.uint8)


def _covers(places: Tensor, length: int, field: int) -> Tensor:
    """[..., field, length]: the share of each row of the field that each row of a digit at `places` fills."""
    row = (places[..., None] + torch.arange(length)) // FINE
    return (row[..., None, :] == torch.arange(field)[:, None]).float() / FINE
