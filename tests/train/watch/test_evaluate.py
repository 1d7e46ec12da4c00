"""Evaluate: what it writes and when, what it keeps as the best, and that training does not notice it."""

import json
import math

import pytest
import torch
from torch import nn

import ganfast
from ganfast.train.command_line import recipes
from ganfast.train.data import folders
from ganfast.train.known_answers.mixtures import MIXTURES
from ganfast.train.saving import checkpoint
from ganfast.train.watch import standard
from ganfast.train.watch.curves import log_rows
from ganfast.train.watch.metrics import SCORES, Evaluate, scores
from tests.train.common import small


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(standard, "default", lambda config: [])


def run(tmp_path, *given, name="run", **changes):
    trainer = recipes.trainer(small(tmp_path / name, **changes), callbacks=given)
    trainer.fit(progress_bar=False)
    return trainer, log_rows(trainer.run_dir / checkpoint.LOG)


def named(feature: str) -> set[str]:
    return {f"{name} ({feature})" for name in SCORES}


def test_the_interval_is_kept_at_log_lines_and_the_last_line_has_numbers(tmp_path):
    trainer, rows = run(tmp_path, Evaluate(4, samples=20), steps=11, log_every=3, condition="none")
    assert [row["step"] for row in rows if named("pixels8") <= row.keys()] == [6, 9, 11]  # first lines from 4 and 8 on, the end
    assert [row["step"] for row in rows] == [3, 6, 9, 11]
    assert trainer.best["name"] == "kid (pixels8)" and trainer.best["step"] in (6, 9, 11)


def test_the_numbers_are_those_of_the_averaged_generator(tmp_path):
    trainer, rows = run(tmp_path, Evaluate(3, samples=30, seed=9), steps=3, log_every=3)
    real, labels = trainer.source.reals(30)
    fake = trainer.sample(30, labels, 9)  # the reals' own labels
    wanted = scores(*(torch.nn.functional.adaptive_avg_pool2d(x, 8).flatten(1) for x in (real, fake)))
    assert {name: rows[-1][f"{name} (pixels8)"] for name in SCORES} == pytest.approx(wanted)
    assert trainer.classes and not torch.equal(fake, trainer.sample(30, None, 9))


def test_a_network_of_ones_own_gives_the_name(tmp_path):
    class Eyes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(256, 6)

        def forward(self, images):
            return self.linear(images.flatten(1))

    eyes = Eyes()
    trainer, rows = run(tmp_path, Evaluate(6, samples=20, features=eyes, best="recall"))
    assert named("Eyes") <= rows[-1].keys() and eyes.training
    assert trainer.best["name"] == "recall (Eyes)"


class Scripted(Evaluate):
    """Gives these numbers in turn."""

    def __init__(self, *values: float, **options):
        super().__init__(1, **options)
        self.values = list(values)

    def measured(self, trainer):
        name = self.best if self.measure else f"{self.best} (pixels8)"
        return {name: self.values.pop(0)}


@pytest.mark.parametrize(
    ("options", "values", "step"),
    [
        ({"best": "kid"}, (3.0, 1.0, 2.0, 1.0), 2),  # the first of equals
        ({"best": "kid"}, (math.nan, 2.0, math.nan, 5.0), 2),
        ({"best": "precision"}, (0.1, 0.5, 0.7, 0.2), 3),
        ({"best": "reverse_kl", "measure": dict}, (0.1, 0.5, -0.7, 0.2), 3),
        ({"best": "modes", "measure": dict}, (1, 5, 7, 8), 4),
    ],
)
def test_the_best_is_kept(tmp_path, options, values, step):
    trainer, _ = run(tmp_path, Scripted(*values, **options), steps=4, log_every=1)
    assert trainer.best["step"] == step and trainer.best["value"] == values[step - 1]
    best = checkpoint.load(trainer.run_dir / checkpoint.BEST)
    assert best["numbers"]["steps"] == step and best["numbers"]["best"] == trainer.best
    json.dumps(trainer.best)


def test_none_best_and_never_finite_keep_nothing(tmp_path):
    for i, callback in enumerate((Evaluate(2, samples=20, best=None), Scripted(math.nan, math.inf, math.nan, best="kid"))):
        trainer, _ = run(tmp_path, callback, name=str(i))
        assert trainer.best is None and not (trainer.run_dir / checkpoint.BEST).exists()


