"""A folder of your own pictures with captions: NAME.txt beside NAME.png, or beside a picture of another format."""

from pathlib import Path

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import own
from ganfast.train.data.decode import endings, read
from ganfast.train.data.folders import existing


def captioned(path: str | Path, size: int = 32) -> tuple[Tensor, list[str]]:
    """(uint8 [N, 3, size, size], N captions), in the order of the names, of the pictures below `path`; `decode.square` says how a picture
    becomes a square.

    Raises: ValueError where there is no pair, for pictures and texts that have no mate, for texts that are empty or not UTF-8, for
        pictures that cannot be read, all listed.
    """
    root = existing(path, ("shapes", "portraits"))
    files = sorted(file for file in root.rglob("*") if file.is_file() and not file.name.startswith("."))
    known = endings()
    images = {file.with_suffix(""): file for file in files if file.suffix.lower() in known}
    texts = {file.with_suffix(""): file for file in files if file.suffix.lower() == ".txt"}
    if not images.keys() & texts.keys():
        _checks.fail("text-to-image", f"folder {str(root)!r} holds no pair of NAME.png and NAME.txt, wants a caption beside each picture")
    own.none("text-to-image", "pictures without a caption (NAME.txt)", [images[name].name for name in images if name not in texts])
    own.none("text-to-image", "captions without a picture", [texts[name].name for name in texts if name not in images])
    captions, foreign = {}, []
    for name, file in texts.items():
        try:
            captions[name] = " ".join(file.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError:
            foreign.append(file.name)
    own.none("text-to-image", "captions that are not UTF-8", foreign)
    own.none("text-to-image", "captions without a word", [texts[name].name for name in texts if not captions[name]])
    pictures, broken = [], []
    for file in images.values():
        try:
            pictures.append(read(file, size, 3))
        except Exception as error:  # Pillow raises anything
            broken.append(f"{file.name} ({error})")
    own.none("text-to-image", "pictures that cannot be read", broken)
    return torch.stack(pictures), [captions[name] for name in images]
