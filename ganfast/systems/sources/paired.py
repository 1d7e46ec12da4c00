"""A folder of your own pairs of pictures, in either layout of pytorch-CycleGAN-and-pix2pix."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import own
from ganfast.train.data.decode import opened, square, upright
from ganfast.train.data.workers import gigabytes, room

LAYOUTS = "train and test (or val), A and B side by side in each picture; or trainA, trainB, testA and testB, pairs by their names"
Size = tuple[int, int]  # width and height


def paired(path: str | Path, size: int) -> dict[str, Tensor]:
    """train_a, train_b, test_a, test_b, uint8 [N, 3, size, size], in the order of the names; `decode.square` says how a picture becomes a
    square.

    Raises: ValueError for a folder of another layout, for more pictures than the memory holds, for pictures that have no mate or one of
        another size, that cannot be halved or read, all listed.
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
    parts = {"train": "train", "test": held if beside else held_apart}
    folders = [f"{name}{side}" for name in parts.values() for side in (("",) if beside else ("A", "B"))]
    files = {name: own.pictures_below("pix2pix", root / name) for name in folders}
    if empty := [name for name, held_there in files.items() if not held_there]:
        _checks.fail("pix2pix", f"data {str(root)!r} has no picture in {empty[0]}, wants {LAYOUTS}")
    count = sum(map(len, files.values())) * (2 if beside else 1)
    if (needed := count * 3 * size * size) > room():
        took = f"the {count} pictures of {str(root)!r} take {gigabytes(needed)} decoded to 3x{size}x{size}"
        _checks.fail("pix2pix", f"{took}, and there is room for {gigabytes(room())}; wants a smaller crop_size, or fewer pictures")
    pairs = _beside if beside else _apart
    found = {}
    for part, name in parts.items():
        found[f"{part}_a"], found[f"{part}_b"] = pairs(root, name, files, size)
    return found


def _beside(root: Path, name: str, files: dict[str, list[Path]], size: int) -> tuple[Tensor, Tensor]:
    """Left halves, right halves."""

    def halves(image) -> Tensor:
        half, height = image.width // 2, image.height
        return torch.stack([square(image.crop((left, 0, left + half, height)), size, 3) for left in (0, half)])

    sizes, both = _read(root, files[name], (2, 3, size, size), halves)
    odd = [f"{_name(root, file)} ({_sides(shape)})" for file, shape in zip(files[name], sizes) if shape[0] % 2]
    own.none("pix2pix", "pictures of an odd width, which have no halves", odd)
    return both[:, 0], both[:, 1]


def _apart(root: Path, name: str, files: dict[str, list[Path]], size: int) -> tuple[Tensor, Tensor]:
    sides = []
    for folder in (f"{name}A", f"{name}B"):
        named = {}
        for file in files[folder]:  # a letter and its accent are one sign or two, as the computer that wrote the name has it
            named.setdefault(unicodedata.normalize("NFC", str(file.relative_to(root / folder).with_suffix(""))), file)
        taken = set(named.values())
        twice = [_name(root, file) for file in files[folder] if file not in taken]
        own.none("pix2pix", "pictures whose name another one has, too", twice)
        sides.append(named)
    alone = [_name(root, file) for mine, others in (sides, sides[::-1]) for key, file in mine.items() if key not in others]
    own.none("pix2pix", f"pictures in {name}A and {name}B without a mate of the same name", alone)
    keys = list(sides[0])
    (a_sizes, a), (b_sizes, b) = (
        _read(root, [side[key] for key in keys], (3, size, size), lambda image: square(image, size, 3)) for side in sides
    )
    unequal = [f"{key} ({_sides(mine)} and {_sides(other)})" for key, mine, other in zip(keys, a_sizes, b_sizes) if mine != other]
    own.none("pix2pix", f"pairs in {name}A and {name}B of unequal sizes", unequal)
    return a, b


def _read(root: Path, files: Sequence[Path], shape: tuple[int, ...], made: Callable[..., Tensor]) -> tuple[list[Size], Tensor]:
    """Of each file the size, upright, and what is made of it, uint8 [N, *shape]."""

    def read(file: Path) -> tuple[Size, Tensor]:
        with opened(file) as image:
            image = upright(image)
            return image.size, made(image)

    sizes, found, broken = [], torch.empty(len(files), *shape, dtype=torch.uint8), []
    for i, (file, result) in enumerate(own.each(files, read)):
        if isinstance(result, Exception):
            broken.append(f"{_name(root, file)} ({result})")
        else:
            sizes.append(result[0])
            found[i] = result[1]
    own.none("pix2pix", "pictures that cannot be read", broken)
    return sizes, found


def _sides(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _name(root: Path, file: Path) -> str:
    return str(file.relative_to(root))
