"""Decodes an image of any format and mode into a square [C, S, S] of bytes."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl"}  # images, decoded or not
_NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")  # of Pillow's formats: drawings, films and measurements
_UNREADABLE = (
    (4, b"ftypavi", "AVIF"), (4, b"ftyphei", "HEIC"), (4, b"ftypmif", "HEIF"), (8, b"WEBP", "WebP"), (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL", "JPEG XL"), (0, b"\0\0\0\x0cjP", "JPEG 2000"),
)  # fmt: skip
"""(place, bytes there, name) of formats that not every Pillow decodes."""
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of a grey file with 16 bits
GREY = ("1", "L", "LA", "La", "F", *_SIXTEEN)


def endings() -> set[str]:
    """Of image files: the usual ones, and those of all that Pillow decodes here, with the plugins that are registered."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return SUFFIXES | {ending for ending, kind in known if kind in Image.OPEN and kind not in _NO_PICTURES}


def holds_image(path: str | os.PathLike) -> bool:
    """By a file's first bytes, for one whose name does not tell."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    # Formats without a mark at their beginning (TGA) are left out: numbers of any kind may pass for them.
    kinds = [kind for kind, (_, accept) in Image.OPEN.items() if accept is not None and kind not in _NO_PICTURES]
    try:
        with Image.open(path, formats=kinds):
            return True
    except UnidentifiedImageError:
        return _unreadable(_head(path)) is not None
    except Image.DecompressionBombError:  # an image nevertheless, listed when it is decoded
        return True
    except Exception:  # a text that begins with P6 is no PPM, and the plugin raises ValueError
        return False


def _head(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _unreadable(head: bytes) -> str | None:
    return next((name for place, mark, name in _UNREADABLE if head[place:].startswith(mark)), None)


def _why(path: str | os.PathLike) -> str:
    """Why Pillow does not know what a file is."""
    head = _head(path)
    if not head:
        return "the file is empty"
    if name := _unreadable(head):
        return f"{name}, which the Pillow installed here does not decode; convert it to PNG or JPEG"
    return f"no image that Pillow knows, it begins with {head!r}"


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator:
    """The PIL image of a file. Raises: UnidentifiedImageError for what is none, with the likely cause."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError:
        raise UnidentifiedImageError(_why(path)) from None


def upright(image):
    """A PIL image, decoded and turned as its EXIF says."""
    from PIL import ImageOps

    image.load()
    with contextlib.suppress(Exception):  # damaged EXIF: the pixels are whole
        image = ImageOps.exif_transpose(image)
    return image


def read(path: str | os.PathLike, image_size: int | None, channels: int) -> Tensor:
    """`square` of an image file."""
    with opened(path) as image:
        return square(image, image_size, channels)


def square(image, image_size: int | None, channels: int) -> Tensor:
    """A PIL image upright, its central square resized: [channels, S, S] uint8; without an image_size all of it, as large as it is.

    Turned as EXIF says; what is transparent shows white; 16 bits are scaled to 8, not clipped; of an animation the first frame.
    """
    from PIL import Image, ImageOps

    if image_size and image.format == "JPEG":
        image.draft(None, (3 * image_size, 3 * image_size))  # decodes a large photo at 1/2, 1/4 or 1/8, while thrice the pixels remain
    image = upright(image)
    if image.mode in _SIXTEEN:
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"grey levels from {levels.min()} to {levels.max()}; wants 8 or 16 bits")
        image = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("grey levels are floats, whose range nobody knows; wants 8 or 16 bits")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image_size and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).view(image.height, image.width, channels).permute(2, 0, 1)


class Files:
    """Image files as a map-style Dataset of [channels, S, S] uint8."""

    def __init__(self, paths: list[str | os.PathLike], image_size: int, channels: int) -> None:
        self.paths, self.image_size, self.channels = paths, image_size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        return read(self.paths[i], self.image_size, self.channels)
