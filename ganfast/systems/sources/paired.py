"""A folder of your own pairs of pictures, in either layout of pytorch-CycleGAN-and-pix2pix."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.data.decode import Files, endings, square

LAYOUTS = "train and test (or val), A and B side by side in each picture; or trainA, trainB, testA and testB, pairs by their names"
_SHOWN = 5  # names in an error


def paired(path: str | Path, size: int) -> dict[str, Tensor]:
    """train_a, train_b, test_a, test_b, uint8 [N, 3, size, size], in the order of the names; `decode.square` says how a picture becomes a
    square.

    Raises: ValueError for a folder of another layout, pictures that have no mate or one of another size, that cannot be halved or read,
        all listed.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        _checks.fail("pix2pix", f"data got {str(root)!r}, there is no such folder; wants one with {LAYOUTS}")
    there = lambda name: (root / name).is_dir()
    held = next((name for name in ("test", "val") if there(name)), "")
    held_apart = next((name for name in ("test", "val") if there(f"{name}A") and there(f"{name}B")), "")
    beside, apart = there("train") and held, there("trainA") and there("trainB") and held_apart
    if bool(beside) == bool(apart):
        folders = ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir())) or "none"
        _checks.fail("pix2pix", f"data {str(root)!r} has the folders {folders}; wants {'one of ' if beside else ''}{LAYOUTS}")
    pairs = _beside if beside else _apart
    found = {}
    for part, name in {"train": "train", "test": held if beside else held_apart}.items():
        found[f"{part}_a"], found[f"{part}_b"] = pairs(root, name, size)
    return found


def _beside(root: Path, name: str, size: int) -> tuple[Tensor, Tensor]:
    """Left halves, right halves."""
    read = _read(root, {file: file for file in _pictures(root / name)}, name, lambda image: [_squared(h, size) for h in image.chunk(2, 2)])
    odd = [f"{_name(root, file)} ({_sides(shape)})" for file, (shape, _) in read.items() if shape[2] % 2]
    _none("pictures of an odd width, which have no halves", odd)
    return tuple(map(torch.stack, zip(*(halves for _, halves in read.values()))))


def _apart(root: Path, name: str, size: int) -> tuple[Tensor, Tensor]:
    sides = []
    for folder in (root / f"{name}A", root / f"{name}B"):
        files, named = _pictures(folder), {}
        for file in files:
            named.setdefault(file.relative_to(folder).with_suffix(""), file)
        _none("pictures whose name another one has, too", [_name(root, file) for file in files if file not in named.values()])
        sides.append(named)
    alone = [_name(root, file) for mine, others in (sides, sides[::-1]) for key, file in mine.items() if key not in others]
    _none(f"pictures in {name}A and {name}B without a mate of the same name", alone)
    a, b = (_read(root, side, f"{name}{letter}", lambda image: _squared(image, size)) for side, letter in zip(sides, "AB"))
    unequal = [f"{key} ({_sides(a[key][0])} and {_sides(b[key][0])})" for key in a if a[key][0] != b[key][0]]
    _none(f"pairs in {name}A and {name}B of unequal sizes", unequal)
    return tuple(torch.stack([side[key][1] for key in a]) for side in (a, b))


def _pictures(folder: Path) -> list[Path]:
    known = endings()
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in files if file.suffix.lower() in known)


def _read(root: Path, files: dict[Path, Path], name: str, made: Callable[[Tensor], object]) -> dict[Path, tuple[torch.Size, object]]:
    """Of each file its shape [3, H, W], and what is made of it."""
    if not files:
        _checks.fail("pix2pix", f"data {str(root)!r} has no picture in {name}, wants {LAYOUTS}")
    found, broken = {}, []
    for key, file in files.items():
        try:
            image = Files([file], None, 3)[0]
            found[key] = image.shape, made(image)
        except Exception as error:  # Pillow raises anything
            broken.append(f"{_name(root, file)} ({error})")
    _none("pictures that cannot be read", broken)
    return found


def _squared(image: Tensor, size: int) -> Tensor:
    from PIL import Image

    return square(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), size, 3)


def _sides(shape: torch.Size) -> str:
    return f"{shape[2]} x {shape[1]}"


def _name(root: Path, file: Path) -> str:
    return str(file.relative_to(root))


def _none(what: str, found: list[str]) -> None:
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        _checks.fail("pix2pix", f"data has {len(found)} {what}: {', '.join(found[:_SHOWN])}{more}")
