"""A folder of pictures as they are, of any size, a tenth of them held out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.data.decode import Files, endings

_SHOWN = 5  # names in an error
HELD, MOST = 20, 640  # so many pictures are held out at most, and of each the middle, so many pixels square at most


class Pictures(Sequence):
    """Decoded when they are asked for, as many large ones fill the memory: uint8 [3, H, W], H and W multiples of `multiple`, of the
    middle of the picture."""

    def __init__(self, paths: Sequence[Path], multiple: int, most: int | None = None) -> None:
        self.files, self.multiple, self.most = Files(list(paths), None, 3), multiple, most

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        image = self.files[i]
        sides = [min(side, self.most or side) // self.multiple * self.multiple for side in image.shape[1:]]
        top, left = ((whole - side) // 2 for whole, side in zip(image.shape[1:], sides))
        return image[:, top : top + sides[0], left : left + sides[1]]


def pictures(system: str, path: str | Path, least: int, multiple: int = 1) -> tuple[Pictures, Pictures]:
    """(to learn from, held out), shuffled, of the pictures below `path`; of the held-out ones HELD at most, each of MOST x MOST pixels at
    most. system: whose errors they are. least: pixels that each side must have.

    Raises: ValueError where there is no such folder, for fewer than two pictures, for those that are too small or cannot be read, listed.
    """
    from PIL import Image

    root = Path(path).expanduser()
    if not root.is_dir():
        _checks.fail(system, f"data got {str(path)!r}, wants a folder of pictures", "This is a file" if root.exists() else "There is none")
    known = endings()
    hidden = lambda file: any(part.startswith(".") for part in file.relative_to(root).parts)
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in known and file.is_file() and not hidden(file))
    small, broken = [], []
    for file in files:
        try:
            with Image.open(file) as image:
                if min(image.size) < least:
                    small.append(f"{file.name} ({image.width} x {image.height})")
        except Exception as error:  # Pillow raises anything
            broken.append(f"{file.name} ({type(error).__name__})")
    for what, found in (("that cannot be read", broken), (f"smaller than {least} x {least} pixels", small)):
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            _checks.fail(system, f"data {str(path)!r} has pictures {what}: {', '.join(found[:_SHOWN])}{more}")
    if len(files) < 2:
        _checks.fail(system, f"data {str(path)!r} holds {len(files)} pictures, wants two at least", "One of them is held out")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    held = min(HELD, -(-len(files) // 10))
    train, test = ([files[i] for i in some] for some in (order[held:], order[:held]))
    return Pictures(train, multiple), Pictures(test, multiple, MOST)
