"""gather_images' Triton kernel, interpreted, bit for bit."""

import pytest
import torch

from ganfast.functional import gather_images
from tests.gather_images.test_gather_images import dataset, plain
from tests.triton_interpreter import assert_layout, backend, in_layout, interpreted  # noqa: F401

pytestmark = pytest.mark.triton
SHAPES = {"rgb": (3, 16, 24), "several blocks": (3, 40, 31), "odd": (3, 5, 7), "grey": (1, 28, 28), "one column": (4, 6, 1)}


@pytest.mark.parametrize("channels_last", [False, True], ids=["to_nchw", "to_nhwc"])
@pytest.mark.parametrize("images_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bit_for_bit(shape, images_last, channels_last):
    """Outside indices among the others: their images become NaN, and the rest is right."""
    images = in_layout(dataset(5, shape), images_last)
    index, flip = torch.tensor([4, 0, -1, 2, 4, 5, 2**62]), torch.tensor([True, False, True, True, False, False, True])
    inside = (index >= 0) & (index < 5)
    for dtype, given, kind in ((torch.float32, None, torch.int64), (torch.float32, flip, torch.int64), (torch.float16, flip, torch.int32)):
        asked = index if kind == torch.int64 else index.clamp(max=2**31 - 1).int()
        y = backend("gather_images").gather_images_fwd_triton(images, asked, given, dtype, images_last, channels_last)
        want = plain(images, index[inside], None if given is None else given[inside], dtype)
        assert y.dtype == dtype and torch.equal(y[inside], want)
        assert y[~inside].isnan().all()
        assert_layout(y, channels_last)


def test_every_level():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float16):
        y = gather_images(images, torch.tensor([0]), dtype=dtype, backend="triton")
        assert torch.equal(y, plain(images, [0], None, dtype)) and y[0, 0, 0, 0] == -1 and y[0, 0, -1, -1] == 1


def test_offsets_beyond_32_bits():
    images = torch.empty(70_000, 3, 128, 128, dtype=torch.uint8)  # most of it is never touched
    images[-1] = dataset(1, (3, 128, 128))
    index, flip = torch.tensor([69_999]), torch.tensor([True])
    assert torch.equal(gather_images(images, index, flip=flip, backend="triton"), plain(images, index, flip))


def test_an_index_outside_is_refused_on_a_cpu():
    with pytest.raises(IndexError, match="index holds 5, wants 0 to 4"):
        gather_images(dataset(5, (3, 4, 6)), torch.tensor([0, 5]), backend="triton")


@pytest.mark.parametrize(("dtype", "why"), [(torch.float64, "no float64"), (torch.bfloat16, "bfloat16 wrongly")])
def test_the_results_dtype_decides_what_can_run(dtype, why):
    with pytest.raises(RuntimeError, match=f"gather_images: backend 'triton' cannot run: .*{why}"):
        gather_images(dataset(5, (3, 4, 6)), torch.tensor([0]), dtype=dtype, backend="triton")
