"""The settings: saved and read back whole, refused when they make no sense."""

import dataclasses

import pytest

from ganfast.train import TrainConfig, Trainer, checkpoint
from ganfast.train import config as configs
from tests.train.common import small


def test_round_trip(tmp_path):
    config = TrainConfig(run_dir="x", steps=7, betas=(0.1, 0.2), max_seconds=3.5, loss="hinge", fused=False)
    configs.save(config, tmp_path / "config.json")
    assert configs.load(tmp_path / "config.json") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_run_keeps_its_settings(tmp_path):
    Trainer(small(tmp_path))
    assert configs.load(tmp_path / checkpoint.CONFIG) == small(tmp_path)


def test_channels_follow_the_data():
    assert (TrainConfig().channels, TrainConfig(data="photos").channels, TrainConfig(data="photos", channels=1).channels) == (1, 3, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps got 0, wants at least 1"),
        ({"batch_size": 1}, "batch_size got 1, wants at least 2"),
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
    ],
)
def test_senseless_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**changes)


def test_an_unknown_device_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="device got 'gpu7'"):
        Trainer(small(tmp_path / "run", device="gpu7"))
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    texts = {"{": "cannot be read", "[1]": "wants an object", '{"step": 3}': "Did you mean 'steps'", '{"steps": "3"}': "wrong type"}
    for text, words in texts.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            configs.load(path)
    with pytest.raises(ValueError, match="cannot be read"):
        configs.load(tmp_path / "absent.json")


def test_every_setting_survives_the_trip():
    values = configs.to_dict(TrainConfig())
    assert list(values) == [field.name for field in dataclasses.fields(TrainConfig)]
    assert configs.from_dict(values) == TrainConfig()
