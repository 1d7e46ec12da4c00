"""Films of your own: folders whose pictures are the frames of a clip each, and animated GIFs (or other animations that Pillow reads)."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.data.decode import endings, square

_SHOWN = 5  # names in an error
_ORIENTATION = 0x0112  # in EXIF


class Clip(NamedTuple):
    """frames uint8 [T, 3, size, size]; pixels: width and height of the pictures that they were made from, upright; points: the file
    that may hold its key points."""

    frames: Tensor
    pixels: tuple[int, int]
    points: Path


def films(path: str | Path, size: int, least: int) -> dict[str, Tensor]:
    """name -> uint8 [T, 3, size, size]: the frames of `clips`, with its errors."""
    return {name: clip.frames for name, clip in clips(path, size, least).items()}


def clips(path: str | Path, size: int, least: int, system: str = "next-frame", option: str = "data") -> dict[str, Clip]:
    """Each clip at or below `path` by its name, in the order of their names, in which numbers count as numbers: 10 comes after 9. An
    animation is a clip, however long its frames are shown; other pictures of one folder are a clip together, in that order, and a single
    picture at `path` is one of a single frame. `decode.square` says how a frame becomes a square. system, option: whose errors they are.

    Raises: ValueError where nothing is at `path`, for clips of fewer than `least` frames or of frames of unequal sizes, and for pictures
        that cannot be read, as a clip without one would jump; all listed.
    """
    root = Path(path).expanduser()
    if not root.exists():
        beside = [other.name for other in root.parent.iterdir()] if root.parent.is_dir() else []
        cause = _checks.meant(root.name, beside, 0.6)
        wants = "a folder of clips or an animated GIF; there is no such thing"
        raise ValueError(f"{system}: {option} got {str(root)!r}, wants {wants}.{cause}")
    known = endings()
    below = [] if root.is_file() else [file for file in root.rglob("*") if file.is_file() and file.suffix.lower() in known]
    files = [root] if root.is_file() else [file for file in below if not any(p.startswith(".") for p in file.relative_to(root).parts)]
    frames, sizes, points, broken = {}, {}, {}, []
    for file in sorted(files, key=lambda file: ([_natural(part) for part in file.parts], file)):
        name = lambda place: str(place.relative_to(root)) if place != root else root.resolve().name
        try:
            found, pixels, animated = _frames(file, size)
        except Exception as error:  # Pillow raises anything
            broken.append(f"{name(file)} ({error})")
            continue
        alone = animated or file == root
        clip = name(file if alone else file.parent)
        frames.setdefault(clip, []).extend(found)
        sizes.setdefault(clip, []).append((file.name, pixels))
        points[clip] = file.with_suffix(".json") if alone else file.parent / "points.json"
    none = lambda what, found: _none(system, option, what, found)
    none("pictures that cannot be read", broken)
    if not frames:
        _checks.fail(system, f"{option} {str(root)!r} holds no pictures, wants folders of frames, or animated GIFs")
    none("clips whose frames have unequal sizes", [f"{clip}: {words}" for clip, s in sizes.items() if (words := _unequal(s))])
    short = [f"{clip} ({len(found)})" for clip, found in frames.items() if len(found) < least]
    none(f"clips of fewer than {least} frames", short)
    return {clip: Clip(torch.stack(found), sizes[clip][0][1], points[clip]) for clip, found in frames.items()}


def windows(film: Tensor, length: int) -> Tensor:
    """[T - length + 1, length, ...]: all stretches of a film [T, ...]."""
    return film[torch.arange(len(film) - length + 1)[:, None] + torch.arange(length)]


def parted(clips: Sequence[Tensor], least: int, system: str = "next-frame") -> tuple[list[Tensor], list[Tensor]]:
    """(for training, held out). Of five clips and more every fifth is held out; of fewer the last fifth of each that is long enough for
    `least` frames in both parts.

    Raises: ValueError where that leaves nothing held out.
    """
    if len(clips) >= 5:
        return [clip for i, clip in enumerate(clips) if i % 5 < 4], list(clips[4::5])
    train, held = [], []
    for clip in clips:
        end = len(clip) - max(least, len(clip) // 5)
        if end >= least:
            held.append(clip[end:])
        train.append(clip[: end if end >= least else len(clip)])
    if not held:
        got = f"data have {len(clips)} clips, the longest of {max(map(len, clips))} frames"
        cause = "Some are held out, to measure what is made"
        _checks.fail(system, f"{got}, wants five clips, or one of {2 * least} frames", cause)
    return train, held


def _frames(file: Path, size: int) -> tuple[list[Tensor], tuple[int, int], bool]:
    """Squares, the size of what they were made from, and whether the file is an animation."""
    from PIL import Image

    with Image.open(file) as image:
        pixels = image.size  # before a JPEG is decoded smaller
        if image.getexif().get(_ORIENTATION, 1) >= 5:  # lies on its side
            pixels = pixels[::-1]
        # A camera's MPO has previews beside its photograph.
        animated = getattr(image, "is_animated", False) and image.format != "MPO"
        found = []
        for i in range(image.n_frames if animated else 1):
            if animated:
                image.seek(i)
            found.append(square(image, size, 3))
        return found, pixels, animated


def _natural(name: str) -> list[int | str]:
    """Text and numbers in turn, which compares as people order names."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]


def _unequal(frames: list[tuple[str, tuple[int, int]]]) -> str:
    """Which frames have another size than most, in words; nothing where all have one."""
    (usual, _), *others = Counter(pixels for _, pixels in frames).most_common()
    named = [f"{name} {pixels[0]}x{pixels[1]}" for name, pixels in frames if pixels != usual]
    return f"{_listed(named)}, most {usual[0]}x{usual[1]}" if others else ""


def _listed(found: list[str]) -> str:
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _none(system: str, option: str, what: str, found: list[str]) -> None:
    if found:
        _checks.fail(system, f"{option} have {len(found)} {what}: {_listed(found)}")
