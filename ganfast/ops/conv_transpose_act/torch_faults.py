"""Where torch's own CPU convolutions are wrong in 16 bits, and so are computed in float32 here.

On a processor with AMX the oneDNN of torch 2.13 gives wrong bfloat16 results, by a relative error of 1 or with memory that it
never wrote; README.md in this folder has the map. Whether this process is one of those is asked of torch itself, once a dtype:
a probe follows the processor, the version and ONEDNN_MAX_CPU_ISA, which no list of versions can.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)
CURE = "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
# x, weight, stride, padding: one of each kind of fault (few channels, patches, a single column).
_PROBES = (
    ((2, 4, 1, 128), (8, 4, 1, 16), (1, 8), (0, 4)),
    ((1, 16, 3, 36), (16, 16, 2, 4), (1, 4), (0, 0)),
    ((1, 12, 22, 1), (2, 12, 2, 5), (3, 2), (0, 2)),
)
_K_BLOCK = 32  # 16-bit values in a row of an AMX tile


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


def layer(module: nn.Module, dtype: torch.dtype, width: int) -> bool:
    """Whether torch's own convolution layer, forward or backward, may be wrong on a CPU for an input of that width."""
    narrow = module.stride[-1] > 1 and width <= module.dilation[-1] * (module.kernel_size[-1] - 1) + module.stride[-1]
    return dtype in HALF and (narrow or len(module.stride) == 3 or wrong_in(dtype))


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
