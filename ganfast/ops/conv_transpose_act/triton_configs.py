"""Block shapes of conv_transpose_act's Triton forward: their names, which of them a call can take, and which it should try first.

A name says which kernel ran and how: "tma-2x8x8x128x64-w8s3" is the copy-engine kernel on boxes of 2 images x 8 x 8 pixels, 128
output channels, 64 input channels a step, 8 warps, 3 stages; "ptr-128x64x64-w4s3" the pointer kernel on 128 pixels x 64 output
channels x 64 input channels; "gemm-..." the same of the kernel for 1x1 inputs.
"""

import re
from functools import lru_cache
from math import prod
from typing import NamedTuple

from ganfast import _checks
from ganfast._triton import cdiv, next_power_of_2

OP = "conv_transpose_act"
POINTER_SHARED = 99 * 1024  # a block's on 8.6, 8.9 and 12.0, the least of all from 8.0 on
TMA_SHARED = 227 * 1024  # a block's on 9.0 and 10.0
SLICE = 32  # accumulators a thread that an epilogue handles at a time; twice as many where it does little with them
_SM_SHARED, _SM_REGISTERS, _SMS = 228 * 1024, 65536, 132  # 9.0; an H100's or H200's multiprocessors
# For the guess alone, per multiprocessor and clock: bytes that reach shared memory out of L2, and bytes written to memory.
_LOADS, _STORES = 48, 16
_START = 2000  # clocks until a program's first product, and after its last


class Problem(NamedTuple):
    """What the choice depends on: sizes, and how they are computed."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    itemsize: int
    exact: bool  # float32 that TF32 may not round
    channels_last: bool
    second: bool  # the epilogue stores z besides y, or reads a residual
    capability: tuple[int, int] | None  # None: unknown, or not a GPU's


class Blocks(NamedTuple):
    """A configuration: `sizes` as in its name."""

    kernel: str
    sizes: tuple[int, ...]
    warps: int
    stages: int

    @property
    def name(self) -> str:
        return f"{self.kernel}-{'x'.join(map(str, self.sizes))}-w{self.warps}s{self.stages}"


@lru_cache(maxsize=4096)
def parse(name: str) -> Blocks:
    found = re.fullmatch(r"([a-z]+)-(\d{1,4}(?:x\d{1,4})*)-w(\d{1,2})s(\d)", name)
    if not found:
        _checks.fail(OP, f"config is {name!r}, wants kernel-sizes-wWARPSsSTAGES such as 'ptr-128x64x64-w4s3'")
    return Blocks(found[1], tuple(map(int, found[2].split("x"))), int(found[3]), int(found[4]))


def _malformed(blocks: Blocks, count: int) -> str | None:
    if len(blocks.sizes) != count:
        return f"{blocks.kernel} has {count} sizes, not {len(blocks.sizes)}"
    if any(size < 1 or size & (size - 1) for size in blocks.sizes):
        return "sizes are powers of 2"
    if blocks.warps not in (4, 8) or not 1 <= blocks.stages <= 6:
        return "warps are 4 or 8, stages 1 to 6"
    return None


def _large(p: Problem) -> bool:
    """16-bit operands that go to shared memory 16 bytes at a time, and no second output."""
    return p.itemsize == 2 and p.channels_last and p.x_shape[1] // p.groups % 16 == 0 and p.w_shape[1] % 16 == 0 and not p.second


def pointer_fault(p: Problem, blocks: Blocks) -> str | None:
    """Why the pointer kernel or the GEMM cannot run these blocks. The tops are what compiles without spills at compute capability
    8.0, 9.0 and 10.0: 128 x 128 only where `_large`, 64 x 64 for exact float32, which is plain FMA on registers."""
    if why := _malformed(blocks, 3):
        return why
    block_m, block_n, block_k = blocks.sizes
    if min(blocks.sizes) < 16:
        return "tensor cores take no block side under 16"
    most = 64 * 64 if p.exact else 128 * 128 if _large(p) else 128 * 64
    if block_m * block_n > most or max(blocks.sizes) > 128 or block_m * block_n > 64 * 32 * blocks.warps:
        return f"accumulators of {block_m}x{block_n} would spill here; the most is {most}, and {64 * 32 * blocks.warps} for these warps"
    shared = blocks.stages * (block_m + block_n) * block_k * p.itemsize
    if shared > POINTER_SHARED:
        return f"it needs {shared} bytes of shared memory, the limit is {POINTER_SHARED}"
    return None


def pointer_blocks(kernel: str, p: Problem, m: int, columns: int, others: int) -> Blocks:
    """The first guess for m rows and `others` further tiles: as large as the problem allows, then halved until some 128 programs
    share the work."""
    large = _large(p)
    block_m = min(64 if p.exact else 128, max(16, next_power_of_2(m)))
    block_n = min(128 if large else 64, max(16, next_power_of_2(columns)))
    while max(block_m, block_n) > 32 and cdiv(m, block_m) * cdiv(columns, block_n) * others < 128:
        if block_m >= block_n:
            block_m //= 2
        else:
            block_n //= 2
    block_k = min(16 if p.exact else 64 if large else 32, max(16, next_power_of_2(p.x_shape[1] // p.groups)))
    warps = 8 if block_m * block_n * p.itemsize >= 16384 else 4
    return Blocks(kernel, (block_m, block_n, block_k), warps, 2 if p.exact else 3)


def pointer_configurations(p: Problem, first: Blocks) -> list[str]:
    """The first guess, and what a tuner should try beside it: other pipelines, other shapes of the same and half the area."""
    m, n, k = first.sizes
    tries = [
        first,
        first._replace(sizes=(m, n // 2, k), warps=4, stages=first.stages + 1),
        first._replace(sizes=(m // 2, n, k), warps=4, stages=first.stages + 1),
        first._replace(sizes=(m, n, min(2 * k, 64)), stages=first.stages - 1),
        first._replace(sizes=(2 * m, n // 2, k)),
        first._replace(stages=first.stages + 1),
    ]
    return list(dict.fromkeys(blocks.name for blocks in tries if pointer_fault(p, blocks) is None))


def accumulators(blocks: Blocks) -> int:
    """Of the copy-engine kernel, per thread."""
    return prod(blocks.sizes[:4]) // (32 * blocks.warps)


def shared_bytes(blocks: Blocks, itemsize: int) -> int:
    """Of the copy-engine kernel: the stages' operands, and 1 KiB for barriers, which the compiler stays under."""
    *box, block_n, block_k = blocks.sizes
    return blocks.stages * (prod(box) + block_n) * block_k * itemsize + 1024


