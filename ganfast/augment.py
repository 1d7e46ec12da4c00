"""DiffAugment: what the discriminator sees, real and fake alike, is augmented differentiably, so that few images last longer."""

from collections.abc import Callable

import torch
from torch import Tensor

from ganfast import _checks

__all__ = ["POLICIES", "diff_augment", "parts"]

POLICIES = ("color", "translation", "cutout")


def parts(policy: str, op: str = "diff_augment", known: tuple[str, ...] = POLICIES) -> tuple[str, ...]:
    """The policy's names, in the order in which they act; () for "". Raises: TypeError, ValueError for another name."""
    if not isinstance(policy, str):
        _checks.fail(op, f"policy is a {type(policy).__name__}, wants a str", f"Join the names: {','.join(known)!r}", TypeError)
    names = [name.strip() for name in policy.split(",")] if policy.strip() else []
    for name in names:
        if name not in known:
            _checks.nearest(op, "policy", name, known)
    return tuple(name for name in known if name in names)


def diff_augment(images: Tensor, policy: str = "color,translation,cutout", *, uniform: Callable[..., Tensor] | None = None) -> Tensor:
    """Each image under draws of its own: of its colours, of where it lies, of a square cut out. Use it on all that the discriminator
    sees, in every phase: ``D(diff_augment(real))``, ``D(diff_augment(fake))``; the generator's gradient goes through it.

    - color: brightness + U[-0.5, 0.5), saturation (the distance from a pixel's mean over the channels) times U[0, 2), contrast (the
      distance from the image's mean) times U[0.5, 1.5). Grey images have no saturation.
    - translation: by whole pixels, each of -size/8 ... size/8 (rounded) equally likely, in both directions; zeros come in.
    - cutout: zeros in a square of half the image's size, centred anywhere in the image, so that part of it may lie outside.

    They act in this order. ``uniform(*shape)`` gives numbers in [0, 1), on the images' device or brought there; it is asked once, for
    [N, 7], whatever the policy is: equal draws make equal colours whether or not there is a cutout. Without it: torch.rand.

    Shapes: images [N, C, H, W], and so is the result. Dtypes: any floating; colours are computed in float32 (float64 for float64) and
        rounded once. Layout: contiguous or channels_last, kept; another becomes contiguous.
    Grads: images, any order. Never waits for the device; `ganfast.capture` takes it.
    Raises: TypeError for what is no tensor of floats, no str; ValueError for other shapes, an unknown name.
    Source: Zhao, Liu, Lin, Zhu & Han 2020, "Differentiable Augmentation for Data-Efficient GAN Training"; the place of the cut
        as in DeVries & Taylor 2017.
    """
    op = "diff_augment"
    names = parts(policy, op)
    _checks.check_tensor(op, "images", images)
    _checks.check_floating(op, "images", images)
    if images.dim() != 4:
        cause = "A single image wants images[None]" if images.dim() == 3 else ""
        _checks.fail(op, f"images has shape {tuple(images.shape)}, wants [N, C, H, W]", cause)
    if not names:
        return images
    n = images.shape[0]
    draws = torch.rand(n, 7, device=images.device) if uniform is None else uniform(n, 7)
    if tuple(draws.shape) != (n, 7):
        _checks.fail(op, f"uniform(*shape) gave shape {tuple(draws.shape)}, wants {(n, 7)}")
    draws = draws.to(images.device)
    if "color" in names:
        images = _colored(images, draws[:, :3])
    if "translation" in names:
        height, width = (_whole(u, 2 * _reach(size) + 1) - _reach(size) for u, size in zip(draws[:, 3:5].unbind(1), images.shape[2:]))
        images = _Moved.apply(images, height, width)
    if "cutout" in names:
        rows, columns = (_cut(u, size) for u, size in zip(draws[:, 5:].unbind(1), images.shape[2:]))
        images = images * ~(rows[:, :, None] & columns[:, None, :])[:, None]  # masked_fill would lose channels_last
    return images


def _colored(images: Tensor, draws: Tensor) -> Tensor:
    """brightness b, then saturation s, then contrast c, in one: with m a pixel's mean over the channels and M the image's mean,
    c (s (x + b - m - b) + m + b - M - b) + M + b = cs x + c(1-s) m + (1-c) M + b."""
    acc = torch.promote_types(images.dtype, torch.float32)
    x = images.to(acc)
    b, s, c = (draws.to(acc)[:, i, None, None, None] for i in range(3))
    b, s, c = b - 0.5, 2 * s, c + 0.5
    grey = x.mean(1, keepdim=True)
    rest = (1 - c) * grey.mean((2, 3), keepdim=True) + b
    # x first: the result takes its memory layout
    colored = x * c + rest if images.shape[1] == 1 else x * (c * s) + (c * (1 - s) * grey + rest)
    return colored.to(images.dtype)


def _reach(size: int) -> int:
    return (size + 4) // 8


def _whole(u: Tensor, count: int) -> Tensor:
    """[0, 1) -> 0 ... count - 1, equally likely."""
    return (u * count).long()


def _cut(u: Tensor, size: int) -> Tensor:
    """[N, size], True along the square's side. An even side is centred between two pixels or at the border, an odd one on a pixel: as
    often so far to the left as to the right."""
    side = size // 2
    start = _whole(u, size + 1 - side % 2) - side // 2
    place = torch.arange(size, device=u.device) - start[:, None]
    return (place >= 0) & (place < side)


class _Moved(torch.autograd.Function):
    """Images moved down and to the right by whole pixels each, zeros coming in. Its transpose is the way back, so that the backward is
    a gather too, where autograd's own would add by atomics."""

    @staticmethod
    def forward(ctx, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(down, right)
        n, channels, h, w = images.shape
        row = torch.arange(h, device=images.device) - down[:, None]
        column = torch.arange(w, device=images.device) - right[:, None]
        outside = ((row < 0) | (row >= h))[:, :, None] | ((column < 0) | (column >= w))[:, None, :]
        index = (row.clamp(0, h - 1)[:, :, None] * w + column.clamp(0, w - 1)[:, None, :]).view(n, h * w)
        if channels > 1 and images.is_contiguous(memory_format=torch.channels_last):
            pixels = images.permute(0, 2, 3, 1).view(n, h * w, channels)
            moved = pixels.gather(1, index[:, :, None].expand_as(pixels)).view(n, h, w, channels).permute(0, 3, 1, 2)
        else:
            pixels = images.contiguous().view(n, channels, h * w)
            moved = pixels.gather(2, index[:, None, :].expand_as(pixels)).view(n, channels, h, w)
        return moved.masked_fill_(outside[:, None], 0)

    @staticmethod
    def backward(ctx, gy: Tensor):
        down, right = ctx.saved_tensors
        return _Moved.apply(gy, -down, -right), None, None
