"""What the Triton kernels share: [rows, channels] tiles in both layouts, fixed-order reductions, and the few decisions a launcher
makes. Importing this imports triton: do it on first use, never from the package.

A tile is [BLOCK_R, BLOCK_C] in channels_last memory and [BLOCK_C, BLOCK_R] in contiguous memory, so that its last axis is
always the one that runs along memory. A row is one (image, pixel) pair; row r is image r // inner, pixel r % inner.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# From this many elements on, offsets need 64 bits; below, 32 save registers. A test lowers it to reach the wide kernels.
wide_from = 2**31
MIN_CAPABILITY = (8, 0)
MIN_VERSION = (3, 6)


@triton.jit
def over_rows(v, CHANNELS_LAST: tl.constexpr):
    """A vector per row, broadcast over the tile's channels."""
    return v[:, None] if CHANNELS_LAST else v[None, :]


@triton.jit
def over_channels(v, CHANNELS_LAST: tl.constexpr):
    """A vector per channel, broadcast over the tile's rows."""
    return v[None, :] if CHANNELS_LAST else v[:, None]


@triton.jit
def sum_rows(tile, CHANNELS_LAST: tl.constexpr):
    """[BLOCK_C]: the tile summed over its rows."""
    return tl.sum(tile, axis=0 if CHANNELS_LAST else 1)


@triton.jit
def tile_offsets(r, channels, rows, inner, c, CHANNELS_LAST: tl.constexpr):
    """(memory offsets, mask) of a tile of x [N, C, inner]; r [BLOCK_R] is 64-bit where the tensor needs it."""
    mask = over_rows(r < rows, CHANNELS_LAST) & over_channels(channels < c, CHANNELS_LAST)
    if CHANNELS_LAST:
        return (r * c)[:, None] + channels[None, :], mask
    else:
        return (r // inner * (c * inner) + r % inner)[None, :] + (channels.to(r.dtype) * inner)[:, None], mask


@triton.jit
def load_channels(ptr, channels, c, default, CHANNELS_LAST: tl.constexpr):
    """A per-channel parameter broadcast over the tile, or the scalar `default` where there is no tensor."""
    if ptr is None:
        return default
    else:
        return over_channels(tl.load(ptr + channels, mask=channels < c, other=1.0), CHANNELS_LAST)


@triton.jit
def chan_merge(n, mean, m2, AXIS: tl.constexpr):
    """Chan's rule over a whole axis of groups (n, mean, M2) at once; groups of n = 0 carry mean = M2 = 0."""
    total = tl.sum(n, AXIS)
    merged = tl.sum(n * mean, AXIS) / tl.maximum(total, 1.0)
    d = mean - tl.expand_dims(merged, AXIS)
    return total, merged, tl.sum(m2 + n * d * d, AXIS)


@triton.jit
def finish_sums_kernel(partials, out0, out1, out2, t_count, c, ROWS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """partials [T, ROWS, C] summed over T; program (i, r) writes a block of row r's output [C]."""
    channels = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.program_id(1)
    acc = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for t0 in range(0, t_count, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        mask = (t < t_count)[:, None] & (channels < c)[None, :]
        acc += tl.load(partials + ((t.to(tl.int64) * ROWS + row) * c)[:, None] + channels[None, :], mask=mask, other=0.0)
    total = tl.sum(acc, 0)
    if row == 0:
        tl.store(out0 + channels, total, mask=channels < c)
    if ROWS > 1:  # noqa: SIM102 - decided by the compiler, the inner one by the program
        if row == 1:
            tl.store(out1 + channels, total, mask=channels < c)
    if ROWS > 2:  # noqa: SIM102
        if row == 2:
            tl.store(out2 + channels, total, mask=channels < c)


def is_interpreting() -> bool:
    """True where TRITON_INTERPRET was set when the kernels were defined: they then run on CPU tensors."""
    return not isinstance(over_rows, triton.JITFunction)


def unavailable_reason(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on this device, or None where they can."""
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < MIN_VERSION:
        return f"triton {triton.__version__} is installed, 3.6 or newer is needed"
    if is_interpreting():
        import numpy  # the interpreter's own dependency, nobody else's

        if version < (3, 7) and tuple(int(part) for part in numpy.__version__.split(".")[:2]) >= (2, 4):
            return f"triton {triton.__version__}'s interpreter breaks with numpy {numpy.__version__}; it needs numpy < 2.4"
        return None if device.type == "cpu" else "TRITON_INTERPRET is set: kernels run interpreted, on CPU tensors only"
    if device.type != "cuda":
        return f"Triton kernels run on CUDA devices, not on {device.type}"
    if torch.version.hip is not None:
        return "this torch is built for ROCm, the kernels were only compiled for NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, 8.0 or newer is needed"
    return None


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def empty(shape, like: Tensor, dtype: torch.dtype | None = None, channels_last: bool = False) -> Tensor:
    """Every output comes from here, so that a test can put NaN where a kernel should have written."""
    if not channels_last:
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
    memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


_HERE = nullcontext()


def on_device(x: Tensor):
    """Triton launches on the current device: make it x's. Costs nothing where it already is."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(x.device)


def tile_shape(rows: int, c: int, channels_last: bool) -> tuple[int, int]:
    """(BLOCK_R, BLOCK_C) of an elementwise tile: 2048 elements, long along memory, no longer than the tensor."""
    if channels_last:
        block_c = min(next_power_of_2(c), 64)
        return min(next_power_of_2(rows), 2048 // block_c), block_c
    block_r = min(next_power_of_2(rows), 512)
    return block_r, min(next_power_of_2(c), 2048 // block_r)


def chunks(rows: int, block_r: int, c_blocks: int) -> tuple[int, int]:
    """(T, row blocks per program) of a reduction's first stage: about a thousand programs, at most 512 partials a channel.
    Depends on the shape alone, so the order of the sum, and its bits, do too."""
    blocks = cdiv(rows, block_r)
    per_program = cdiv(blocks, min(512, max(1, 1024 // c_blocks)))
    return cdiv(blocks, per_program), per_program


def finish_sums(partials: Tensor, *outs: Tensor) -> None:
    """partials [T, len(outs), C] -> the outs, each [C]."""
    t_count, rows, c = partials.shape
    out0, out1, out2 = (*outs, None, None)[:3]
    finish_sums_kernel[(cdiv(c, 16), rows)](
        partials, out0, out1, out2, t_count, c, ROWS=rows, BLOCK_T=min(64, next_power_of_2(t_count)), BLOCK_C=16, enable_fp_fusion=True
    )
