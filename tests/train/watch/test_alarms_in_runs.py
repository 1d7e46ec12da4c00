"""Each alarm provoked by training: what is wrong with a run is done to it, and it says so; a healthy run says nothing."""

from collections import defaultdict

import pytest
import torch
from torch import nn

import ganfast
from ganfast.models import DCGANDiscriminator, DCGANGenerator
from ganfast.train.data import folders
from ganfast.train.watch.alarms import ALARMS, Thresholds

QUICK = Thresholds(warm_up=60, patience_steps=40)
SMALL = {"steps": 200, "batch_size": 32, "latent_dim": 32, "log_every": 10, "precision": "fp32", "fused": False, "thresholds": QUICK}


@pytest.fixture(scope="module")
def digits():
    return folders.images_of("digits", 16, 1).images


def train(images, *, width=8, norm=True, wrap=lambda generator: generator, callbacks=(), **settings):
    """({alarm: the steps of the lines where it was on}, the log's rows)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, discriminator = DCGANGenerator(16, 32, width, 1), DCGANDiscriminator(16, width, 1, norm=norm)
    rows, on = [], defaultdict(list)
    config = ganfast.TrainConfig(**SMALL | settings)
    trainer = ganfast.Trainer(wrap(generator), discriminator, images, config, callbacks=[lambda _, row: rows.append(row), *callbacks])
    trainer.fit(progress_bar=False)
    for row in rows:
        for name in row["alarms"]:
            on[name].append(row["step"])
    return on, rows


class Deaf(nn.Module):
    """Answers every latent with the same image."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent):
        return self.generator(torch.ones_like(latent))


def test_a_generator_that_ignores_its_latent(digits, capsys):
    on, rows = train(digits, wrap=Deaf, steps=130)
    assert on["mode_collapse"][0] == 100 and rows[-1]["spread"] == 0
    assert "step 100, mode_collapse: The generator's images are 0 % as diverse as real ones; it draws" in capsys.readouterr().out


def test_a_generator_that_collapses(digits):
    """Against a discriminator that hardly moves there is one best image, and all latents go there."""
    on, rows = train(digits, learning_rate=2e-3, discriminator_learning_rate=1e-7)
    assert "mode_collapse" in on and rows[-1]["spread"] < 0.25 and "overshoot" in on, "it is always ahead"
    assert not {"perfect_discriminator", "overfitting", "vanishing_gradient", "non_finite"} & set(on)


@pytest.mark.parametrize(("loss", "sign"), [("nonsaturating", "gradient_ratio"), ("minimax", "vanishing_gradient")])
def test_a_perfect_discriminator(loss, sign):
    """Real images that a generator which stands still will never draw."""
    white = torch.randint(240, 256, (500, 1, 16, 16), dtype=torch.uint8)
    on, rows = train(white, loss=loss, learning_rate=1e-9, discriminator_learning_rate=1e-3)
    assert on["perfect_discriminator"][0] == 100 and rows[-1]["real_accuracy"] == rows[-1]["fake_accuracy"] == 1
    assert sign in on and ({"gradient_ratio", "vanishing_gradient"} - {sign}).isdisjoint(on)
    assert not {"mode_collapse", "overshoot", "non_finite"} & set(on)


_LATE = {"width": 16, "steps": 400, "thresholds": Thresholds(warm_up=300, patience_steps=60)}


def test_few_images_are_learned_by_heart(digits):
    on, _ = train(digits[:16], **_LATE)
    assert "overfitting" in on and set(on) <= {"overfitting", "perfect_discriminator"}


@pytest.mark.prove
def test_as_many_steps_on_many_images_do_no_harm(digits):
    assert not train(digits, **_LATE)[0]


def test_a_learning_rate_too_high(digits):
    on, rows = train(digits, norm=False, r1=1.0, learning_rate=0.3)
    assert "overshoot" in on and max(row["loss_d"] for row in rows[10:]) > 3


def test_a_learning_rate_that_becomes_too_high(digits):
    def too_fast(trainer, row):
        if row["step"] == 160:
            trainer.rates["discriminator"] = 0.3

    on, rows = train(digits, norm=False, r1=1.0, steps=220, decay_from=1.0, callbacks=[too_fast])
    assert on["penalty_spike"][0] > 160 and rows[-1]["r1"] > 10 * rows[15]["r1"]


def test_nan_in_the_data(digits, capsys):
    images = digits.float() / 127.5 - 1
    images[100::200] = torch.nan
    with pytest.warns(UserWarning, match="9 of 1797 entries"):
        on, rows = train(images, steps=150)
    assert on["non_finite"][-1] == 150 and sum(row["skipped"] for row in rows) > 10
    assert "in a gradient; an update is skipped whole, and nothing is learned from it: look for nan" in capsys.readouterr().out
    assert all(row["loss_d"] < 10 for row in rows), "the rest is learned from"


_PENALISED = {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "norm": False, "penalty_every": 8}


@pytest.mark.parametrize("settings", [{"noise": 0.3}, pytest.param(_PENALISED, marks=pytest.mark.prove)])
def test_a_healthy_run_raises_none(digits, settings):
    """With the thresholds as they come."""
    on, rows = train(digits, width=12, steps=700, log_every=25, thresholds=Thresholds(), **settings)
    assert not on and rows[-1]["spread"] > 0.7
    assert len(ALARMS) == 9 and {"real_sign", "grad_d", "grad_g", "grad_from_d", "spread", "skipped"} <= rows[-1].keys(), "all were judged"
