"""State dicts of other projects, which a run may begin with."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast.models.cyclegan import load_published


def state_dict(op: str, path: Path) -> dict[str, Tensor]:
    """What torch.load reads, on the CPU. op: whose error it is. Raises: ValueError for a file that is missing or no state dict."""
    if not path.is_file():
        _checks.fail(op, f"weights got {str(path)!r}, wants a file; there is none")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        _checks.fail(op, f"{path} cannot be read as a state dict: {error}".rstrip("."))


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
