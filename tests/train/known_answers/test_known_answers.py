"""Short runs of the recipes for the mixtures, through the trainer. `make prove` holds the whole ones to their figures.

Two processors add in other orders, and a short run of a GAN ends elsewhere for it: the bounds are those that every seed keeps by far, not
what one run reached. Without the penalties grid25 has 15 and 20 modes, divergences of 0.67 and 0.31 and shares of 0.14 and 0.13
(seeds 0 and 1); with them 24 to 25, 0.028 to 0.029 and 0.27 to 0.35 (seeds 0 to 2).
"""

import pytest

from ganfast.train.command_line import presets, recipes


@pytest.mark.parametrize(
    ("name", "steps", "modes", "within", "divergence"),
    [("ring8", 1200, 8, 0.75, 0.04), pytest.param("grid25", 1800, 23, 0.2, 0.08, marks=pytest.mark.prove)],
)
def test_a_short_run_finds_the_modes(tmp_path, name, steps, modes, within, divergence):
    quiet = {"log_every": steps // 2, "sample_every": steps, "metrics_every": steps, "checkpoint_every": steps}
    trainer = recipes.trainer(presets.preset(name, run_dir=str(tmp_path / "run"), device="cpu", steps=steps, **quiet))
    trainer.fit(progress_bar=False)
    found = trainer.config.measure(trainer.sample(2500, seed=1))
    assert found["modes"] >= modes
    assert found["within_3_sigma"] > within
    assert found["reverse_kl"] < divergence
    assert trainer.best["name"] == "within_3_sigma" and trainer.best["value"] > within
