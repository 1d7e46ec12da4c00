"""Short runs of the recipes for the mixtures, through the trainer. `make prove` holds the whole ones to their figures."""

import pytest

from ganfast.train.command_line import recipes


@pytest.mark.parametrize(("name", "steps", "modes", "within"), [("ring8", 1200, 8, 0.75), ("grid25", 1800, 25, 0.25)])
def test_a_short_run_finds_every_mode(tmp_path, name, steps, modes, within):
    quiet = {"log_every": steps // 2, "sample_every": steps, "metrics_every": steps, "checkpoint_every": steps}
    trainer = recipes.trainer(recipes.preset(name, run_dir=str(tmp_path / "run"), device="cpu", steps=steps, **quiet))
    trainer.fit(progress_bar=False)
    found = trainer.config.measure(trainer.sample(2500, seed=1))
    assert found["modes"] == modes
    assert found["within_3_sigma"] > within
    assert found["reverse_kl"] < 0.04
    assert trainer.best["name"] == "within_3_sigma" and trainer.best["value"] > within
