"""Calls that torch's own convolutions answer with a broken heap, and the same numbers asked for in a way that is safe.

Every gradient of a weight that torch computes for this op comes through `safe_weight_grad`; `benchmarks/prove_heap.py` looks for more.
"""

import torch.nn.functional as F
from torch import Tensor


def strided_points(kernel, stride) -> bool:
    """A kernel of one tap with a stride: torch 2.13's CPU build (oneDNN's AVX-512 kernel for float32, channels_last) writes past a
    buffer in the weight gradient. Seen with two threads where the strides divide the image exactly, the batch is odd, Cin is 2 to 14
    and Cout at most 16: the bounds follow from how the work is dealt out to threads, so none of them is relied on."""
    return all(k == 1 for k in kernel) and any(s != 1 for s in stride)


def padding_nears_kernel(size, kernel, stride, padding, dilation) -> bool:
    """More padding than half the kernel's reach: torch's CPU kernel for the weight gradient reads and writes out of bounds. And a tap
    that meets padding alone (x [5, 10, 1, 1], kernel 3, stride 2, padding 1): in bfloat16 its gradient, zero, is never written, and what
    the memory held before comes out. `size`: the image's."""
    if any(2 * p > d * (k - 1) for k, p, d in zip(kernel, padding, dilation)):
        return True
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation):
        last = (n + 2 * p - d * (k - 1) - 1) // s * s - p  # where the last window begins
        for start in range(-p, d * (k - 1) - p + 1, d) if p else ():
            first = start if start >= 0 else start % s  # the first pixel inside the image that this tap's windows come to
            if first >= n or first > last + start + p:
                return True
    return False


def safe_weight_grad(image: Tensor, kernel, stride, padding, dilation) -> tuple[Tensor, list[int], list[int]]:
    """(image, stride, padding) of an ordinary convolution with the same weight gradient, which torch computes within its buffers.

    Shapes: image [N, C, *in], what the convolution reads. Zeros are spelt out where padding is unsafe; of a strided image, a kernel of
    one tap reads only every stride-th pixel, so a stride of 1 over those pixels is the same convolution (torch makes that copy too).
    """
    stride, padding = list(stride), list(padding)
    if image.device.type != "cpu":
        return image, stride, padding
    if padding_nears_kernel(image.shape[2:], kernel, stride, padding, dilation):
        image = F.pad(image, [p for p in reversed(padding) for _ in range(2)])
        padding = [0] * len(padding)
    if strided_points(kernel, stride):
        image = image[(..., *[slice(None, None, s) for s in stride])]
        stride = [1] * len(stride)
    return image, stride, padding
