"""Each mistake gets one error that names op, argument, received, wanted."""

import numpy as np
import pytest
import torch

from ganfast.functional import gather_images

IMAGES, INDEX = torch.zeros(5, 3, 4, 6, dtype=torch.uint8), torch.tensor([0, 4])
ROWS = {
    "numpy": (lambda: gather_images(np.zeros((4, 3)), INDEX), TypeError, "images is a numpy.ndarray.*from_numpy"),
    "floats": (lambda: gather_images(IMAGES.float(), INDEX), TypeError, r"images has dtype torch.float32, wants torch.uint8.*images\["),
    "grey": (lambda: gather_images(IMAGES[:, 0], INDEX), ValueError, r"images has shape \(5, 4, 6\), wants \[N, C, H, W\].*unsqueeze"),
    "a view": (lambda: gather_images(IMAGES[:, :2], INDEX), ValueError, r"images has strides \(72, 24, 6, 1\).*\.contiguous\(\) once"),
    "every other": (lambda: gather_images(IMAGES[::2], INDEX), ValueError, "images has strides"),
    "expanded": (lambda: gather_images(IMAGES[:1].expand(5, -1, -1, -1), INDEX), ValueError, "images has strides"),
    "huge": (
        lambda: gather_images(torch.empty(1, 1, 2**16, 2**15, dtype=torch.uint8, device="meta"), INDEX),
        ValueError, "images has 2147483648 elements an image, wants at most 1073741824",
    ),
    "index list": (lambda: gather_images(IMAGES, [0, 4]), TypeError, "index is a builtins.list, wants a torch.Tensor"),
    "index floats": (lambda: gather_images(IMAGES, INDEX.float()), TypeError, "index has dtype torch.float32, wants torch.int64 or"),
    "index mask": (lambda: gather_images(IMAGES, torch.ones(5, dtype=torch.bool)), TypeError, "index has dtype torch.bool.*nonzero"),
    "index rank": (lambda: gather_images(IMAGES, INDEX.view(1, 2)), ValueError, r"index has shape \(1, 2\), wants one dimension"),
    "index elsewhere": (lambda: gather_images(IMAGES, INDEX.to("meta")), ValueError, "index is on meta, images on cpu"),
    "flip ints": (lambda: gather_images(IMAGES, INDEX, flip=INDEX), TypeError, "flip has dtype torch.int64, wants torch.bool"),
    "flip bool": (lambda: gather_images(IMAGES, INDEX, flip=True), TypeError, "flip is a builtins.bool, wants a torch.Tensor"),
    "flip length": (
        lambda: gather_images(IMAGES, INDEX, flip=torch.ones(3, dtype=torch.bool)), ValueError, r"flip has shape \(3,\), wants \(2,\)",
    ),
    "dtype": (lambda: gather_images(IMAGES, INDEX, dtype=torch.uint8), TypeError, "dtype is torch.uint8, wants float32"),
    "dtype name": (lambda: gather_images(IMAGES, INDEX, dtype="float32"), TypeError, "dtype is 'float32', wants float32"),
    "channels_last": (
        lambda: gather_images(IMAGES, INDEX, channels_last=torch.channels_last),
        TypeError, "channels_last is torch.channels_last, wants True, False or None",
    ),
    "no images": (lambda: gather_images(IMAGES[:0], INDEX), IndexError, "images is empty.*2 are asked for"),
    "past the end": (lambda: gather_images(IMAGES, INDEX + 1), IndexError, "index holds 5, wants 0 to 4"),
    "negative": (lambda: gather_images(IMAGES, INDEX - 1), IndexError, "index holds -1, wants 0 to 4.*does not count from the end"),
    "backend": (lambda: gather_images(IMAGES, INDEX, backend="tritn"), ValueError, "backend='tritn' is unknown.*Did you mean 'triton'"),
    "backend elsewhere": (lambda: gather_images(IMAGES, INDEX, backend="cuda"), RuntimeError, "backend 'cuda' cannot run"),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_one_error(row):
    call, error, message = ROWS[row]
    with pytest.raises(error, match=message) as caught:
        call()
    assert str(caught.value).startswith("gather_images: ")
