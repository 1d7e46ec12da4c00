"""make augmentation: what the words of its table follow from, and what it writes and refuses to write."""

import json

import pytest

from benchmarks import augmentation, gallery, pages
from ganfast.systems.augmentation import ARMS, GAINS


def runs(*gains: float, over: float = 0.0) -> list[dict]:
    """Of seeds that differ far more than the arms of one seed do."""
    found = []
    for seed, gain in enumerate(gains):
        real = 0.5 + 0.1 * seed
        arms = {"real": real, "real + GAN": real + gain, "real + classical": real, "real + classical + GAN": real + over, "GAN alone": 0.25}
        found.append(
            {
                "seed": seed,
                "figures": arms | {"gain": gain, "gain of classical": 0.0, "gain against classical": gain, "gain over classical": over},
            }
        )
    return found


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ((0.01, 0.02, 0.03), "no difference"),  # twice the standard error would do, not Student's interval of three
        ((0.01, 0.02, 0.03, 0.02, 0.02), "helped"),
        ((-0.01, -0.02, -0.03, -0.02, -0.02), "hurt"),
        ((0.05, -0.01, 0.03, 0.0, 0.01), "no difference"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), "no difference"),
    ],
)
def test_a_word_follows_from_the_seeds(gains, word):
    ((mean, half, found),) = augmentation.differences([{"runs": runs(*gains)}], "gain")
    assert found == word and mean == pytest.approx(sum(gains) / len(gains))
    if gains == (0.01, 0.02, 0.03):
        assert half == pytest.approx(4.303 * 0.01 / 3**0.5)


@pytest.mark.parametrize(("t", "degrees", "p"), [(63.657, 1, 0.01), (4.303, 2, 0.05), (5.841, 3, 0.01), (4.604, 4, 0.01), (3.25, 9, 0.01)])
def test_how_likely_chance_is(t, degrees, p):
    assert augmentation.chance(t, degrees) == pytest.approx(p, rel=1e-3) == augmentation.chance(-t, degrees)


def test_words_are_corrected_for_the_number_of_cells():
    sure, fair, none = runs(0.01, 0.02, 0.03, 0.02, 0.02), runs(-0.01, -0.02, -0.04, -0.02, -0.03), runs(0.05, -0.01, 0.03, 0.0, 0.01)
    p = [augmentation.difference(cell, "gain")[2] for cell in (sure, fair, none)]
    assert 0.05 / 16 < p[0] < 0.05 / 15 and 0.05 / 6 < p[1] < 0.05 / 5 and p[2] > 0.05
    words = lambda *cells: [word for *_, word in augmentation.differences([{"runs": cell} for cell in cells], "gain")]
    assert words(*[none] * 4, fair) == ["no difference"] * 4 + ["hurt"] and set(words(*[none] * 5, fair)) == {"no difference"}
    assert words(*[none] * 4, fair, sure) == ["no difference"] * 4 + ["hurt", "helped"]  # one of the five that are left
    assert set(words(*[sure] * 15)) == {"helped"} and set(words(*[sure] * 16)) == {"no difference"}


def content() -> dict:
    cells = [("plain", 5, runs(0.01, 0.02, 0.03, 0.02, 0.02)), ("transfer", 20, runs(0.0, 0.0, 0.0, over=-0.05))]
    return {
        "device": "Stub 9000, 1 threads", "kind": "cpu", "versions": {}, "commit": "c0ffee", "date": "2026-01-31", "processes": 2,
        "seconds": 600.0, "arms": list(ARMS), "cells": [{"setting": s, "per_class": k, "runs": r} for s, k, r in cells],
    }  # fmt: skip


def test_the_page():
    text = augmentation.section(content(), "[x.json](x.json)")
    lines = text.splitlines()
    assert "10 minutes in all" in text and "means over 5 seeds" in text
    assert "corrected for the\ncolumn's 2 rows (Holm)" in text
    assert (
        "- **The GAN's images, added to real ones: helped in plain with 5 (+2.0); no difference in transfer with 20 (+0.0); hurt nowhere.**"
        in lines
    )
    assert (
        "- **Added to classical augmentation: helped nowhere; no difference in plain with 5 (+0.0); hurt in transfer with 20 (-5.0).**"
        in lines
    )
    columns = "real | real + classical | real + GAN | real + classical + GAN | GAN alone"
    added = "classical added to real | GAN added to real | GAN in place of classical | GAN added to classical"
    assert f"| setting | real images a class | {columns} | {added} |" in lines
    one = "| plain | 5 | 70.0 | 70.0 | 72.0 | 70.0 | 25.0 | +0.0 ± 0.0, no difference | +2.0 ± 0.9, helped | +2.0 ± 0.9, helped |"
    assert f"{one} +0.0 ± 0.0, no difference |" in lines and len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_every_setting_is_run_over_the_seeds(tmp_path, monkeypatch, capsys):
    asked = []

    def run(row, title, seed, folder, options):
        asked.append((row, seed, tuple(options)))
        figures = dict.fromkeys([*ARMS, *GAINS], 0.5) | {"real": int(row[-1]) / 100, "gain": seed / 1e4}
        return {"seed": seed, "figures": figures}

    monkeypatch.setattr(gallery, "run", run)
    places = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert augmentation.main([*places, "--seeds", "2", "--first", "7", "--", "--no-fused"]) == 0
    (file,) = (tmp_path / "results").iterdir()
    whole = json.loads(file.read_text())
    assert file.name.startswith("augmentation-") and file.name.endswith(f"-{whole['date']}.json")
    (kept,) = pages.kept(tmp_path / "results")
    assert kept.kind == "augmentation" and capsys.readouterr().out.count("| permuted, transfer | 100 |") == 1
    assert len(asked) == len(set(asked)) == 2 * 12 and {(seed, more) for _, seed, more in asked} == {
        (7, ("--no-fused",)),
        (8, ("--no-fused",)),
    }
    for cell in whole["cells"]:
        words = {word for word in ("transfer", "permuted") if word in cell["setting"]}
        row = ("augmentation", *(f"--{word}" for word in ("permuted", "transfer") if word in words), "--per-class", str(cell["per_class"]))
        assert (row, 7, ("--no-fused",)) in asked
        assert [(run["seed"], run["figures"]["real"]) for run in cell["runs"]] == [
            (7, cell["per_class"] / 100),
            (8, cell["per_class"] / 100),
        ]

    file.unlink()
    monkeypatch.setattr(
        gallery, "run", lambda row, title, seed, folder, options: "out of memory" if seed == 8 else run(row, title, seed, folder, options)
    )
    assert augmentation.main([*places, "--seeds", "2", "--first", "7"]) == 1 and not list((tmp_path / "results").iterdir())
    with pytest.raises(SystemExit):
        augmentation.main([*places, "--seeds", "1"])
    assert "--seeds got 1, wants 2 to 10" in capsys.readouterr().err
