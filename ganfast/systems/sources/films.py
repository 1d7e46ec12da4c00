"""Films of your own: folders whose pictures are the frames of a clip each, and animated GIFs (or other animations that Pillow reads)."""

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import own
from ganfast.train.data.decode import opened, square
from ganfast.train.data.folders import image_files

_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # in EXIF
_WANTED = "a folder of clips or an animated GIF"
_VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
_OF_A_VIDEO = "Videos are not read; a program such as ffmpeg writes their frames: ffmpeg -i film.mp4 frames/%06d.png"


class Clip(NamedTuple):
    """frames uint8 [T, 3, size, size]; pixels: width and height of the pictures that they were made from, upright; points: the file
    that may hold its key points."""

    frames: Tensor
    pixels: tuple[int, int]
    points: Path


def films(path: str | Path, size: int, least: int) -> dict[str, Tensor]:
    """name -> uint8 [T, 3, size, size]: the frames of `clips`, with its errors."""
    return {name: clip.frames for name, clip in clips(path, size, least).items()}


def clips(
    path: str | Path, size: int, least: int, system: str = "next-frame", option: str = "data", wants: str = _WANTED
) -> dict[str, Clip]:
    """Each clip at or below `path` by its name, in the order of their names, in which numbers count as numbers: 10 comes after 9. An
    animation is a clip, its frames taken as equally long, and so is each GIF, with a single frame too; other pictures of one folder are a
    clip together, in that order, and a single picture at `path` is one of a single frame. Files are found as `folders.image_files` does,
    `decode.square` says how a frame becomes a square. system, option: whose errors they are; wants: what these ask for.

    Raises: ValueError where nothing is at `path`, for clips of fewer than `least` frames or of frames of unequal sizes, and for pictures
        that cannot be read, as a clip without one would jump; all listed.
    """
    root = Path(path).expanduser()
    if not root.exists():
        beside = [other.name for other in root.parent.iterdir()] if root.parent.is_dir() else []
        cause = _checks.meant(root.name, beside, 0.6)
        raise ValueError(f"{system}: {option} got {str(root)!r}, wants {wants}; there is no such thing.{cause}")
    paths, broken, others = ([()], [], {}) if root.is_file() else image_files(root)
    is_video = {root.suffix.lower(), *others} & _VIDEOS
    frames, sizes, points = {}, {}, {}
    name = lambda place: str(place.relative_to(root)) if place != root else root.resolve().name
    for file in sorted((root.joinpath(*parts) for parts in paths), key=lambda file: ([_natural(part) for part in file.parts], file)):
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
    none = lambda what, found: own.none(system, what, found, option)
    if is_video and not frames:
        _checks.fail(system, f"{option} got {str(root)!r}, wants {wants}", _OF_A_VIDEO)
    none("pictures that cannot be read", broken)
    if not frames:
        _checks.fail(system, f"{option} {str(root)!r} holds no pictures, wants {wants}")
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
        longest = max(map(len, clips))
        got = f"data has {'one clip' if len(clips) == 1 else f'{len(clips)} clips, the longest'} of {longest} frames"
        cause = "Some are held out, to measure what is made"
        _checks.fail(system, f"{got}, wants five clips, or one of {2 * least} frames", cause)
    return train, held


def _frames(file: Path, size: int) -> tuple[list[Tensor], tuple[int, int], bool]:
    """Squares, the size of what they were made from, upright, and whether the file is a clip of its own."""
    with opened(file) as image:
        pixels, found = _upright(image), []  # before a JPEG is decoded smaller
        # A camera's MPO has previews beside its photograph. A GIF of one frame is still no frame of its neighbours.
        animated = getattr(image, "is_animated", False) and image.format != "MPO"
        for i in range(image.n_frames if animated else 1):
            if animated:
                image.seek(i)
            found.append(square(image, size, 3))
        return found, pixels, animated or image.format == "GIF"


def _upright(image) -> tuple[int, int]:
    """Width and height of a PIL image that was opened, not decoded, as they are after the turn that EXIF asks for."""
    on_its_side = False
    with contextlib.suppress(Exception):  # damaged EXIF, by which `square` does not turn either
        on_its_side = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE  # Pillow turns TIFFs itself
    return image.size[::-1] if on_its_side else image.size


def _natural(name: str) -> list[int | str]:
    """Text and numbers in turn, which compares as people order names."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]


def _unequal(frames: list[tuple[str, tuple[int, int]]]) -> str:
    """Which frames have another size than most, in words; nothing where all have one."""
    (usual, _), *others = Counter(pixels for _, pixels in frames).most_common()
    named = [f"{name} {pixels[0]}x{pixels[1]}" for name, pixels in frames if pixels != usual]
    return f"{own.listed(named)}, most {usual[0]}x{usual[1]}" if others else ""
