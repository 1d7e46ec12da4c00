"""Two real photographs that come with scikit-learn, under licences that want their authors named."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganfast.systems import packages


class Photograph(NamedTuple):
    """image: uint8 [3, 427, 640]. credit: author and licence, which go beside whatever shows it."""

    name: str
    image: Tensor
    credit: str


# By the pages that scikit-learn's README of these files links to.
AUTHORS = {"china": "danielbuechele", "flower": "vultilion"}


def photographs() -> list[Photograph]:
    folder = packages.folder("scikit-learn", "the source of photographs") / "datasets" / "images"
    from PIL import Image

    found = []
    for name, author in AUTHORS.items():
        with Image.open(folder / f"{name}.jpg") as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
        found.append(Photograph(name, pixels, f"{name}.jpg by {author} on flickr.com, CC BY 2.0, as packaged in scikit-learn"))
    return found
