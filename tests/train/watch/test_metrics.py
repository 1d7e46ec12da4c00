"""Precision and recall, Frechet and kernel distances on sets whose answer is known, and the classifier that reads digits."""

import math

import pytest
import torch

from ganfast.train.data import digits, to_float
from ganfast.train.watch import metrics


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


def gaussian(n: int, mean, deviation, rotation=None) -> torch.Tensor:
    """[n, D] whose moments are exactly these: whitened, then scaled and turned."""
    d = len(mean)
    x = torch.randn(n, d, dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1)).T)
    x = x * torch.tensor(deviation, dtype=torch.float64)
    return (x if rotation is None else x @ rotation.T) + torch.tensor(mean, dtype=torch.float64)


def test_the_frechet_distance_of_known_gaussians():
    a, b = gaussian(200, [0, 0, 0], [1, 2, 3]), gaussian(300, [1, 2, 0], [2, 2, 1])
    assert metrics.frechet_distance(a, b) == pytest.approx(1 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, rel=1e-9)  # axes apart
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # Covariances that do not commute: trace of the root by the eigenvalues of the product.
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    c = gaussian(300, [0, 0, 0], [0.5, 1, 2], turn)
    products = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(c.T)).real
    wanted = (torch.cov(a.T).trace() + torch.cov(c.T).trace() - 2 * products.sqrt().sum()).item()
    assert metrics.frechet_distance(a, c) == pytest.approx(wanted, rel=1e-9)
    assert metrics.frechet_distance(c, a) == pytest.approx(wanted, rel=1e-9)


def test_the_frechet_distance_without_an_inverse():
    """Fewer samples than features, and features that never change: against the same sets where all can be inverted."""
    few, more = torch.randn(5, 12, dtype=torch.float64), torch.randn(7, 12, dtype=torch.float64) * 2
    assert metrics.frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    cov_a, cov_b = torch.cov(few.T), torch.cov(more.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace = cov_a.trace() + cov_b.trace() - 2 * torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    wanted = (few.mean(0) - more.mean(0)).square().sum() + trace
    assert metrics.frechet_distance(few, more) == pytest.approx(wanted.item(), rel=1e-6)
    flat = torch.zeros(50, 3)
    assert metrics.frechet_distance(flat, flat + 2) == pytest.approx(12)
    x = torch.randn(50, 3)
    padded = [torch.cat([y, torch.zeros(50, 4)], 1) for y in (x, 2 * x + 1)]
    assert metrics.frechet_distance(*padded) == pytest.approx(metrics.frechet_distance(x, 2 * x + 1), rel=1e-9)


def test_float32_features_lose_nothing():
    x = torch.randn(400, 8) * 1e-3 + 100
    assert metrics.frechet_distance(x[:200], x[200:]) < 1e-5  # squares of 100 in float32 would be off by 1e-3


def test_the_kernel_distance_by_hand():
    x, y = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([[2.0, 0], [0, 0]])
    kernel = lambda a, b: (sum(p * q for p, q in zip(a.tolist(), b.tolist())) / 2 + 1) ** 3
    within = lambda s: sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
    between = sum(kernel(a, b) for a in x for b in y) / 6
    assert metrics.kernel_distance(x, y) == pytest.approx(within(x) + within(y) - 2 * between)


def test_the_kernel_distance_has_no_bias():
    halves = [metrics.kernel_distance(*torch.randn(2, 40, 6)) for _ in range(300)]
    mean, error = sum(halves) / 300, torch.tensor(halves).std().item() / math.sqrt(300)
    assert abs(mean) < 4 * error and min(halves) < 0  # equal distributions: 0 on average
    assert metrics.kernel_distance(torch.randn(200, 6), torch.randn(200, 6) + 1) > 20 * error


def test_subsets_estimate_the_same():
    x, y = torch.randn(900, 4), torch.randn(700, 4) * 1.2 + 0.3
    whole = metrics.kernel_distance(x, y)
    some = metrics.kernel_distance(x, y, subsets=100, subset_size=200)
    assert some == pytest.approx(whole, rel=0.1) and some != whole
    assert some == metrics.kernel_distance(x, y, subsets=100, subset_size=200)
    assert some != metrics.kernel_distance(x, y, subsets=100, subset_size=200, seed=1)
    assert metrics.kernel_distance(x, y, subsets=1, subset_size=899) == pytest.approx(whole, rel=0.3)  # of the smaller set all


@pytest.mark.parametrize("measure", [metrics.precision_recall, metrics.frechet_distance, metrics.kernel_distance])
def test_sets_that_cannot_be_compared(measure):
    good = torch.randn(9, 3)
    for real, fake, words in [
        (good, good[:, :2], "real has 3 features, fake 2"),
        (good, good[:1], r"fake has shape \[1, 3\], wants features \[N, D\] of at least"),
        (good[:, :, None], good, r"real has shape \[9, 3, 1\]"),
        (good, good * math.nan, "fake holds values that are inf or NaN"),
    ]:
        with pytest.raises(ValueError, match=words):
            measure(real, fake)


def test_the_reader_knows_digits_and_says_how_well(real):
    images, labels = real
    reader = metrics.train_reader(images, labels)
    assert 0.97 < reader.accuracy < 0.999  # it reads what it was trained on without a mistake
    assert reader.share_read(images[:100], labels[:100]) > 0.95
    assert reader.share_read(images[:100], (labels[:100] + 1) % 10) < 0.05
    assert reader.share_read(torch.rand(200, 1, 32, 32) * 2 - 1, torch.arange(200) % 10) < 0.3