def tma_fault(p: Problem, blocks: Blocks) -> str | None:
    """Why the copy-engine kernel cannot run these blocks on a problem that it takes."""
    if why := _malformed(blocks, 5):
        return why
    *box, block_n, block_k = blocks.sizes
    if max(blocks.sizes) > 256:
        return "the copy engine's boxes have at most 256 a side"
    most = 128 if p.capability and p.capability[0] == 10 else 256  # 256 and partials spill at 10.0
    if not 16 <= prod(box) <= most:
        return f"a box of {prod(box)} pixels, wants 16 to {most}"
    if block_n < 64 or p.w_shape[1] % block_n:
        return f"{block_n} output channels a block, wants 64, 128 or 256 that divide Cout={p.w_shape[1]}"
    if not 32 <= block_k * p.itemsize <= 128:
        return f"{block_k} input channels a step, wants 32 to 128 bytes of them"
    if blocks.stages < 2:
        return "it wants 2 stages or more"
    if block_n == 64 and blocks.warps == 8:
        return "8 warps want 128 output channels: with 64 a second warp group would split an epilogue slice"
    if accumulators(blocks) > 4 * SLICE:
        return f"{accumulators(blocks)} accumulators a thread would spill; the most is {4 * SLICE}"
    if shared_bytes(blocks, p.itemsize) > TMA_SHARED:
        return f"it needs {shared_bytes(blocks, p.itemsize)} bytes of shared memory, the limit is {TMA_SHARED}"
    return None


def occupancy(blocks: Blocks, itemsize: int, registers: int = 0) -> int:
    """Blocks of the copy-engine kernel a multiprocessor holds; by its accumulators and 64 more where `registers` is not known."""
    registers = registers or accumulators(blocks) + 64
    by_shared = _SM_SHARED // (shared_bytes(blocks, itemsize) + 1024)  # a block costs 1 KiB more than it asks for
    return min(by_shared, _SM_REGISTERS // (cdiv(registers, 8) * 8 * 32 * blocks.warps))


def _box(pixels: int, n: int, h: int, w: int) -> tuple[int, int, int] | None:
    """Images x rows x columns that cover the batch in the fewest boxes; of those, the one that reads the least beside itself."""
    best = None
    for block_w in (1 << i for i in range(9)):
        for block_h in (1 << i for i in range(9)):
            block_i = pixels // (block_w * block_h)
            if not block_i or block_w > next_power_of_2(w) or block_h > next_power_of_2(h) or block_i > next_power_of_2(n):
                continue
            boxes = cdiv(n, block_i) * cdiv(h, block_h) * cdiv(w, block_w)
            rank = (boxes, block_i * (block_h + 1) * (block_w + 1), -block_w)
            if best is None or rank < best[0]:
                best = rank, (block_i, block_h, block_w)
    return best and best[1]


def _clocks(p: Problem, blocks: Blocks) -> float:
    """A guess at the whole kernel's time, to order the candidates by; nothing here was measured."""
    (n, c_in, h, w), (_, c_out, *kernel) = p.x_shape, p.w_shape
    *box, block_n, block_k = blocks.sizes
    pixels, phases = prod(box), prod(p.stride)
    programs = cdiv(n, box[0]) * cdiv(h, box[1]) * cdiv(w, box[2]) * phases * (c_out // block_n)
    steps = prod(kernel) / phases * cdiv(c_in, block_k)
    multiply = pixels * block_n * block_k * p.itemsize / 4096  # 4096 16-bit operations a clock, half as many in TF32
    step = max(multiply, (pixels + block_n) * block_k * p.itemsize / _LOADS)
    resident = min(occupancy(blocks, p.itemsize), cdiv(programs, _SMS))
    each = _START + pixels * block_n * p.itemsize * (2 if p.second else 1) / _STORES
    return cdiv(programs, _SMS * resident) * (resident * steps * step + each)


def tma_configurations(p: Problem) -> list[str]:
    """Best guess first; the copy-engine kernel takes the problem."""
    n, c_in, h, w = p.x_shape
    block_k = min(128 // p.itemsize, max(32 // p.itemsize, next_power_of_2(c_in)))
    best = []
    for pixels in (256, 128, 64, 32, 16):
        box = _box(pixels, n, h, w)
        for block_n in (256, 128, 64):
            for warps in (8, 4):
                tries = [Blocks("tma", (*(box or ()), block_n, block_k), warps, stages) for stages in (5, 4, 3)]
                tries = [blocks for blocks in tries if box and tma_fault(p, blocks) is None and accumulators(blocks) >= 8]
                if tries:
                    best.append(min((_clocks(p, blocks), -occupancy(blocks, p.itemsize), -blocks.stages, blocks) for blocks in tries))
    return [blocks.name for *_, blocks in sorted(best)]
