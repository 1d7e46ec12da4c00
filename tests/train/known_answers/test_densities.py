"""The theory of GANs where it can be computed: closed forms, the optimal discriminator found by training, the game's equilibrium."""

import math

import pytest
import torch
from PIL import Image
from torch import nn

from ganfast.train.known_answers import densities
from ganfast.train.known_answers.densities import CELL, DATA, EQUILIBRIUM, FIXED, Bumps, X
from ganfast.train.watch import grids

P, Q = DATA.density(), FIXED.density()


def normal(mean: float, sigma: float) -> torch.Tensor:
    return Bumps((mean,), (sigma,), (1.0,)).density()


def test_densities_have_mass_1_and_samples_follow_them():
    for bumps in (DATA, FIXED):
        density = bumps.density()
        assert density.sum().item() * CELL == pytest.approx(1, abs=1e-5)
        samples = bumps.sample(100_000, torch.Generator().manual_seed(1))[:, 0].double()
        for power in (1, 2, 3):
            assert samples.pow(power).mean() == pytest.approx((density * X**power).sum().item() * CELL, abs=0.05)


def test_divergences_in_closed_form():
    assert densities.kullback_leibler(normal(0, 1), normal(1, 1)) == pytest.approx(0.5, abs=1e-4)
    assert densities.kullback_leibler(normal(0, 0.5), normal(0, 1)) == pytest.approx(math.log(2) + 1 / 8 - 1 / 2, abs=1e-6)
    assert densities.kullback_leibler(normal(0, 1), normal(0, 0.5)) == pytest.approx(-math.log(2) + 2 - 1 / 2, abs=1e-4)
    assert densities.jensen_shannon(P, P) == pytest.approx(0, abs=1e-12)
    assert densities.jensen_shannon(normal(-4, 0.1), normal(4, 0.1)) == pytest.approx(math.log(2), abs=1e-9)
    assert densities.jensen_shannon(P, Q) == densities.jensen_shannon(Q, P) > 0.05
    left = torch.where(X < 0, 2 / 12 * torch.ones_like(X), 0.0)
    assert densities.kullback_leibler(left, torch.full_like(X, 1 / 12)) == pytest.approx(math.log(2))
    assert densities.kullback_leibler(torch.full_like(X, 1 / 12), left) == math.inf


def test_the_optimal_discriminator_has_the_largest_value():
    best = (P / Q).log()
    assert densities.value(P, Q, best) == pytest.approx(densities.bound(P, Q), abs=1e-6)
    assert densities.optimal_discriminator(P, Q).equal(P / (P + Q))
    for change in (0.1, -0.1, 0.2 * X.sin()):
        assert densities.value(P, Q, best + change) < densities.bound(P, Q) - 1e-3


def test_at_equilibrium():
    assert (densities.optimal_discriminator(P, P) == 0.5).all()
    assert densities.bound(P, P) == pytest.approx(-math.log(4)) == pytest.approx(densities.value(P, P, torch.zeros_like(X)), abs=1e-5)


def test_no_discriminator_is_needed_where_the_densities_are_apart():
    left, right = (torch.where(side, 2 / 12 * torch.ones_like(X), 0.0) for side in (X < 0, X > 0))
    assert densities.value(left, right, (left / right).log()) == pytest.approx(0) == pytest.approx(densities.bound(left, right))
    nowhere = torch.zeros_like(X)
    assert (densities.optimal_discriminator(nowhere, nowhere) == 0.5).all()


@pytest.mark.parametrize(("slope", "shift"), [(0.5, 1.0), (-1.2, -0.5)])
def test_what_a_linear_generator_makes_of_normal_latents(slope, shift):
    generator = nn.Linear(1, 1)
    with torch.no_grad():
        generator.weight.fill_(slope)
        generator.bias.fill_(shift)
    pushed = densities.pushed(generator)
    assert pushed.sum().item() * CELL == pytest.approx(1, abs=1e-5)
    assert (pushed - normal(shift, abs(slope))).abs().max() < 1e-3


def test_latents_that_a_generator_folds_add_up():
    class Fold(nn.Linear):
        def forward(self, z):
            return z.abs()

    twice = 2 * normal(0, 1) * (X > 0)
    assert (densities.pushed(Fold(1, 1)) - twice).abs().max() < 1e-3


def logit_error(logits: torch.Tensor) -> float:
    return densities.mean_error(P, Q, logits.sigmoid())


def test_a_trained_discriminator_approaches_the_ratio():
    logits = densities.logits_of(densities.fit_discriminator(steps=800))
    assert logit_error(logits) < 0.015
    assert densities.bound(P, Q) - 0.002 < densities.value(P, Q, logits) <= densities.bound(P, Q)
    assert logit_error(torch.zeros_like(X)) > 0.15 < logit_error(-logits)  # knowing nothing, real and fake swapped


def test_what_least_squares_find():
    least_squares = densities.logits_of(densities.fit_discriminator(kind="lsgan", steps=800))
    assert densities.mean_error(P, Q, least_squares) < 0.015


@pytest.mark.prove
def test_what_pairs_find():
    paired = densities.logits_of(densities.fit_discriminator(kind="relativistic", steps=800))
    constant = ((paired - (P / Q).log()) * (P + Q)).sum() / (P + Q).sum()
    assert logit_error(paired - constant) < 0.015


def test_smoothed_targets_give_another_discriminator():
    logits = densities.logits_of(densities.fit_discriminator(smoothing=0.2, steps=800))
    assert densities.mean_error(P, Q, logits.sigmoid()) > 0.07
    smoothed = 0.8 * P / (P + Q)  # E_p [0.8 log D + 0.2 log(1 - D)] + E_q log(1 - D)
    assert ((logits.sigmoid() - smoothed).abs() * (P + Q) / 2).sum().item() * CELL < 0.015


@pytest.mark.prove
def test_the_game_comes_to_its_equilibrium(tmp_path):
    trainer, rows = densities.play(steps=500, every=25)
    first, last = rows[0], rows[-1]
    assert [row["step"] for row in rows] == list(range(25, 501, 25))
    assert last["js"] < 0.02 < first["js"] and last["kl_model_data"] < 0.08 < first["kl_model_data"]
    assert abs(last["value"] - EQUILIBRIUM) < 0.003 < abs(first["value"] - EQUILIBRIUM)
    assert all(row["value"] <= row["bound"] for row in rows) and last["bound"] == pytest.approx(EQUILIBRIUM + 2 * last["js"])
    points = trainer.sample(20_000, seed=1)[:, 0].double()  # by counting, as a check of the sums
    assert (points > -0.4).double().mean() == pytest.approx((densities.pushed(trainer.ema) * (X > -0.4)).sum().item() * CELL, abs=0.02)
    assert (points > -0.4).double().mean() == pytest.approx(0.6, abs=0.06)

    densities.picture(tmp_path / "a.png", P, Q, densities.optimal_discriminator(P, Q), rows, grids.about("the model", 5))
    with Image.open(tmp_path / "a.png") as found:
        assert found.text["Synthetic"].startswith("yes") and found.width > 2 * found.height
