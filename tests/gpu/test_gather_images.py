"""gather_images on a GPU: bit for bit, in a graph, past 2^31 bytes."""

import pytest
import torch

from ganfast.functional import gather_images
from ganfast.testing import nan_filled
from tests.gpu.test_gpu import DTYPES

pytestmark = pytest.mark.gpu
IMAGES = {
    "small": (5, 3, 4, 8),
    "small odd": (4, 3, 5, 7),
    "small grey": (9, 1, 28, 28),
    "dcgan": (300, 3, 64, 64),
    "wide": (20, 3, 256, 256),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["to_nchw", "to_nhwc"])
@pytest.mark.parametrize("images_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton", "cuda"])
@pytest.mark.parametrize("name", IMAGES)
def test_gather_images(name, backend, dtype, images_last, channels_last):
    """Bit for bit what a CPU computes; indices outside become NaN."""
    there, call, check = asked_for(name, backend, dtype, images_last, channels_last)
    asked, mirrored = torch.randint(-1, len(there) + 1, (40,)), torch.rand(40) < 0.5
    with nan_filled():
        y = call(asked.cuda(), mirrored.cuda())
    check(y, asked, mirrored)
    check(call(asked.int().cuda(), None), asked, torch.zeros(40, dtype=torch.bool))


@pytest.mark.captures
@pytest.mark.parametrize("channels_last", [False, True], ids=["to_nchw", "to_nhwc"])
@pytest.mark.parametrize("backend", ["reference", "torch", "triton", "cuda"])
@pytest.mark.parametrize("name", IMAGES)
def test_gather_images_in_a_graph(name, backend, channels_last):
    """Which refuses whoever waits for the device; replayed with new indices."""
    there, call, check = asked_for(name, backend, torch.float32, False, channels_last)
    index, flip = torch.zeros(40, dtype=torch.int64, device="cuda"), torch.zeros(40, dtype=torch.bool, device="cuda")
    call(index, flip)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call(index, flip)
    for _ in range(2):
        asked, mirrored = torch.randint(-1, len(there) + 1, (40,)), torch.rand(40) < 0.5
        index.copy_(asked), flip.copy_(mirrored)
        graph.replay()
        check(y, asked, mirrored)


def asked_for(name, backend, dtype, images_last, channels_last):
    """(images on the GPU, call(index, flip), check(y, index, flip) against a CPU)"""
    images = torch.randint(0, 256, IMAGES[name], dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last) if images_last else images
    count = len(images)
    options = {"dtype": dtype, "channels_last": channels_last}
    there = images.cuda()

    def check(y, asked, mirrored):
        inside = (asked >= 0) & (asked < count)
        want = gather_images(images, asked[inside], flip=mirrored[inside], backend="reference", **options)
        assert torch.equal(y.cpu()[inside], want) and y.cpu()[~inside].isnan().all()
        assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    return there, lambda index, flip: gather_images(there, index, flip=flip, backend=backend, **options), check


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_gather_images_offsets_beyond_32_bits(backend):
    images = torch.zeros(70_000, 3, 128, 128, dtype=torch.uint8, device="cuda")
    images[-1] = 255
    y = gather_images(images, torch.tensor([69_999, 0], device="cuda"), backend=backend)
    assert (y[0] == 1).all() and (y[1] == -1).all()
