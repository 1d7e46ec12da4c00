"""Precision and recall on sets whose answer is known, and the classifier that reads digits."""

import pytest
import torch

from ganfast.train import metrics
from ganfast.train.data import digits, to_float


@pytest.fixture(scope="module")
def real():
    found = digits(32)
    return to_float(found.images), found.labels


def test_pixels_are_area_averages():
    images = torch.arange(256.0).reshape(1, 1, 16, 16)
    assert metrics.pixels8(images).tolist() == [torch.nn.functional.avg_pool2d(images, 2).flatten().tolist()]


def test_a_line_of_points_by_hand():
    real = torch.arange(0, 10.0)[:, None]  # radius of the third neighbour: 2 within, 3 at the ends
    fake = torch.tensor([[4.5], [11.9], [12.1], [40.0], [41.0], [42.0], [43.0]])
    precision, recall = metrics.precision_recall(real, fake)
    assert precision == pytest.approx(2 / 7)  # 12.1 is 3.1 from 9
    # fakes' radii: 4.5 -> 35.5 reaches all
    assert recall == 1
    assert metrics.precision_recall(real, fake[3:]) == (0, 0)


def test_precision_and_recall_fail_apart(real):
    features = metrics.pixels8(real[0])
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    a, b = features[order[:898]], features[order[898:]]
    precision, recall = metrics.precision_recall(a, b)
    assert 0.86 < precision < 0.94 and 0.86 < recall < 0.94  # two halves of the real data
    one_class = features[real[1] == 3]
    precision, recall = metrics.precision_recall(a, one_class)
    assert precision > 0.85 and recall < 0.2  # good images of one digit alone
    blurred = torch.randn(900, 64) * features.std(0) + features.mean(0)
    assert metrics.precision_recall(a, blurred)[0] < 0.3


def test_the_reader_knows_digits_and_says_how_well(real):
    images, labels = real
    reader = metrics.train_reader(images, labels)
    assert 0.97 < reader.accuracy < 0.999  # it reads what it was trained on without a mistake
    assert reader.share_read(images[:100], labels[:100]) > 0.95
    assert reader.share_read(images[:100], (labels[:100] + 1) % 10) < 0.05
    assert reader.share_read(torch.rand(200, 1, 32, 32) * 2 - 1, torch.arange(200) % 10) < 0.3
