"""make prove: a mean that misses, a run too long or no number at all is no proof; what it writes."""

import json
import math

import pytest
import torch
from PIL import Image

from benchmarks import prove
from ganfast.train.known_answers import densities
from ganfast.train.known_answers.mixtures import MIXTURES

GOOD = {"modes": 8, "within_3_sigma": 0.96, "reverse_kl": 0.01, "seconds": 60.0}


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"modes": 7}, ["modes"]),
        ({"within_3_sigma": 0.9}, ["within_3_sigma"]),
        ({"reverse_kl": 0.2}, ["reverse_kl"]),
        ({"within_3_sigma": math.nan, "reverse_kl": math.nan}, ["within_3_sigma", "reverse_kl"]),
        ({"seconds": 241.0}, ["seconds"]),
    ],
)
def test_one_bad_run_of_five_shows(change, missed):
    found = prove.verdict("ring8", [dict(GOOD)] * 4 + [GOOD | change])
    assert [key for key, good in found["reached"].items() if not good] == missed


@pytest.fixture
def quick(monkeypatch):
    """The learners replaced by what a perfect one would give."""
    p, q = densities.DATA.density(), densities.FIXED.density()
    row = {"step": 1, "value": -1.38, "bound": -1.38, "js": 0.001, "kl_model_data": 0.001}
    line = {"p": p, "q": q, "d": densities.optimal_discriminator(p, q), "rows": [row, row | {"step": 2}]}
    points = lambda name, seed: MIXTURES[name].sample(500, torch.Generator().manual_seed(seed))
    monkeypatch.setattr(
        prove, "learn_mixture", lambda name, seed: (MIXTURES[name].measure(points(name, seed)) | {"seconds": 1.0}, points(name, seed))
    )
    monkeypatch.setattr(prove, "learn_line", lambda seed: ({"error": 0.003, "value_gap": 0.001, "js": 0.001, "seconds": 1.0}, line))
    monkeypatch.setattr(prove, "SAMPLES", 500)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # of the session


def test_the_whole_writes_one_file_and_the_picture(quick, tmp_path, capsys):
    folders = ["--results", str(tmp_path / "r"), "--pictures", str(tmp_path / "p"), "--seeds", "2"]
    status = prove.main(folders)
    (written,) = (tmp_path / "r").iterdir()
    found = json.loads(written.read_text())
    assert written.name.startswith("prove-") and len(found["commit"]) >= 7 and found["ring8"]["published"]["modes"] == 7.9
    assert len(found["grid25"]["runs"]) == 2 and "ring8, mean of 2" in capsys.readouterr().out
    assert found["ring8"]["mean"]["reverse_kl"] == pytest.approx(sum(r["reverse_kl"] for r in found["ring8"]["runs"]) / 2)
    with Image.open(tmp_path / "p" / "known-answers.png") as picture:
        assert picture.text["Synthetic"].startswith("yes")
    reached = all(good for name in prove.TARGETS for good in found[name]["reached"].values())
    assert status == (0 if reached else 1)


def test_a_part_does_not_stand_for_the_whole(quick, tmp_path, monkeypatch):
    monkeypatch.setitem(prove.TARGETS, "ring8", prove.TARGETS["ring8"] | {"within_3_sigma": 0.9999})
    assert prove.main(["--results", str(tmp_path), "--pictures", str(tmp_path), "--seeds", "1", "--only", "ring8"]) == 1
    (written,) = tmp_path.iterdir()
    assert written.name.startswith("prove-ring8-")
