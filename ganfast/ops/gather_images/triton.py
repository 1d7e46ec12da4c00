"""gather_images in Triton: a program makes a block of one image's result; addresses are 64 bits to the image, 32 inside it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton

# 1 / 127.5 in two parts: a level times the first is exact, so that the sum of both products is the quotient, rounded right for all 256
# levels, whether or not the compiler fuses: a division's bits for a fraction of its instructions.
_HIGH = tl.constexpr(257 / 32768)
_LOW = tl.constexpr(float.fromhex("0x1.010102p-23"))


@triton.jit
def gather_images_fwd_kernel(
    images, index, flip, y, count, size, c, w, pixels, blocks, IMAGES_LAST: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """images uint8 [count, c, pixels] (IMAGES_LAST: [count, pixels, c]), index and flip [B] -> y [B, c, pixels] (CHANNELS_LAST: [B, pixels,
    c]); `size` is c * pixels, `blocks` the programs an image."""
    b = tl.program_id(0) // blocks
    e = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    at = tl.load(index + b).to(tl.int64)
    inside = (at >= 0) & (at < count)
    image = images + at * size
    mask = e < tl.where(inside, size, 0)  # outside, nothing is read
    if IMAGES_LAST == CHANNELS_LAST:
        source = e  # written so that the compiler sees neighbours, and moves 16 bytes at once
        column = (e // c if IMAGES_LAST else e) % w
    elif CHANNELS_LAST:
        source = e % c * pixels + e // c
        column = e // c % w
    else:
        source = e % pixels * c + e // pixels
        column = e % w
    if flip is None:
        level = tl.load(image + source, mask=mask, other=0)
    else:
        if tl.load(flip + b) != 0:  # uniform: the images as they are keep their wide loads
            mirrored = source + (w - 1 - 2 * column) * (c if IMAGES_LAST else 1)
            level = tl.load(image + mirrored, mask=mask, other=0)
        else:
            level = tl.load(image + source, mask=mask, other=0)
    level = level.to(tl.float32)
    out = tl.where(inside, level * _HIGH + level * _LOW - 1.0, float("nan"))
    tl.store(y + b.to(tl.int64) * size + e, out.to(y.dtype.element_ty), mask=e < size)


def gather_images_fwd_triton(
    images: Tensor, index: Tensor, flip: Tensor | None, dtype: torch.dtype, images_last: bool, channels_last: bool
) -> Tensor:
    count, c, h, w = images.shape
    y = _triton.empty((index.shape[0], c, h, w), images, dtype, channels_last)
    size = c * h * w
    block = min(_triton.next_power_of_2(size), 2048)  # 16 levels a thread of 128: one load of 16 bytes
    blocks = _triton.cdiv(size, block)
    with _triton.on_device(images):
        gather_images_fwd_kernel[(blocks * index.shape[0],)](
            images, index, None if flip is None else flip.view(torch.uint8), y, count, size, c, w, h * w, blocks,
            IMAGES_LAST=images_last, CHANNELS_LAST=channels_last, BLOCK=block, num_warps=4 if block == 2048 else 1, enable_fp_fusion=True,
        )  # fmt: skip
    return y
