"""When a GPU takes a group norm by one block a group, and when in chunks."""

import pytest
import torch

from ganfast.ops.group_norm_act.regime import regime


@pytest.mark.parametrize(
    ("shape", "groups", "dtype", "channels_last", "cuda", "triton", "backward"),
    [
        ((8, 320, 32, 32), 32, torch.bfloat16, False, "block", "block", "chunks"),  # a diffusion model's middle: 256 groups of 10240
        ((8, 320, 32, 32), 32, torch.bfloat16, True, "chunks", "chunks", "chunks"),  # runs of 20 bytes
        ((8, 640, 32, 32), 32, torch.bfloat16, True, "chunks", "chunks", "chunks"),  # 20480 a group
        ((8, 640, 16, 16), 32, torch.bfloat16, True, "block", "block", "chunks"),  # runs of 40 bytes
        ((8, 640, 25, 25), 32, torch.bfloat16, False, "block", "chunks", "chunks"),  # 12500, padded to 32 * 1024
        ((1, 128, 256, 256), 32, torch.float32, False, "chunks", "chunks", "chunks"),  # a decoder's last layer
        ((2, 256, 32, 32), 32, torch.float32, False, "chunks", "chunks", "chunks"),  # 64 groups for 132 multiprocessors
        ((2, 64, 8, 8), 32, torch.float32, False, "block", "block", "block"),  # as few, but done in one round
        ((2, 64, 8, 8), 32, torch.float32, True, "block", "block", "block"),
        ((64, 512, 16, 16), 32, torch.float32, False, "block", "block", "block"),  # 4096, what Triton's backward keeps
        ((4096, 768), 1, torch.bfloat16, False, "block", "block", "block"),  # layer norm
        ((4096, 8192), 1, torch.bfloat16, False, "chunks", "block", "chunks"),  # more channels than shared memory has sums for
        ((4096, 20000), 1, torch.bfloat16, False, "chunks", "chunks", "chunks"),
    ],
)
def test_regime(shape, groups, dtype, channels_last, cuda, triton, backward):
    """Forward on both backends, and Triton's backward; CUDA's goes as its forward."""
    x = torch.empty(shape, dtype=dtype, device="meta")
    taken = [regime(x, groups, channels_last, *how) for how in (("cuda",), ("cuda", True), ("triton",), ("triton", True))]
    assert taken == [cuda, cuda, triton, backward]
