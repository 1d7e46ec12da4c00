"""The demo's parts at toy size: every file it promises, and figures that come from what was measured."""

import json

import pytest
import torch
from PIL import Image

from ganfast import demo
from tests.train.common import SMALL, small, trained

PROMISED = {"samples.png", "learning.gif", "interpolation.gif", "curves.png", "report.json", "report.md"}
WEIGHTS = {"ema.safetensors", "generator.safetensors", "discriminator.safetensors"}
FILES = PROMISED | WEIGHTS | {"checkpoint-0000003.pt", "config.json", "kernels.json", "log.jsonl", "grids", demo.MARKER}


@pytest.fixture
def quick(monkeypatch):
    generator = {"batch": 16, "seconds": {"eager": 0.3, "ganfast": 0.2}, "errors": {"eager": 1e-6, "ganfast": 2e-6}}
    monkeypatch.setattr(demo, "compare_generator", lambda device: generator)
    monkeypatch.setattr(demo, "compare_loops", lambda config: {"eager": 100.0, "ganfast": 150.0})


def test_it_leaves_what_it_promises_and_can_be_run_again(tmp_path, quick):
    config = small(tmp_path / "demo", steps=3, sample_every=1, max_seconds=60, learning_rate=0.02, decay_from=1.0)
    for _ in range(2):
        report = demo.run_demo(config)
        assert {path.name for path in (tmp_path / "demo").iterdir() if path.name[0] != "." or path.name == demo.MARKER} == FILES
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["steps"] == 3
    assert report["assessment"]["reader_accuracy_on_held_out_real"] > 0.95
    text = (tmp_path / "demo" / "report.md").read_text()
    assert "Synthetic" in text and "0.75, MISSED" in text and "150 / 100 = 1.50x" in text and "300 / 200 = 1.50x" in text
    for name in ("samples.png", "curves.png"):
        with Image.open(tmp_path / "demo" / name) as image:
            assert image.text["Synthetic"].startswith("yes") and "step 3" in image.text["Model"]
    with Image.open(tmp_path / "demo" / "samples.png") as image:
        assert image.size == (4 * (10 * 18 + 2),) * 2 and image.text["Seed"] == "1"
    with Image.open(tmp_path / "demo" / "learning.gif") as image:
        assert image.n_frames == 3 and b"Synthetic" in image.info["comment"]


def test_files_of_others_are_left_alone(tmp_path, quick):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    demo.run_demo(small(tmp_path / "demo", steps=1, max_seconds=60))
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "mine"


def test_a_run_that_is_no_demo_is_refused(tmp_path, quick, monkeypatch, capsys):
    trained(tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint-0000006.pt").read_bytes()
    monkeypatch.setattr("sys.argv", ["demo", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        demo.main()
    assert stop.value.code == 2 and "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint-0000006.pt").read_bytes() == before


def test_goals_reached_and_missed():
    assessment = {"samples": 10, "precision": 0.61, "recall": 0.74, "digit_read": 0.95, "real_halves": (0.9, 0.9)}
    found = demo.markdown(
        {
            "machine": "m", "steps": 1, "train_seconds": 1.0, "real_accuracy": 0.5, "fake_accuracy": 0.5,
            "images_per_second": {"eager": 1.0, "ganfast": 1.0},
            "generator": {"batch": 1, "seconds": {"eager": 1.0, "ganfast": 1.0}, "errors": {"eager": 1.0, "ganfast": 1.0}},
            "assessment": assessment | {"reader_accuracy_on_held_out_real": 0.99},
        }
    )  # fmt: skip
    assert "0.610 | 0.60, reached" in found and "0.740 | 0.75, MISSED" in found and "0.950 | 0.95, reached" in found


def test_the_generator_is_compared_like_for_like(monkeypatch):
    monkeypatch.setattr(demo, "DCGANGenerator", lambda **kw: GENERATOR(16, 100, 4, **kw))
    found = demo.compare_generator(torch.device("cpu"), batch=4, repeats=1)
    assert 0 < found["errors"]["eager"] < 1e-4 and 0 < found["errors"]["ganfast"] < 1e-4
    assert found["ratio"] == found["seconds"]["eager"] / found["seconds"]["ganfast"]


GENERATOR = demo.DCGANGenerator


def test_the_largest_error_is_relative_to_each_tensor():
    exact = [torch.tensor([0.0, 100.0], dtype=torch.float64), torch.tensor([0.01], dtype=torch.float64)]
    assert demo.largest_error([torch.tensor([1.0, 100.0]), torch.tensor([0.01])], exact) == pytest.approx(0.01, rel=1e-4)
    assert demo.largest_error([torch.tensor([0.0, 100.0]), torch.tensor([0.02])], exact) == pytest.approx(1.0, rel=1e-4)


def test_the_loops_are_the_same_run_but_for_the_layers(tmp_path):
    seen = demo.compare_loops(small(tmp_path, **{name: SMALL[name] for name in ("width",)}), steps=1, repeats=1)
    assert seen.keys() == {"eager", "ganfast"} and min(seen.values()) > 0
