"""Quality against time: what a results file becomes, which goals are missed, and what mixed styles are found to change."""

import types

import pytest
import torch

from benchmarks import mixed_styles, quality


def run(seed, precision, recall, **more):
    of = lambda i, share: {"steps": 10 * (i + 1), "seconds": share * 80, "precision": precision, "recall": recall * share}
    return {"seed": seed, "points": [of(i, share) for i, share in enumerate(quality.SHARES)]} | more


MIXED = {
    "shape_of_coarse": 0.9, "shape_of_fine": 0.05, "strokes_of_coarse": 0.5, "strokes_of_fine": 0.3,
    "changed_by_coarse": 0.4, "changed_by_fine": 0.1,
}  # fmt: skip


def results(**cells):
    return {"device": "a CPU", "commit": "c0ffee" * 7, "date": "2026-01-02", "seconds": 80.0, "shares": quality.SHARES, "cells": cells}


def test_a_results_file_as_a_table():
    styled = [run(s, 0.8, r, path_deviation={"first": 0.4, "last": 0.2}, mixed=MIXED) for s, r in ((1000, 0.7), (1001, 0.9))]
    text = quality.section(results(**{"digits/dcgan": [run(1000, 0.75, 0.5)], "digits/stylegan2": styled}), "[file](there)")
    assert "| digits | dcgan | 0.75 / 0.06 | 0.75 / 0.12 | 0.75 / 0.25 | 0.75 / 0.50 | 40 | 0.75 / 0.50 |" in text
    assert "| digits | stylegan2 | 0.80 / 0.10 | 0.80 / 0.20 | 0.80 / 0.40 | 0.80 / 0.80 | 40 | 0.80 / 0.70 |" in text
    assert "| data | network | 10 s | 20 s | 40 s | 80 s |" in text and "goes from 0.40 to 0.20" in text
    assert "read as the one's digit 0.90, as the other's 0.05" in text and "the other's by 0.30" in text
    assert "digits/stylegan2 precision 0.7; digits/stylegan2 recall 0.7;" in text and text.endswith(" All reached.")
    worse = results(**{"digits/stylegan2": [one | {"points": run(1, 0.6, 0.9)["points"]} for one in styled]})
    assert quality.section(worse, "[file](there)").endswith(" Missed: digits/stylegan2 precision.")


def test_goals():
    good = {"path_deviation": {"first": 0.4, "last": 0.2}, "mixed": MIXED}
    cells = {"digits/stylegan2": [run(1, 0.8, 0.6, **good), run(2, 0.7, 0.9, **good)], "digits/dcgan": [run(1, 0.1, 0.1)]}
    assert quality.missed(cells) == []
    bad = {"path_deviation": {"first": 0.2, "last": 0.2}, "mixed": MIXED | {"shape_of_coarse": 0.5}}
    wanting = ["digits/stylegan2 precision", "digits/stylegan2 shape_of_coarse", "digits/stylegan2 path_deviation"]
    assert quality.missed({"digits/stylegan2": [run(1, 0.6, 0.8, **bad)]}) == wanting


def test_copies_are_kept_when_their_share_has_passed():
    kept = quality.Kept(80.0)
    trainer = types.SimpleNamespace(steps=0, seconds=0.0, ema=torch.nn.Linear(1, 1))
    for seconds in (5, 12, 15, 45, 70):
        trainer.seconds, trainer.steps = seconds, trainer.steps + 1
        kept.on_step(trainer)
    kept.on_end(trainer)
    assert [(steps, seconds) for steps, seconds, _ in kept.kept] == [(2, 12), (4, 45), (4, 45), (5, 70)]
    kept.on_log(trainer, {"path_deviation": 0.3})
    kept.on_log(trainer, {"step": 3})
    assert kept.deviations == [0.3]


class Drawn:
    """Of eight styles the first says where a bar stands, the label's place, the last how thick it is."""

    def latents(self, n, seed):
        return torch.rand(n, 1, generator=torch.Generator().manual_seed(seed))

    def styles(self, latents, labels):
        return torch.stack([labels.float()[:, None], *[torch.zeros_like(latents)] * 6, latents], 1)

    def synthesised(self, styles):
        images = torch.full((len(styles), 1, 64, 64), -1.0)
        for image, style in zip(images, styles):
            left, thick = 4 + 5 * int(style[0, 0]), 2 + int(6 * style[-1, 0])
            image[:, 8:56, left : left + thick] = 1
        return images


class Places:
    def share_read(self, images, labels):
        first = (images[:, 0] > 0).any(1).int().argmax(1)
        return (first == 4 + 5 * labels).float().mean().item()


def test_what_mixed_styles_change():
    found = mixed_styles.figures(Drawn(), Places())
    assert found["shape_of_coarse"] == 1 and found["shape_of_fine"] == 0
    assert found["strokes_of_fine"] == pytest.approx(1, abs=0.15) and found["strokes_of_coarse"] == pytest.approx(0, abs=0.15)
    assert found["changed_by_coarse"] > found["changed_by_fine"] > 0
