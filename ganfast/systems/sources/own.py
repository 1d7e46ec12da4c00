"""What the sources of your own files share: which files of a folder are pictures, how many are read at once, how those that are wrong
are named."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ganfast import _checks
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
