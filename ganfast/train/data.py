"""Images as one uint8 tensor: the real digits that come with scikit-learn, or a folder of the user's own."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass
class ImageData:
    """images [N, C, S, S] uint8, labels [N] int64; `classes` names them, `broken` lists the files left out and why."""

    images: Tensor
    labels: Tensor
    classes: list[str]
    broken: list[str] = field(default_factory=list)


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], the range of the generator's tanh."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, rounded to the nearest; the inverse of `to_float`."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


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


def _read(path: Path, image_size: int, channels: int) -> np.ndarray:
    """The image cut to its central square and resized: [channels, S, S] uint8."""
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    return np.array(square).reshape(image_size, image_size, channels).transpose(2, 0, 1)


def folder(path: str | os.PathLike, image_size: int = 64, channels: int = 3) -> ImageData:
    """Images below `path`; if they lie in sub-folders, the first level names the classes. Broken files are left out and listed.

    Raises: ValueError if there is no readable image, or if images lie both beside and in sub-folders.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"data: path got {str(root)!r}, wants 'digits' or a folder of images; there is no such folder.")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
    names = [p.relative_to(root).parts[0] if len(p.relative_to(root).parts) > 1 else "" for p in files]
    classes = sorted(set(names))
    if len(classes) > 1 and "" in classes:
        loose = files[names.index("")].name
        raise ValueError(
            f"data: {str(root)!r} holds images both in sub-folders (classes) and beside them ({loose}), wants one or the other."
        )
    images, labels, broken = [], [], []
    for file, name in zip(files, names, strict=True):
        try:
            images.append(torch.from_numpy(_read(file, image_size, channels)))
        except Exception as error:  # Pillow raises anything from SyntaxError to struct.error on a damaged file
            broken.append(f"{file}: {type(error).__name__}: {error}")
            continue
        labels.append(classes.index(name))
    if not images:
        found = f"{len(broken)} files, none readable, the first: {broken[0]}" if broken else f"no file with {', '.join(sorted(SUFFIXES))}"
        raise ValueError(f"data: {str(root)!r} got {found}; wants at least one image.")
    return ImageData(torch.stack(images), torch.tensor(labels), classes, broken)


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
