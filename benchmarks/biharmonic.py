"""What inpainting without learning reaches on the digits: each hole filled so that its bilaplacian is 0, the smoothest that meets what is
around it. `python -m benchmarks.biharmonic` prints the figures that `ganfast.systems.inpainting` gives for its generator."""

import json

import numpy as np
import scipy.ndimage
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve

from ganfast.systems import inpainting
from ganfast.systems.sources.masks import masks
from ganfast.train.data import to_float


def stencils(size: int) -> csc_matrix:
    """[size^2, size^2]: the bilaplacian at each pixel, with mirrored borders."""
    points = np.eye(size * size).reshape(-1, size, size)
    twice = [scipy.ndimage.laplace(scipy.ndimage.laplace(point, mode="mirror"), mode="mirror") for point in points]
    return csc_matrix(np.stack([one.ravel() for one in twice], 1))


def filled(images: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """[N, 1, S, S] with the pixels where holes is 1 solved for, clipped to [-1, 1]."""
    rows, made = stencils(images.shape[-1]), images.clone().double()
    for image, hole in zip(made.flatten(1).numpy(), holes.flatten(1).bool().numpy()):
        equations = rows[hole]
        image[hole] = spsolve(equations[:, hole], -equations[:, ~hole] @ image[~hole]).clip(-1, 1)
    return made.float()


class _Biharmonic:
    """In a Trainer's place, for `measure`."""

    def sample(self, n: int, condition: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return filled(*condition)


def main() -> None:
    options = inpainting.Options()
    images = to_float(inpainting.sets(options)["test"])
    holes = masks(options.mask, len(images), options.image_size, options.hole)
    known = images * (1 - holes)
    assert torch.equal(filled(known, holes), filled(images, holes)), "what the hole hides was used"
    print(json.dumps(inpainting.measure(_Biharmonic(), options), indent=1))


if __name__ == "__main__":
    main()
