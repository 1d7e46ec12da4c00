"""Films and pictures of your own with key points beside them, as any detector can write them: a JSON list of frames, each a list of [x, y].

Of a folder of frames it is the file points.json in the folder, of film.gif or face.png the file film.json or face.json beside it; of one
picture also the list of its points alone. x and y are in pixels of the upright picture, from its upper left corner.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import films

WANTED = {
    "data": "a folder of clips or an animated GIF, key points beside",
    "face": "a picture of a face, key points beside: of face.png in face.json",
    "driver": "a folder of frames or an animated GIF, key points beside",
}
"""By option."""
OUTSIDE = 1  # pixels: so far a detector may round a point over the border


class Pointed(NamedTuple):
    """frames uint8 [T, 3, S, S]; points float32 [T, K, 2], x and y, -1 and 1 being the borders of the square that the frames are."""

    frames: Tensor
    points: Tensor


def pointed(path: str | Path, size: int, least: int = 1, option: str = "data") -> dict[str, Pointed]:
    """name -> the clip at or below `path`, as `films.films` names and reads them; points up to a pixel outside of the picture are taken
    for ones on its border. option: what errors call the path.

    Raises: ValueError as `films.films`; where points are missing, no list of frames of as many points each as all other frames have, as
        many as there are no frames, no numbers, or further outside of the picture.
    """
    found, counts = {}, {}
    for name, clip in films.clips(path, size, least, "puppet", option, WANTED[option]).items():
        points = _read(clip.points, name, len(clip.frames), clip.pixels)
        counts.setdefault(points.shape[1], []).append(name)
        width, height = clip.pixels
        side = min(width, height)
        corner = torch.tensor([width - side, height - side]) / 2
        found[name] = Pointed(clip.frames, (points - corner) * 2 / side - 1)
    if len(counts) > 1:
        told = "; ".join(f"{count} in {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}" for count, names in counts.items())
        _checks.fail("puppet", f"{option} has unequal numbers of points: {told}", "One detector for all, in one order")
    return found


def _read(file: Path, name: str, frames: int, pixels: tuple[int, int]) -> Tensor:
    """[frames, K, 2] in pixels."""
    where = f"the points of {name}, {file.name},"
    if not file.is_file():
        _checks.fail("puppet", f"there are no points of {name}", f"Wanted: {file}, a list of frames, each a list of [x, y] in pixels")
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"puppet: {where} are no JSON: {error}.") from None
    if frames == 1 and isinstance(held, list) and held and all(_is_point(point) for point in held):
        held = [held]  # of one picture
    if not isinstance(held, list) or not held or not all(isinstance(frame, list) and frame for frame in held):
        _checks.fail("puppet", f"{where} are no list of frames, each a list of [x, y]")
    if len(held) != frames:
        _checks.fail("puppet", f"{where} are of {len(held)} frames, the clip has {frames}")
    out = []
    for i, frame in enumerate(held, 1):
        if wrong := [point for point in frame if not _is_point(point)]:
            _checks.fail("puppet", f"{where} have {wrong[0]!r} in frame {i}, wants [x, y], two numbers")
        if len(frame) != len(held[0]):
            _checks.fail("puppet", f"{where} are {len(frame)} in frame {i} and {len(held[0])} in the first, wants as many in each")
        out += [(point, i) for point in frame if not all(-OUTSIDE <= at <= end + OUTSIDE for at, end in zip(point, pixels))]
    if out:
        (point, i), picture = out[0], f"the picture of {pixels[0]} x {pixels[1]} pixels"
        cause = f"So are {len(out)} of {sum(map(len, held))} points; leave such frames out, or such points in all frames"
        _checks.fail("puppet", f"{where} have {point} in frame {i}, outside of {picture}", cause)
    return torch.tensor(held, dtype=torch.float32).clamp(torch.zeros(2), torch.tensor(pixels, dtype=torch.float32))


def _is_point(held: object) -> bool:
    number = lambda at: isinstance(at, (int, float)) and not isinstance(at, bool) and math.isfinite(at)
    return isinstance(held, list) and len(held) == 2 and all(map(number, held))
