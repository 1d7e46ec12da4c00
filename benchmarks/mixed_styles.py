"""What mixed styles change, on digits: the coarse ones the shape, as a classifier reads it, the fine ones the strokes."""

import torch
from torch import Tensor

from ganfast.systems import measures
from ganfast.train.sampling import Sampler
from ganfast.train.styles import mixing
from ganfast.train.watch.metrics import Reader

PAIRS = 400
GOALS = {"shape_of_coarse": 0.8, "strokes_of_fine": 0.1}  # at least


def figures(sampler: Sampler, reader: Reader, coarse: int = 8) -> dict[str, float]:
    """Pairs of samples of different digits, mixed: coarse styles of one, fine ones of the other.

    shape_of_coarse, shape_of_fine: the share that is read as the one's digit, as the other's. strokes_of_coarse, strokes_of_fine: how much
    the mixed picture's thickness follows that of the one and of the other: coefficients of a linear fit of all three, each less its digit's
    mean and over its deviation. changed_by_coarse, changed_by_fine: mean absolute difference of pixels from the picture that has the other
    one's styles alone.
    """
    labels = torch.arange(2 * PAIRS) % 10
    one, other = labels[:PAIRS], (labels[:PAIRS] + 1 + torch.arange(PAIRS) // 10 % 9) % 10
    of = lambda labels, seed: sampler.styles(sampler.latents(PAIRS, seed), labels)
    first, second = of(one, 1), of(other, 2)
    layers = mixing.coarse_layers(first.shape[1], coarse)
    mixed = sampler.synthesised(torch.cat([first[:, :layers], second[:, layers:]], 1))
    a, b = sampler.synthesised(first), sampler.synthesised(second)
    strokes = [_within(measures.thickness(images), labels) for images, labels in ((mixed, one), (a, one), (b, other))]
    follows = torch.linalg.lstsq(torch.stack(strokes[1:], 1), strokes[0][:, None]).solution[:, 0]
    return {
        "shape_of_coarse": reader.share_read(mixed, one), "shape_of_fine": reader.share_read(mixed, other),
        "strokes_of_coarse": follows[0].item(), "strokes_of_fine": follows[1].item(),
        "changed_by_coarse": (mixed - b).abs().mean().item(), "changed_by_fine": (mixed - a).abs().mean().item(),
    }  # fmt: skip


def _within(values: Tensor, labels: Tensor) -> Tensor:
    """Less the mean of its label, over the deviation of what is left."""
    left = values.double()
    for label in labels.unique():
        left[labels == label] -= left[labels == label].mean()
    return left / left.std()
