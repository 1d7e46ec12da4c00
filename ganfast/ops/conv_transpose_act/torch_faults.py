"""Calls that torch's own CPU convolutions answer with wrong numbers or a broken heap, and how the same result is had safely.

Every gradient of a weight that torch computes for this op comes through `safe_weight_grad`; `benchmarks/prove_heap.py` looks for more
calls that break the heap.

On a processor with AMX the oneDNN of torch 2.13 gives wrong bfloat16 results, by a relative error of 1 or with memory that it
never wrote; README.md in this folder has the map. Those are computed in float32. Whether this process is one of those is asked of torch
itself, once a dtype: a probe follows the processor, the version and ONEDNN_MAX_CPU_ISA, which no list of versions can.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
CURE = "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
# x, weight, stride, padding: one of each kind of fault (few channels, patches, a single column).
_PROBES = (
    ((2, 4, 1, 128), (8, 4, 1, 16), (1, 8), (0, 4)),
    ((1, 16, 3, 36), (16, 16, 2, 4), (1, 4), (0, 0)),
    ((1, 12, 22, 1), (2, 12, 2, 5), (3, 2), (0, 2)),
)
_K_BLOCK = 32  # 16-bit values in a row of an AMX tile


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


def wrong_in(dtype: torch.dtype) -> bool:
    """Whether torch's convolutions of this 16-bit dtype are wrong in this process."""
    return _probed(dtype, torch._C._get_mkldnn_enabled())


@functools.cache
def _probed(dtype: torch.dtype, onednn: bool) -> bool:
    # A thread of its own knows nothing of the caller's autocast, grad mode, tracers and dispatch modes.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_is_wrong, dtype).result()


@torch.no_grad()
def _is_wrong(dtype: torch.dtype) -> bool:
    for x_size, weight_size, stride, padding in _PROBES:
        x, weight = (
            torch.arange(torch.Size(size).numel(), dtype=torch.float64, device="cpu").mul(step).sin().view(size).to(dtype)
            for size, step in ((x_size, 0.7), (weight_size, 1.3))
        )
        want = F.conv2d(x.double(), weight.double(), None, stride, padding)
        error = (F.conv2d(x, weight, None, stride, padding).double() - want).abs().max() / want.abs().max()
        if not error < 0.1:  # right ones are below 0.01
            return True
    return False


def lacks_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN has no convolutions of this 16-bit dtype on this processor, or is switched off: those that torch then runs take up to
    fifty times as long as float32's (AVX2 alone), and the transposed ones round at every tap."""
    return not (torch._C._get_mkldnn_enabled() and _has_kernels(dtype))


@functools.cache
def _has_kernels(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    known = {torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported, torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported}
    return known[dtype]()


def emulates(x: Tensor) -> bool:
    """Whether oneDNN's convolutions of a 16-bit x may be float32's with conversions, as the processor has no instructions for their
    products: bfloat16 on AVX-512 without its extension, where they took up to three times as long as float32's own, casts included. Where
    nothing says so, as on ARM, they may be."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not lacks_kernels(x.dtype) and not _multiplies_bfloat16()


@functools.cache
def _multiplies_bfloat16() -> bool:
    asked = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(ask is not None and ask() for ask in asked)


def in_float32(x: Tensor, fault: bool) -> bool:
    """Whether a convolution of x is computed in float32: it is asked for, as by a `fault` of torch's, or torch has no kernels."""
    return fault or (_is_half(x) and lacks_kernels(x.dtype))


def _is_half(x: Tensor) -> bool:
    return x.dtype in HALF and x.device.type == "cpu"


def _one_column(width_out: int, stride) -> bool:
    return width_out == 1 and stride[-1] > 1


def conv(x: Tensor, weight: Tensor, stride, padding, dilation, groups: int) -> bool:
    """Whether torch's convolution of x [N, Cin, *in] by weight [Cout, Cin/groups, *k] is not to be trusted."""
    if not _is_half(x):
        return False
    channels, width, step, gap = weight.shape[1], weight.shape[-1], stride[-1], dilation[-1]
    few = gap == 1 and channels < 16 and channels * width >= 2 * _K_BLOCK and channels * width % _K_BLOCK == 0
    patches = gap == 1 and groups == 1 and padding[-1] == 0 and step > 1 and width % step == 0
    width_out = (x.shape[-1] + 2 * padding[-1] - gap * (width - 1) - 1) // step + 1
    shallow = x.dim() == 5 and x.shape[2] < weight.shape[2]
    return (few or patches or shallow or _one_column(width_out, stride)) and wrong_in(x.dtype)


def conv_transpose(x: Tensor) -> bool:
    """Whether torch's transposed convolution of x [N, Cin, *in] is not to be trusted."""
    return _is_half(x) and x.dim() == 5 and wrong_in(x.dtype)


def weight_grad(gz: Tensor, width_out: int, stride) -> bool:
    """Whether torch's weight gradient of a convolution of gz to an output of that width is not to be trusted. It is wrong without AMX
    too, and what it reads is chance: no probe could tell."""
    return _is_half(gz) and (gz.dim() == 5 or _one_column(width_out, stride))


def layer(x: Tensor, z: Tensor, weight: Tensor, stride, padding, dilation, groups: int, transposed: bool, learns: bool) -> bool:
    """Whether torch's own layer, x [N, Cin, *in] -> z [N, Cout, *out], is not to be trusted on a CPU: in its forward, and where it
    `learns` in a gradient too, wrong or written past a buffer. Of the tensors the looks are enough."""
    image, read = (z, x) if transposed else (x, z)  # of the ordinary convolution, which one of forward and data gradient is
    ordinary, back = conv(image, weight, stride, padding, dilation, groups), conv_transpose(read)
    if not learns:
        return back if transposed else ordinary
    geometry = weight.shape[2:], stride, padding, dilation
    unsafe = (_is_half(image) or image.dim() == 5) and padding_nears_kernel(image.shape[2:], *geometry)
    return ordinary or back or unsafe or strided_points(*geometry[:2]) or weight_grad(image, read.shape[-1], stride)


def report() -> list[str]:
    """What `ganfast doctor` says: a line for each 16-bit dtype."""
    lines = []
    for dtype in HALF:
        name = str(dtype).removeprefix("torch.")
        if not wrong_in(dtype):
            lines.append(f"{name}: right")
            continue
        lines.append(
            f"{name}: WRONG on this processor, without an error (few channels and a wide kernel, strides to a single column, 3-D)."
            f"\n    ganfast's ops compute those in float32. Your own torch layers, and eager runs to compare with, do not:"
            f"\n    set {CURE} in the environment before python starts"
        )
    return lines
