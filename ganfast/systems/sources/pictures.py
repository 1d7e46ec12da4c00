"""A folder of pictures as they are, of any size, a tenth of them held out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import own
from ganfast.train.data.decode import opened, read

HELD, MOST = 20, 640  # so many pictures are held out at most, and of each the middle, so many pixels square at most


class Pictures(Sequence):
    """Decoded when they are asked for, as many large ones fill the memory: uint8 [3, H, W], H and W multiples of `multiple`, of the
    middle of the picture."""

    def __init__(self, paths: Sequence[Path], multiple: int, most: int | None = None) -> None:
        self.paths, self.multiple, self.most = list(paths), multiple, most

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        image = read(self.paths[i], None, 3)
        sides = [min(side, self.most or side) // self.multiple * self.multiple for side in image.shape[1:]]
        top, left = ((whole - side) // 2 for whole, side in zip(image.shape[1:], sides))
        return image[:, top : top + sides[0], left : left + sides[1]]


def pictures(system: str, path: str | Path, least: int, multiple: int = 1, most: int | None = None) -> tuple[Pictures, Pictures]:
    """(to learn from, held out), shuffled, of the pictures below `path`; of the held-out ones HELD at most, each of MOST x MOST pixels at
    most. system: whose errors they are. least: pixels that each side must have. most: so many to learn from at most.

    Each picture of both is decoded once here, so that a broken one is named before the training, not after it.
    Raises: ValueError where there is no such folder, for fewer than two pictures, for those that are too small or cannot be read, listed.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        _checks.fail(system, f"data got {str(path)!r}, wants a folder of pictures", "This is a file" if root.exists() else "There is none")
    files = own.pictures_below(system, root)
    name = lambda file: str(file.relative_to(root))
    sizes = list(own.each(files, _size))
    own.none(system, "pictures that cannot be read", [f"{name(file)} ({size})" for file, size in sizes if isinstance(size, Exception)])
    small = [f"{name(file)} ({size[0]} x {size[1]})" for file, size in sizes if min(size) < least]
    own.none(system, f"pictures smaller than {least} x {least} pixels", small)
    if len(files) < 2:
        _checks.fail(system, f"data {str(path)!r} holds {len(files)} pictures, wants two at least", "One of them is held out")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    held = min(HELD, -(-len(files) // 10))
    train, test = ([files[i] for i in some] for some in (order[held:][:most], order[:held]))
    decoded = own.each([*test, *train], lambda file: read(file, None, 3) is None)
    own.none(system, "pictures that cannot be read", [f"{name(file)} ({error})" for file, error in decoded if isinstance(error, Exception)])
    return Pictures(train, multiple), Pictures(test, multiple, MOST)


def _size(file: Path) -> tuple[int, int]:
    with opened(file) as image:
        return image.size
