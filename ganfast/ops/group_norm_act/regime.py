"""Which way a GPU takes a group norm: one block a group, or batch norm's passes in chunks."""

import math

from torch import Tensor

# A block's largest group: as many values as a block keeps in registers (Triton), or reads again from its cache (CUDA). Triton's backward
# keeps two tensors, and for rows of one pixel sums and vectors as large as they are: twice as many spill with some activations.
MOST = 16384
MOST_BACKWARD = 4096
# CUDA keeps three sums a channel in shared memory, twice.
MOST_WIDTH = 4096
# Up to here a block is done in one round of loads, and nothing is quicker than one launch.
SMALL = 2048
# Multiprocessors of an H100 or H200; a constant, so that no sum's order hangs on the card.
MULTIPROCESSORS = 132
SECTOR = 32  # bytes that memory moves at once


def padded(n: int) -> int:
    """The next power of two, to which Triton's tiles are padded."""
    return 1 << (n - 1).bit_length()


def regime(x: Tensor, groups: int, channels_last: bool, backend: str, backward: bool = False) -> str:
    """"block": a block of threads owns a group, in one launch. "chunks": a group is larger than a block's budget; or there are so few large
    ones that most multiprocessors would idle; or it lies in runs shorter than memory moves at once (channels_last, few channels)."""
    n, c = x.shape[:2]
    width, inner = c // groups, math.prod(x.shape[2:])
    values = padded(width) * padded(inner) if backend == "triton" else width * inner
    if values > (MOST_BACKWARD if backend == "triton" and backward else MOST) or (backend == "cuda" and width > MOST_WIDTH):
        return "chunks"
    if width * inner <= SMALL:
        return "block"
    if n * groups < MULTIPROCESSORS or (channels_last and inner > 1 and width * x.element_size() < SECTOR):
        return "chunks"
    return "block"