def test_points_are_measured_by_a_function(tmp_path):
    trainer, rows = run(tmp_path, Evaluate(2, samples=50, measure=MIXTURES["ring8"].measure, best="reverse_kl"), data="ring8", noise=0.0)
    assert {"modes", "within_3_sigma", "reverse_kl"} <= rows[-1].keys() and trainer.best["name"] == "reverse_kl"
    with pytest.raises(ValueError, match="best='fid' is unknown; valid: modes, within_3_sigma, reverse_kl"):
        run(tmp_path, Evaluate(2, measure=MIXTURES["ring8"].measure, best="fid"), name="wrong", data="ring8", noise=0.0)


def test_samples_that_are_not_finite_are_nan_and_no_error(tmp_path):
    trainer, rows = run(tmp_path, Evaluate(6, samples=20), steps=2)
    with torch.no_grad():
        next(trainer.ema.parameters()).fill_(math.nan)
    evaluate, row = Evaluate(1, samples=20), {}
    evaluate.on_start(trainer)
    evaluate.on_log(trainer, row)
    assert row.keys() == named("pixels8") and all(math.isnan(value) for value in row.values())
    assert trainer.best["value"] == rows[-1]["kid (pixels8)"]


class Noisy(nn.Module):
    """A generator with a batch norm, a dropout and noise of its own, as some have, from torch's common generator."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop, self.out = nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Dropout(0.2), nn.Linear(64, 64)

    def forward(self, latent):
        x = self.drop(self.norm(self.linear(latent)))
        return torch.tanh(self.out(x + 0.1 * torch.randn_like(x))).view(-1, 1, 8, 8)


class Looking(nn.Module):
    """Features that draw too, and count in training mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)

    def forward(self, images):
        return (self.drop(self.norm(images)) + 0.01 * torch.randn_like(images)).flatten(1)


def everything(trainer) -> list[torch.Tensor]:
    states = [trainer.generator.state_dict(), trainer.discriminator.state_dict(), trainer.ema.state_dict()]
    tensors = [value for state in states for value in state.values()]
    moments = [v for o in trainer.optimizers.values() for s in o.state.values() for v in s.values()]
    return [*tensors, *moments, trainer.draws.generator.get_state(), torch.get_rng_state()]


def test_training_does_not_notice(tmp_path):
    results, modes = [], []
    for i in range(2):
        torch.manual_seed(3)
        generator, discriminator = Noisy(), nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 1))
        looking = Looking()
        images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
        config = ganfast.TrainConfig(run_dir=None, latent_dim=4, batch_size=8, steps=12, log_every=3, precision="fp32")
        given = [Evaluate(1, samples=40), Evaluate(1, samples=30, features=looking, best=None)] if i else []
        trainer = ganfast.Trainer(generator, discriminator, images, config, callbacks=given)
        torch.manual_seed(4)
        trainer.fit(progress_bar=False)
        results.append(everything(trainer))
        modes.append([m.training for network in (generator, discriminator, trainer.ema) for m in network.modules()])
        assert looking.norm.num_batches_tracked == 0
    assert len(results[0]) == len(results[1]) > 20 and modes[0] == modes[1]
    assert [i for i, (a, b) in enumerate(zip(*results)) if not torch.equal(a, b)] == []


def test_a_resumed_run_measures_where_the_whole_one_does(tmp_path):
    changes = {"steps": 12, "log_every": 3, "checkpoint_every": 4, "keep_checkpoints": 9, "sample_every": 100, "condition": "none"}
    whole, rows = run(tmp_path, Evaluate(5, samples=20), name="whole", **changes)
    generator, discriminator = recipes.networks(small(tmp_path / "x", **changes), 0)
    data = folders.images_of("digits", 16, 1)
    resumed = ganfast.Trainer.load(
        whole.run_dir / "checkpoint-0000004.pt", generator, discriminator, data.images, callbacks=[Evaluate(5, samples=20)],
        config=ganfast.TrainConfig(run_dir=None, **{n: getattr(whole.config, n) for n in ("steps", "log_every", "batch_size", "latent_dim",
                                                                                      "precision", "noise", "fused")}),
    )  # fmt: skip
    seen = []
    resumed.callbacks[0].measured = lambda trainer, measured=resumed.callbacks[0].measured: seen.append(trainer.steps) or measured(trainer)
    resumed.fit(progress_bar=False)
    assert seen == [row["step"] for row in rows if "kid (pixels8)" in row and row["step"] > 4] == [6, 12]
    assert resumed.best == whole.best


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every got 0, wants a whole number"),
        ({"every": True}, "every got True"),
        ({"samples": 0}, "samples got 0"),
        ({"best": "fdi"}, "best='fdi' is unknown; valid: precision, recall, kid, fid. Did you mean 'fid'"),
        ({"features": "pixels8", "measure": dict}, "features and measure were given, wants one of them"),
    ],
)
def test_bad_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Evaluate(**{"every": 5} | options)
