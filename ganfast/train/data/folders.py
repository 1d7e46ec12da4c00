"""Images as one uint8 tensor: the real digits that come with scikit-learn, or a folder of the user's own."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks
from ganfast.train import trees
from ganfast.train.data.decode import SUFFIXES, Files, endings, holds_image
from ganfast.train.data.workers import Entry, Items, Looked, gigabytes, into_memory, room, timed


@dataclass
class ImageData:
    """images [N, C, S, S] uint8, labels [N] int64; `classes` names them, `broken` lists the files left out and why."""

    images: Tensor
    labels: Tensor
    classes: list[str]
    broken: list[str] = field(default_factory=list)


def digits(image_size: int = 32) -> ImageData:
    """The 1,797 scanned digits of scikit-learn (8x8 pixels, 17 grey levels), enlarged bicubically.

    Source: Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI; the test set, as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    small = torch.from_numpy(raw.images).float()[:, None]
    large = F.interpolate(small, size=image_size, mode="bicubic", align_corners=False)
    images = large.mul(255 / 16).round().clamp(0, 255).to(torch.uint8)  # bicubic overshoots 0 and 16
    return ImageData(images, torch.from_numpy(raw.target).long(), [str(name) for name in raw.target_names])


def folder(
    path: str | os.PathLike, image_size: int = 64, channels: int = 3, *, workers: int | None = None, memory: int | None = None
) -> ImageData:
    """Images below `path`, in the order of their paths; if they lie in sub-folders, the first level names the classes. Decoded by `workers`
    processes (None: as many as pay), into `memory` bytes at most (None: most of what is free).

    Files are told by their endings (`decode.endings`), and those without one by their first bytes. Links are followed, hidden files are
    not looked at. Files that cannot be read are left out and listed; `decode.square` says how an image becomes a square.
    Raises: ValueError if there is no readable image, if images lie both beside and in sub-folders, or if they do not fit into memory.
    """
    root = existing(path)
    found, broken, others = image_files(root)
    names = [parts[0] if len(parts) > 1 else "" for parts in found]
    if len(set(names)) > 1 and "" in names:
        loose = found[names.index("")][-1]
        raise ValueError(
            f"data: {str(root)!r} holds images both in sub-folders (classes) and beside them ({loose}), wants one or the other."
        )
    all_items = Items(Files([root.joinpath(*parts) for parts in found], image_size, channels), skip=Exception)  # Pillow raises anything
    looked = Looked(Entry(trees.LEAF, (torch.empty(channels, image_size, image_size, dtype=torch.uint8),)), timed(all_items)[1])
    if (size := looked.bytes(len(found))) > room(memory):
        raise ValueError(
            f"data: the {len(found)} images of {str(root)!r} take {gigabytes(size)} decoded to {channels}x{image_size}x{image_size}, and "
            f"there is room for {gigabytes(room(memory))}; wants a smaller image_size, fewer images, or a torch Dataset."
        )
    (images,), kept, unread = into_memory(all_items, looked, workers)
    broken += unread
    if not kept:
        there = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others.most_common(5)) or "none at all"
        none = f"no file with {', '.join(sorted(SUFFIXES))} or another ending that Pillow decodes here, its files are: {there}"
        what = f"{len(broken)} files, none readable, the first: {broken[0]}" if broken else none
        raise ValueError(f"data: {str(root)!r} got {what}; wants at least one image.")
    classes = sorted({names[i] for i in kept})
    return ImageData(images, torch.tensor([classes.index(names[i]) for i in kept]), classes, [_printable(line) for line in broken])


ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")
ARRAYS = (".npy", ".npz", ".pt", ".pth", ".csv", ".parquet", ".arrow", ".h5", ".hdf5", ".mat", ".pkl", ".safetensors", ".tfrecord")


def existing(path: str | os.PathLike, names: Iterable[str] = ("digits",)) -> Path:
    """The folder at `path`. names: of data, which may be meant.

    Raises: ValueError where there is none, with what may be meant.
    """
    root, names = Path(path).expanduser(), list(names)
    if root.is_dir():
        return root
    wants = f"wants {', '.join(map(repr, names))} or a folder of images"
    if root.is_file():
        ending = root.suffix.lower()
        how = "give the folder that the images lie in"
        if ending in ARCHIVES:
            how = "unpack it, and give its folder"
        elif ending in ARRAYS:
            how = "load it in Python, and give the tensor or a Dataset to ganfast.Trainer"
        elif ending in endings() or holds_image(root):
            how = f"one image trains no GAN, give its folder: {str(root.parent)!r}"
        raise ValueError(f"data: path got {str(root)!r}, {wants}; this is a file: {how}.")
    beside = [other.name for other in root.parent.iterdir() if other.is_dir()] if root.parent.is_dir() else []
    meant = _checks.meant(root.name, [*names, *beside], 0.6)
    raise ValueError(f"data: path got {str(root)!r}, {wants}; there is no such folder.{meant}")


def image_files(root: Path) -> tuple[list[tuple[str, ...]], list[str], Counter[str]]:
    """Image files below root as parts of their paths, sorted; folders that cannot be read; how many other files have which ending."""
    found, broken, others, above, known = [], [], Counter(), {}, endings()
    note = lambda error: broken.append(f"{error.filename}: {type(error).__name__}: {error}")
    for place, folders, files in os.walk(root, followlinks=True, onerror=note):
        here = Path(place)
        above[here] = above.get(here.parent, frozenset()) | {os.path.realpath(here)}
        folders[:] = [name for name in folders if not name.startswith(".") and os.path.realpath(here / name) not in above[here]]
        for name in files:
            if name.startswith("."):
                continue
            ending, there = Path(name).suffix.lower(), os.path.isfile(here / name)
            if (ending in known and (there or not os.path.exists(here / name))) or (not ending and there and holds_image(here / name)):
                found.append((*here.relative_to(root).parts, name))  # a link to nothing counts as broken
            else:
                others[ending] += 1
    return sorted(found), broken, others


def _printable(line: str) -> str:
    """File names that are not UTF-8, escaped."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def images_of(data: str, image_size: int, channels: int) -> ImageData:
    """`data` is "digits" or a folder's path ("./digits" for one of that name)."""
    if data != "digits":
        return folder(data, image_size, channels)
    if channels != 1:
        raise ValueError(f"data: channels got {channels}, wants 1; the digits are grey.")
    return digits(image_size)


def class_vectors(classes: int, dim: int) -> Tensor:
    """[classes, dim]: a fixed vector per class with entries of about 1, as a text encoder would give; orthogonal while dim allows."""
    vectors = torch.randn(max(classes, dim), dim, generator=torch.Generator().manual_seed(0))
    if classes <= dim:
        vectors = torch.linalg.qr(vectors).Q
    return F.normalize(vectors[:classes], dim=1) * dim**0.5
