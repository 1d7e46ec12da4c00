"""make prove's comparison of augmentations on few images: what it learns from and is judged by, its verdict, its table, its exit status."""

import json

import pytest
import torch

from benchmarks import adaptive, pages


def rows(*recalls, p=0.0):
    log = [{"step": 50, "real_accuracy": 0.9}]
    return [{"seed": i, "recall": r, "precision": 0.5, "kid": 0.01, "steps": 100, "p": p, "log": log} for i, r in enumerate(recalls)]


def test_images_that_are_learned_are_not_those_that_judge():
    learned, held_out = adaptive.halves(0, 32)
    assert learned.shape == (200, 1, 32, 32) and len(held_out) == 1597
    flat = {image.numpy().tobytes() for image in held_out}
    assert not any(image.numpy().tobytes() in flat for image in learned) and not torch.equal(learned, adaptive.halves(1, 32)[0])


@pytest.mark.parametrize(("recalls", "reached"), [((0.6, 0.7), True), ((0.6, 0.58), False)])
def test_the_verdict_is_that_of_the_means(recalls, reached):
    found = adaptive.verdict({"none": rows(0.5, 0.5), "ada": rows(*recalls)})
    assert found["gain"] == pytest.approx(sum(recalls) / 2 - 0.5) and found["reached"] is reached
    assert adaptive.verdict({"ada": rows(0.9)})["reached"] is None


def test_a_run_of_each(tmp_path):
    for arm in adaptive.ARMS:
        row = adaptive.learn(arm, 0, 2.0, width=2, batch_size=8, log_every=1, fused=False)
        assert row["steps"] > 1 and 0 <= row["recall"] <= 1 and len(row["log"]) <= 80
        assert ("ada_p" in row["log"][-1]) == (arm == "ada")


def test_what_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adaptive, "learn", lambda arm, seed, seconds: rows(0.6 if arm == "ada" else 0.4, p=0.3)[0])
    assert adaptive.main(["--results", str(tmp_path), "--seeds", "2", "--threads", "1"]) == 0
    (file,) = tmp_path.glob("*.json")
    assert file.name.startswith("adaptive-") and json.loads(file.read_text())["gain"] == pytest.approx(0.2)
    (kept,) = pages.kept(tmp_path)
    text = adaptive.section(kept.content, kept.link)
    assert kept.kind == "adaptive" and "| ada | 2 | 0.600 (0.600, 0.600) | 0.500 | 0.0100 | 100 | 0.80 | 0.30 |" in text
    assert "ADA's recall over that without augmentation: +0.200; the goal is +0.1: reached." in text
    assert adaptive.main(["--results", str(tmp_path), "--seeds", "1", "--threads", "1", "--only", "ada"]) == 0
    assert len(list(tmp_path.glob("adaptive-ada-*.json"))) == 1 and "recall: +0.200, wanted +0.100: reached" in capsys.readouterr().out
    monkeypatch.setattr(adaptive, "learn", lambda arm, seed, seconds: rows(0.4)[0])
    assert adaptive.main(["--results", str(tmp_path), "--seeds", "1", "--threads", "1"]) == 1
