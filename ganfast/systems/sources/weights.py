"""State dicts of other projects, which a run may begin with."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast.models.cyclegan import load_published

# What lies in the place of weights, by its first bytes, in small letters.
INSTEAD = {
    b"version https://git-lfs": "it is a pointer of git-lfs, `git lfs pull` fetches the file itself",
    b"<!doctype": "it is a web page, download the file itself",
    b"<html": "it is a web page, download the file itself",
}


def state_dict(op: str, path: str | Path) -> dict[str, Tensor]:
    """What torch.load reads, on the CPU: a state dict, or what wraps one. op: whose error it is.

    Raises: ValueError for a file that is missing, holds something else, or more than tensors: that could run code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        _checks.fail(op, f"weights got {str(path)!r}, wants a file; there is none")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises anything, in words that advise to run what the file says
        _checks.fail(op, f"{path} cannot be read as a state dict: {_why(path)}")
    if not isinstance(found, Mapping):
        _checks.fail(op, f"{path} cannot be read as a state dict: it holds a {type(found).__name__}")
    return found


def _why(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if not head:
        return "it is empty"
    if name := next((mark for mark in INSTEAD if head.lower().startswith(mark)), None):
        return INSTEAD[name]
    if head.startswith((b"PK", b"\x80")):  # a zip or a pickle, as torch writes
        return "it is cut off, or holds more than tensors; wants what torch.save(network.state_dict(), path) writes"
    return f"torch wrote no such file, it begins with {head[:16]!r}"


def load_folder(op: str, folder: str | Path, files: Mapping[str, str], networks: Mapping[str, nn.Module], needed: tuple[str, ...]) -> None:
    """Loads files of pytorch-CycleGAN-and-pix2pix into networks of the same names; those of `needed` must be there.

    Raises: ValueError for a file that is missing, no state dict, or another network's.
    """
    place = Path(folder).expanduser()
    for name, file in files.items():
        if (place / file).is_file():
            load_published(networks[name], state_dict(op, place / file), op)
        elif name in needed:
            _checks.fail(op, f"weights {str(place)!r} has no {file}")
