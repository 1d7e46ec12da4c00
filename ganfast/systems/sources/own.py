"""What the sources of your own files share: which files of a folder are pictures, how they are read, alone and many at once, how those
that are wrong are named."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from ganfast import _checks
from ganfast.train.data.decode import read
from ganfast.train.data.folders import image_files

SHOWN = 5  # names in an error


def listed(names: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def none(system: str, what: str, names: Sequence[str], option: str = "data") -> None:
    """Raises: ValueError where there are such names, with the first of them. system, option: whose error it is."""
    if names:
        _checks.fail(system, f"{option} has {len(names)} {what}: {listed(names)}")


def pictures_below(system: str, root: Path) -> list[Path]:
    """Sorted, by the same rule as `ganfast.train.data.folder`: links are followed, hidden files and folders left out; a link to nothing is
    a picture that cannot be read. Raises: ValueError for folders that cannot be read."""
    found, broken, _ = image_files(root)
    none(system, "folders that cannot be read", broken)
    return [root.joinpath(*parts) for parts in found]


class Unreadable(Exception):
    """Why a file is no picture."""


def picture_at(file: Path, size: int | None, channels: int) -> Tensor:
    """`decode.read` of a file. Raises: Unreadable for whatever goes wrong there, and so for nothing that goes wrong later."""
    try:
        return read(file, size, channels)
    except Exception as error:  # Pillow raises anything
        raise Unreadable(str(error)) from error


def each(files: Iterable[Path], read: Callable[[Path], object]) -> Iterator[tuple[Path, object]]:
    """(file, what `read` gave of it, or the exception that it raised), in order. By threads, as Pillow decodes without Python's lock."""

    def attempt(file: Path) -> object:
        try:
            return read(file)
        except Exception as error:  # Pillow raises anything
            return error

    files = list(files)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from zip(files, pool.map(attempt, files))
