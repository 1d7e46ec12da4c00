"""The settings: saved and read back whole, refused when they make no sense."""

import copy
import dataclasses
import inspect
import pickle

import pytest

from ganfast.train import TrainConfig
from ganfast.train import config as configs
from ganfast.train.command_line import presets, recipes
from ganfast.train.command_line.recipes import Recipe
from ganfast.train.saving import checkpoint
from tests.train.common import small, trained


def test_a_run_keeps_its_settings(tmp_path):
    trainer = trained(tmp_path, steps=1, betas=(0.1, 0.2), max_seconds=60, loss="hinge", thresholds={"warm_up": 7})
    assert configs.load(tmp_path / checkpoint.CONFIG, Recipe) == trainer.config
    assert trainer.config.thresholds.warm_up == 7


def test_channels_and_networks_follow_the_data():
    assert (Recipe().channels, Recipe(data="photos").channels, Recipe(data="photos", channels=1).channels) == (1, 3, 1)
    assert (Recipe().model, Recipe(data="ring8").model, Recipe(data="ring8").condition) == ("dcgan", "mlp", "none")


@pytest.mark.parametrize("name", ["digits", "ring8", "grid25", "photos"])
def test_presets_are_settings(name):
    assert presets.preset(name, seed=3).data == name and presets.preset(name, seed=3).seed == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "Recipe: steps got 0, wants at least 1"),
        ({"seed": -1}, "seed got -1"),
        ({"batch_size": 1}, "batch_size got 1, wants at least 2"),
        ({"smoothing": 0.1, "loss": "hinge"}, "smoothing got 0.1, wants 0 for hinge"),
        ({"r1": -1.0}, "r1 got -1.0"),
        ({"penalty_end": 0.0}, "penalty_end got 0.0"),
        ({"discriminator_learning_rate": 0.0}, "discriminator_learning_rate got 0.0"),
        ({"latent_shape": (0, 1)}, "latent_shape got"),
        ({"data": "ring8", "model": "dcgan"}, "model got 'dcgan', wants mlp for ring8"),
        ({"augment": "colour"}, "augment"),
        ({"image_size": 48}, "image_size got 48, wants a power of two"),
        ({"channels": 2}, "channels got 2, wants 1"),
        ({"learning_rate": float("nan")}, "learning_rate got nan"),
        ({"betas": (0.5, 1.0)}, "betas got"),
        ({"ema": 1.0}, "ema got 1.0"),
        ({"noise": -0.1}, "noise got -0.1"),
        ({"max_seconds": 0}, "max_seconds got 0"),
        ({"decay_from": 1.5}, "decay_from got 1.5"),
        ({"loss": "hinges"}, "Did you mean 'hinge'"),
        ({"precision": "float16"}, "precision='float16' is unknown"),
        ({"decay": "linaer"}, "Did you mean 'linear'"),
    ],
)
def test_senseless_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps", 2.5, "steps got 2.5, wants int"),
        ("n_critic", True, "n_critic got True, wants int"),
        ("learning_rate", "1e-3", "learning_rate got '1e-3', wants float"),
        ("flip", "no", "flip got 'no', wants bool"),
        ("betas", 0.5, "betas got 0.5"),
        ("betas", (0.5,), "betas got"),
        ("latent_shape", 16, "latent_shape got 16"),
        ("latent_shape", (16.0,), "latent_shape got"),
        ("augment", ["color"], "augment got"),
        ("run_dir", 5, "run_dir got 5"),
        ("ema", None, "ema got None"),
        ("max_seconds", "1", "max_seconds got '1'"),
    ],
)
def test_settings_of_another_type_are_refused_also_when_assigned_later(name, value, words):
    with pytest.raises(TypeError, match=words):
        TrainConfig(**{name: value})
    config = TrainConfig()
    setattr(config, name, value)
    with pytest.raises(TypeError, match=words):
        config.check()


def test_a_misspelt_setting_is_refused():
    config = TrainConfig()
    with pytest.raises(ValueError, match="Did you mean 'n_critic'"):
        config.n_critics = 5
    config.betas, config.latent_shape = [0.5, 0.9], [100, 1, 1]
    assert config == TrainConfig(betas=(0.5, 0.9), latent_shape=(100, 1, 1))


def test_what_is_no_setting_is_told_in_words():
    """Where it is an argument of something else, that is named; also at an assignment."""
    elsewhere = r"Trainer\(generator, discriminator, data, config, condition=...\)"
    with pytest.raises(TypeError, match="TrainConfig: condition is no setting, but an argument elsewhere: " + elsewhere):
        TrainConfig(condition=True)
    with pytest.raises(TypeError, match=r"Trainer\(generator, discriminator, data, config\)"):
        TrainConfig(data="digits")
    with pytest.raises(TypeError, match=r"image_size is no setting.*source_of\(data, batch_size=..., image_size=...\)"):
        TrainConfig(image_size=64)
    for kind in (TrainConfig, Recipe):
        with pytest.raises(TypeError, match="Did you mean 'steps'"):
            kind(stpes=3)
    with pytest.raises(ValueError, match=elsewhere):
        TrainConfig().condition = True
    assert Recipe(condition="label").condition == "label"
    assert "steps" in inspect.signature(TrainConfig).parameters and "data" in inspect.signature(Recipe).parameters
    assert dataclasses.replace(TrainConfig(), steps=3) == copy.deepcopy(pickle.loads(pickle.dumps(TrainConfig(steps=3))))


def test_an_unknown_device_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="device got 'gpu7'"):
        recipes.trainer(small(tmp_path / "run", device="gpu7"))
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    texts = {"{": "cannot be read", "[1]": "wants an object", '{"step": 3}': "Did you mean 'steps'"}
    texts |= {'{"steps": "3"}': "wrong type", '{"betas": 1}': "wrong type"}
    for text, words in texts.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            configs.load(path)
    with pytest.raises(ValueError, match="cannot be read"):
        configs.load(tmp_path / "absent.json")


def test_every_setting_survives_the_trip():
    for kind in (TrainConfig, Recipe):
        values = configs.to_dict(kind())
        assert list(values) == [field.name for field in dataclasses.fields(kind)]
        assert configs.from_dict(values, kind) == kind()


def test_penalties_fall_geometrically():
    config = TrainConfig(r1=2.0, r2=1.0, penalty_end=0.25, mode_seeking=0.5)
    rest = {"gradient_penalty": 0.0, "mode_seeking": 0.5, "path_length": 0.0}
    for progress, r1, r2 in ((0.0, 2.0, 1.0), (0.5, 1.0, 0.5), (1.0, 0.5, 0.25)):
        assert config.weights(progress) == pytest.approx({"r1": r1, "r2": r2} | rest)


def test_the_learning_rate_falls_in_either_shape():
    straight, cosine = TrainConfig(decay_from=0.5), TrainConfig(decay_from=0.0, decay="cosine")
    assert [straight.fall(p) for p in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]
    assert [cosine.fall(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert TrainConfig(decay_from=1.0).fall(0.99) == 1
