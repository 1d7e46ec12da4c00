"""What image networks check of their sizes and inputs, and how wide their layers are."""

from torch import Tensor

from ganfast import _checks


def check_size(op: str, image_size: object, least: int = 8) -> int:
    """How many times 4x4 doubles to reach the image. Raises: ValueError for a size that is no power of two of at least `least`."""
    if not isinstance(image_size, int) or image_size < least or image_size & (image_size - 1):
        wants = f"a power of two of at least {least}; the networks double 4x4 step by step"
        raise ValueError(f"{op}: image_size got {image_size!r}, wants {wants}.")
    return image_size.bit_length() - 3


def widths_of(image_size: int, width: int, widest: int) -> list[int]:
    """Channels at 4x4, 8x8, ..., image_size: `width` at the last, twice as many at each half of it, `widest` at most."""
    levels = image_size.bit_length() - 2
    return [min(widest, width << (levels - 1 - i)) for i in range(levels)]


def check_latent(op: str, latent: Tensor, length: int) -> None:
    """`latent` is wanted as [N, length]."""
    if latent.dim() != 2 or latent.shape[1] != length:
        _checks.fail(op, f"latent got {list(latent.shape)}, wants [N, {length}]", "One vector for each image")


def check_image(op: str, image: Tensor, shape: tuple[int, ...]) -> None:
    """`image` is wanted as [N, *shape]."""
    if image.shape[1:] != shape:
        raise ValueError(f"{op}: image got {list(image.shape)}, wants [N, {', '.join(map(str, shape))}].")
