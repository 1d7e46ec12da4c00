"""`ganfast edit`, of runs whose generator is known (tests/systems/knobs.py) and of one of `ganfast train`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganfast import cli
from ganfast.systems import edit, editing, measures, readers
from ganfast.systems.directions import Directions
from ganfast.systems.editing import Pictures
from ganfast.train.data import to_float
from ganfast.train.sampling import Sampler
from tests.systems import knobs

FILE = str(Path(knobs.__file__))
PLAIN = ["--no-fused", "--precision=fp32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knobs") / "run"
    cli.main(["run", FILE, "--run-dir", str(folder), *PLAIN])
    cli.main(["edit", str(folder)])
    return folder


def fails(capsys, *args: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(["edit", *map(str, args)])
    said = capsys.readouterr().err
    said = "".join(line for line in said.splitlines(keepends=True) if "images cannot be read" not in line)
    assert stop.value.code == 2 and said.count("\n") == 1 and "Traceback" not in said
    return said


def read(path: Path) -> tuple[torch.Tensor, dict]:
    with Image.open(path) as image:
        return to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1)), image.text


def test_the_strip_and_the_pictures_show_what_was_asked(run, tmp_path, capsys):
    cli.main(["edit", str(run), "--direction", "brightness", "--by", "1.5", "--count=3", "--columns=5", "--seed=4", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "3 images" in said and "learning" not in said
    strip, text = read(tmp_path / "strip.png")
    assert text["Synthetic"].startswith("yes") and text["Seed"] == "4" and text["Credit"] == "drawn here"
    assert "knobs: Generator" in text["Model"] and text["Direction"] == "brightness" and text["By"] == "-1.5 to 1.5 standard deviations"
    side, top = 64 + 4, 2 * editing.LINE + 6
    assert strip.shape == (3, top + 3 * side, 4 + 5 * side)
    cells = torch.stack([strip[:, top : top + 3 * side, 4 + k * side : 68 + k * side].unflatten(1, (3, side))[:, :, :64] for k in range(5)])
    cells = cells.permute(2, 0, 1, 3, 4).flatten(0, 1)
    found, _ = Directions.load(run / "directions.json")
    sd = dict(zip(found.names, found.sd.tolist()))
    bright, warm = (f(cells).view(3, 5) for f in (measures.brightness, measures.warmth))
    expected = sd["brightness"] * torch.tensor([0, 0.75, 1.5, 2.25, 3])
    assert (bright - bright[:, :1] - expected).abs().max() < 0.015 and (warm - warm[:, :1]).abs().max() < 0.015
    ends = torch.stack([read(tmp_path / f"image-{i:03d}.png")[0] for i in range(3)])
    assert (measures.brightness(ends) - bright[:, -1]).abs().max() < 0.01
    assert read(tmp_path / "image-002.png")[1]["By"] == "1.5 standard deviations"
    frame = strip[:, top - 2, 2 + 2 * side + side // 2]  # around the middle column, which is as it was
    assert frame[0] > 0.9 and frame[2] < 0


def test_several_at_once_and_the_other_way(run, tmp_path):
    cli.main(
        ["edit", str(run), "--direction", "brightness,warmth", "--by", "-2,1", "--count=2", "--columns=3", "--out", str(tmp_path / "a")]
    )
    cli.main(["edit", str(run), "--direction", "greenness", "--by=0.01", "--count=2", "--columns=3", "--out", str(tmp_path / "b")])
    both, plain = (torch.stack([read(tmp_path / name / f"image-{i:03d}.png")[0] for i in range(2)]) for name in "ab")
    found, _ = Directions.load(run / "directions.json")
    sd = dict(zip(found.names, found.sd.tolist()))
    assert ((measures.brightness(both) - measures.brightness(plain)) / sd["brightness"]).mean() == pytest.approx(-2, abs=0.15)
    assert ((measures.warmth(both) - measures.warmth(plain)) / sd["warmth"]).mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("by, said", [("-4", False), ("1,-4.5", True)])
def test_a_step_far_beyond_what_was_tried_is_said(by, said, run, tmp_path, capsys):
    named = "brightness,warmth" if "," in by else "warmth"
    cli.main(["edit", str(run), "--direction", named, f"--by={by}", "--count=1", "--columns=3", "--out", str(tmp_path)])
    assert ("by was tried from -2 to 2 alone" in capsys.readouterr().out) == said


def test_without_a_direction_it_says_which_there_are(run, capsys):
    capsys.readouterr()
    cli.main(["edit", str(run)])
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith("  ")}
    assert lines.keys() >= {"brightness", "contrast", "warmth", "greenness"}
    assert "middle" not in lines  # it is the same for all pictures
    for name in ("brightness", "warmth", "greenness"):
        assert float(lines[name].split("moves ")[1].split(";")[0]) == pytest.approx(4, abs=0.1)
        assert float(lines[name].rsplit(" ", 1)[1]) > 0.95


def test_the_list_says_what_cancels_from_end_to_end():
    ends = torch.tensor([[[-2.0, -0.9, 0.3], [0, -2, 0], [0, 0, -2]], [[2.0, -0.8, 0.1], [0, 2, 0], [0, 0, 2]]])
    each = torch.tensor([[2.0, 1.0, 0.5], [0, 2, 0], [0, 0, 2]])
    found = Directions(("a", "bent", "c"), torch.eye(3), torch.zeros(3), torch.ones(3), torch.tensor([0.5, 1, 1]), ends, each)
    line = edit.listed(found, Path("run")).splitlines()[1]
    told = "c 0.20 from end to end, bent 0.90 at one end, 0.75 in each picture"
    assert line == f"  a     moves +4.00; others: {told}; R2 0.50"


def test_a_direction_is_learned_once_for_each_checkpoint(run, monkeypatch):
    """Of one step, weights, measures and samples: a run that is made anew ends at the same step."""
    kept = (run / "directions.json").read_bytes()
    monkeypatch.setattr(editing, "of_sampler", lambda *a, **k: pytest.fail("learned anew"))
    cli.main(["edit", str(run)])
    assert (run / "directions.json").read_bytes() == kept
    sampler, _ = edit.opened(run, run, 0)
    functions = measures.suited(sampler.sample(64))
    pictures = Pictures(sampler, functions)
    assert editing.kept(run, pictures).names == tuple(json.loads(kept)["names"])
    assert editing.kept(run, pictures, samples=100) is None
    assert editing.kept(run, Pictures(sampler, functions | {"mine": measures.contrast})) is None
    sampler.step += 1
    assert editing.kept(run, pictures) is None
    sampler.step -= 1
    sampler.generator.shift.data += 1e-6
    assert editing.kept(run, pictures) is None


def test_a_file_of_an_older_version_is_learned_anew(tmp_path, capsys):
    cli.main(["run", FILE, "--run-dir", str(tmp_path), *PLAIN])
    (tmp_path / "directions.json").write_text('{"names": ["brightness"], "moved": [[4.0]], "more": {"step": 1}}')
    cli.main(["edit", str(tmp_path)])
    assert "learning directions" in capsys.readouterr().out and "ends" in json.loads((tmp_path / "directions.json").read_text())


def test_a_measure_of_ones_own_is_kept_beside_the_others(run, tmp_path, capsys):
    kept = (run / "directions.json").read_bytes()
    (tmp_path / "mine.py").write_text(
        "def grain(images):\n    return images.diff(dim=3).abs().mean((1, 2, 3))\n\ndef bad(images):\n    return 3.0\n"
    )
    mine, out = f"{tmp_path / 'mine.py'}:grain", ["--direction=grain", "--count=2", "--out", str(tmp_path / "out")]
    try:
        cli.main(["edit", str(run), "--measure", mine, "--samples=400", *out])
        found, more = Directions.load(run / "directions-grain-400.json")
        assert "grain" in found.names and found.r2[found.names.index("grain")] > 0.9 and more["samples"] == 400
        assert (run / "directions.json").read_bytes() == kept and (tmp_path / "out" / "strip.png").is_file()
        capsys.readouterr()
        cli.main(["edit", str(run), *out])
        cli.main(["edit", str(run)])
        said = capsys.readouterr().out
        assert "learning" not in said and said.endswith("kept beside these: grain\n")
        said = fails(capsys, run, "--measure", f"{tmp_path / 'mine.py'}:bad", "--samples=400")
        assert "the measure bad gave shape []" in said
        found.save(run / "directions-grain-400.json", **more | {"weights": "others"})
        said = fails(capsys, run, "--direction=grain")
        assert "direction 'grain' is kept for another checkpoint, of step 1, and not for this one. Give the --measure" in said
    finally:
        (run / "directions-grain-400.json").unlink(missing_ok=True)


def test_directions_that_were_learned_apart(run, capsys):
    found, more = Directions.load(run / "directions.json")
    try:
        for name in ("one", "two"):
            Directions((name,), *(getattr(found, field)[:1] for field in ("vectors", "mean", "sd", "r2"))).save(
                run / f"directions-{name}.json", **more | {"measures": [name]}
            )
        assert "learned apart, wants some that were learned together" in fails(capsys, run, "--direction=one,two")
        assert "Did you mean 'two'" in fails(capsys, run, "--direction=twoo")
    finally:
        for name in ("one", "two"):
            (run / f"directions-{name}.json").unlink(missing_ok=True)


def labelled_pictures(root: Path) -> Path:
    for name, level in {"dark": 40, "light": 200}.items():
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (16, 16), (level + i,) * 3).save(root / name / f"{i}.png")
    (root / "light" / "broken.png").write_text("no picture")
    return root


def test_labelled_pictures_that_cannot_be_read_are_said_and_listed(run, tmp_path, capsys, monkeypatch):
    data = labelled_pictures(tmp_path / "data")
    monkeypatch.setattr(readers, "trained", lambda *a, **more: (readers.Reader(3, {"class": 2}), {"all": 1.0}))
    cli.main(["edit", str(run), "--labels", str(data), "--samples=100"])
    said = capsys.readouterr()
    assert f"1 images cannot be read and are left out, listed in {run / edit.BROKEN}" in said.err
    assert "light/broken.png" in (run / edit.BROKEN).read_text()
    assert "  dark " in said.out and Directions.load(run / "directions-labels-data-100.json")[0].names[-2:] == ("dark", "light")
    (run / "directions-labels-data-100.json").unlink()


def test_what_is_cheap_is_refused_before_anything_is_learned(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    cli.main(["run", FILE, "--run-dir", str(folder), "--classes=3", *PLAIN])
    for name in ("of_sampler", "kept"):
        monkeypatch.setattr(editing, name, {"of_sampler": lambda *a, **k: pytest.fail("learned"), "kept": lambda *a: None}[name])
    monkeypatch.setattr(readers, "trained", lambda *a, **k: pytest.fail("trained a reader"))
    data = labelled_pictures(tmp_path / "data")
    (tmp_path / "mine.py").write_text("def grain(images):\n    return images.mean((1, 2, 3))\n")
    mine = f"--measure={tmp_path / 'mine.py'}:grain"
    assert "Did you mean 'brightness'" in fails(capsys, folder, "--direction=brigtness")
    assert "Did you mean 'grain'" in fails(capsys, folder, "--direction=grian", mine)
    assert "Did you mean 'light'" in fails(capsys, folder, "--direction=ligth", f"--labels={data}")
    assert "Did you mean '2'" in fails(capsys, folder, "--direction=brightness", "--label=22")
    monkeypatch.setattr(edit, "opened", lambda *a: pytest.fail("read the run"))
    assert "columns got 4, wants an odd number" in fails(capsys, folder, "--direction=brightness", "--columns=4")
    assert "by got '0', wants a number other than 0" in fails(capsys, folder, "--direction=brightness", "--by=0")


def test_classes_of_a_generator_that_is_told_none(monkeypatch):
    """Their log-odds by a reader are directions: independent of measures, not of each other."""
    reader = readers.Reader(3, {"class": 2})
    logits = lambda images: [torch.stack([20 * measures.warmth(images), 20 * measures.greenness(images)], 1)]
    monkeypatch.setattr(reader, "forward", logits)
    functions = {"brightness": measures.brightness}
    found = editing.of_sampler(Pictures(Sampler(knobs.Generator(), (4,), "knobs"), functions, reader, ("warm", "green")), samples=500)
    assert found.names == ("brightness", "warm", "green") and found.moved.shape == (3, 3)
    assert found.moved.diagonal().tolist() == pytest.approx([4, 4, 4], abs=0.2)
    assert found.moved[1:, 0].abs().max() < 0.1 and found.moved[1, 2] < -2


def test_classes_that_the_generator_is_told(tmp_path, capsys):
    folder = tmp_path / "run"
    cli.main(["run", FILE, "--run-dir", str(folder), "--classes=3", *PLAIN])
    cli.main(["edit", str(folder), "--samples=300", "--direction=brightness", "--label=2", "--count=2", "--columns=3"])
    out = next(folder.glob("edit-step1-brightness2-2-seed0"))
    dots = [read(out / f"image-00{i}.png")[0] for i in range(2)]
    assert all((one[:, 2:6, 2:6].mean() - one[:, 8:, 8:].mean()).item() == pytest.approx(0.6, abs=0.02) for one in dots)


def test_what_cannot_be_edited_is_refused_in_a_sentence(run, tmp_path, capsys):
    assert "direction='brigtness' is unknown; valid: brightness, " in (said := fails(capsys, run, "--direction", "brigtness"))
    assert "Did you mean 'brightness'" in said
    for args, words in {
        ("--direction=brightness", "--by=0"): "by got '0', wants a number other than 0",
        ("--direction=brightness", "--by=much"): "by got 'much', wants a number",
        ("--direction=brightness,warmth", "--by=1,2,3"): "or one for each of brightness, warmth",
        ("--direction=brightness", "--columns=4"): "columns got 4, wants an odd number",
        ("--count=0",): "count got 0, wants at least 1",
        ("--direction=brightness", "--label=cat"): "The generator is not told a class",
        ("--measure=mine",): "measure is 'mine', wants mine.py:function",
        ("--measure=nothing.py:f",): "there is no file nothing.py",
        ("--labels=/nothing",): "there is no such folder",
    }.items():
        assert words in fails(capsys, run, *args), args
    with pytest.raises(ValueError, match=r"a function in .*knobs.py='pictur' is unknown; .*Did you mean 'picture'"):
        edit.own_measure(f"{FILE}:pictur")
    assert "checkpoint: there is none in" in fails(capsys, tmp_path)


def test_a_run_without_a_latent_is_refused(tmp_path, capsys):
    cli.main(["run", FILE, "--run-dir", str(tmp_path / "run"), "--latent=0", *PLAIN])
    assert "draws from no latent vector, wants a generator that does" in fails(capsys, tmp_path / "run")
    with pytest.raises(ValueError, match=r"gives shape \[1, 2\], wants pictures"):
        editing.check(Sampler(torch.nn.Linear(3, 2), (3,), "points"))


def test_a_run_of_ganfast_train(tmp_path, capsys):
    small = ["--steps=1", "--width=4", "--latent-dim=3", "--image-size=16", "--sample-every=0", "--batch-size=4", "--no-fused"]
    cli.main(["train", "--data=digits", "--condition=none", "--run-dir", str(tmp_path / "run"), *small])
    cli.main(["edit", str(tmp_path / "run"), "--direction=contrast", "--samples=64", "--count=2", "--columns=3"])
    assert len(list((tmp_path / "run").glob("edit-step1-contrast2-seed0/*.png"))) == 3
