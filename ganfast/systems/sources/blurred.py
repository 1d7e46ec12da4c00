"""Digits, and others that a known rule has changed: two sets without pairs, whose right translation is known."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast.train.data import digits, to_float, to_uint8

DEVIATION = 2.0  # pixels, of the Gaussian


def negative(images: Tensor) -> Tensor:
    """The rule: inverted, then blurred by a Gaussian, with grey beyond the border. images [N, C, H, W] in [-1, 1]."""
    reach = math.ceil(3 * DEVIATION)
    place = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    bell = torch.exp(-0.5 * (place / DEVIATION) ** 2)
    bell = (bell / bell.sum()).expand(images.shape[1], 1, 1, -1)
    across = F.conv2d(-images, bell, padding=(0, reach), groups=images.shape[1])
    return F.conv2d(across, bell.transpose(2, 3), padding=(reach, 0), groups=images.shape[1])


def sets() -> dict[str, Tensor]:
    """uint8 [N, 1, 32, 32]: train_a, 800 digits; train_b, 697 others by the rule; test_a, test_b, 300 further ones and the same by the
    rule, so that the right answer is known for each; labels of these; reads, read_labels: the digits of both training sets, sharp."""
    data = digits(32)
    images, labels = data.images, data.labels
    shuffle = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = shuffle[:-300], shuffle[-300:]
    by_rule = to_uint8(negative(to_float(images)))
    return {
        "train_a": images[train[:800]], "train_b": by_rule[train[800:]], "test_a": images[test], "test_b": by_rule[test],
        "labels": labels[test], "reads": images[train], "read_labels": labels[train],
    }  # fmt: skip
