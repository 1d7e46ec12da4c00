"""The mixtures are the published ones, and the three numbers are right where the answer is known."""

import math

import pytest
import torch
from PIL import Image

from ganfast.train.known_answers.mixtures import MIXTURES, Mixture
from ganfast.train.watch import grids

REAL_WITHIN = 1 - math.exp(-4.5)  # of a round Gaussian in the plane


def test_the_published_mixtures():
    ring, grid = MIXTURES["ring8"], MIXTURES["grid25"]
    assert ring.sigma == 0.01 and ring.centres.shape == (8, 2)
    torch.testing.assert_close(ring.centres[[0, 1, 2]], torch.tensor([[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]]), rtol=0, atol=1e-7)
    torch.testing.assert_close(ring.centres.norm(dim=1), torch.ones(8))
    assert grid.sigma == 0.05 and sorted(map(tuple, grid.centres.tolist())) == [(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)]


@pytest.mark.parametrize("name", MIXTURES)
def test_the_mixture_recognises_its_own_samples(name):
    mixture, n = MIXTURES[name], 200_000
    points = mixture.sample(n, torch.Generator().manual_seed(1))
    assert points.shape == (n, 2) and points.dtype == torch.float32
    found = mixture.measure(points)
    modes = len(mixture.centres)
    assert found["modes"] == modes
    assert found["within_3_sigma"] == pytest.approx(REAL_WITHIN, abs=4 * (REAL_WITHIN * (1 - REAL_WITHIN) / n) ** 0.5)
    assert 0 <= found["reverse_kl"] < 3 * (modes - 1) / (2 * n)
    which, _ = mixture.nearest(points)
    for i in (0, modes - 1):  # every mode is round, of the width that is told
        mine = points[which == i].double()
        assert (mine.mean(0) - mixture.centres[i]).abs().max() < 5 * mixture.sigma / len(mine) ** 0.5
        torch.testing.assert_close(mine.std(0), torch.full((2,), mixture.sigma, dtype=torch.float64), rtol=0.03, atol=0)


def test_samples_depend_on_the_generator_alone():
    mixture = MIXTURES["ring8"]
    first, again, other = (mixture.sample(50, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_hand_made_points():
    mixture = Mixture(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]), 1.0)
    inside, beyond = 2.99, 3.01
    points = torch.tensor([[inside, 0.0], [0.0, -inside], [10 + beyond, 0.0], [10.0, inside], [2.1, 12.1], [5.1, 4.8]])
    found = mixture.measure(points)  # nearest: 0, 0, 1, 1, 2, 1; good: the first, second, fourth and (diagonal) fifth
    assert found["modes"] == 3
    assert found["within_3_sigma"] == pytest.approx(4 / 6)
    shares = [2 / 6, 3 / 6, 1 / 6]
    assert found["reverse_kl"] == pytest.approx(sum(q * math.log(4 * q) for q in shares))


def test_a_corner_is_not_within_3_sigma():
    mixture = Mixture(torch.zeros(1, 2), 1.0)  # each coordinate is, the distance is not
    assert mixture.measure(torch.tensor([[2.5, 2.5]])) == {"modes": 0, "within_3_sigma": 0.0, "reverse_kl": 0.0}


def test_collapse_to_one_mode():
    for mixture in MIXTURES.values():
        found = mixture.measure(mixture.centres[3].repeat(100, 1))
        assert found["modes"] == 1 and found["within_3_sigma"] == 1
        assert found["reverse_kl"] == pytest.approx(math.log(len(mixture.centres)))


def test_half_of_the_modes_missing():
    mixture = MIXTURES["ring8"]
    found = mixture.measure(mixture.centres[::2].repeat(25, 1))
    assert found["modes"] == 4 and found["reverse_kl"] == pytest.approx(math.log(2))


def test_points_that_are_no_numbers_are_misses():
    mixture = MIXTURES["ring8"]
    points = mixture.centres.repeat(2, 1)
    points[8:, 0], points[12:, 0] = math.nan, -math.inf
    found = mixture.measure(points)
    assert found == {"modes": 8, "within_3_sigma": 0.5, "reverse_kl": 0.0}
    nothing = mixture.measure(torch.full((5, 2), math.nan))
    assert nothing["modes"] == 0 and nothing["within_3_sigma"] == 0 and nothing["reverse_kl"] == pytest.approx(math.log(8))


@pytest.mark.parametrize("points", [torch.zeros(4), torch.zeros(4, 3), torch.zeros(0, 2)])
def test_other_shapes_are_refused(points):
    with pytest.raises(ValueError, match=r"points got .* wants \[N, 2\]"):
        MIXTURES["ring8"].measure(points)


def test_the_picture_shows_both_and_says_what_it_is(tmp_path):
    mixture = MIXTURES["grid25"]
    real = mixture.sample(500, torch.Generator().manual_seed(0))
    grids.scatter(tmp_path / "a.png", mixture.centres[:1].repeat(9, 1), real, grids.about("the model", 5))
    with Image.open(tmp_path / "a.png") as found:
        assert found.text["Synthetic"].startswith("yes") and found.text["Model"] == "the model" and found.text["Seed"] == "5"
        colours = {pixel[:3] for _, pixel in found.convert("RGB").getcolors(1 << 24)}
    assert any(r > 180 and g < 120 for r, g, _ in colours) and any(r == g == b and 150 < r < 200 for r, g, b in colours)
