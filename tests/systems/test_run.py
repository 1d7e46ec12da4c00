"""`ganfast run` and `ganfast sample` of a system's run, by a system that trains in a second: tests/systems/halves.py."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ganfast import cli, systems
from ganfast.systems import command, running
from ganfast.train import Trainer
from ganfast.train.saving import checkpoint
from tests.docs.pages import blocks
from tests.systems import halves
from tests.train.common import differences, log_rows

FILE = Path(halves.__file__)
PLAIN = ["--no-fused", "--precision=fp32"]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(systems.NAMES, "halves", "tests.systems.halves")


def fails(capsys, *args: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "Traceback" not in said
    return said


def run(folder: Path, *more: str, name: str = "halves") -> None:
    cli.main(["run", name, "--run-dir", str(folder), *PLAIN, *more])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_trains_measures_and_draws(tmp_path, capsys):
    run(tmp_path / "run")
    said = capsys.readouterr().out
    assert "halves, seed 0: 60 steps" in said and "goal >= 0.95, reached" in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["figures"].keys() == {"side read", "brightness"} and result["reached"] == {"side read": True}
    assert result["goals"] == {"side read": [">=", 0.95]} and result["steps"] == 60 and result["credit"] == "drawn here"
    with Image.open(tmp_path / "run" / "picture.png") as image:
        assert image.size == (64, 8) and image.text["Synthetic"].startswith("yes") and image.text["Seed"] == "0"
        assert image.text["Model"] == f"halves: Generator, {tmp_path / 'run'}, step 60" and image.text["Credit"] == "drawn here"
    assert json.loads((tmp_path / "run" / "system.json").read_text())["options"]["bright"] == 0.8
    assert checkpoint.load(tmp_path / "run")["numbers"]["steps"] == 60 and log_rows(tmp_path / "run")


def test_the_same_seed_gives_the_same_run(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, "--steps=3", "--seed=5")
    assert differences(tmp_path / "a", tmp_path / "b") == []


def test_a_run_that_was_stopped_is_gone_on_with_to_the_same_bits(tmp_path, capsys, monkeypatch):
    run(tmp_path / "whole", "--steps=6", "--log-every=3", "--bright=0.5")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "progress", lambda trainer: trainer.steps / 3 if trainer.steps >= 3 else trainer.steps / 6)
        run(tmp_path / "cut", "--steps=6", "--log-every=3", "--bright=0.5")
    assert checkpoint.load(tmp_path / "cut")["numbers"]["steps"] == 3
    cli.main(["run", "halves", "--resume", "--run-dir", str(tmp_path / "cut")])  # with the options it had
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "cut")]
    assert results[0]["figures"] == results[1]["figures"] and results[0]["steps"] == results[1]["steps"] == 6
    capsys.readouterr()
    cli.main(["run", "halves", "--resume", "--run-dir", str(tmp_path / "cut")])
    said = capsys.readouterr().out
    assert "is finished, all its 6 steps are done; --steps 12 would train 6 more" in said and "goal >= 0.95" in said


@pytest.mark.prove
def test_a_run_that_is_asked_to_stop_saves_and_says_how_it_goes_on(tmp_path):
    folder, root = tmp_path / "run", str(FILE.parents[2])
    command = [sys.executable, "-m", "ganfast", "run", str(FILE), "--run-dir", str(folder), "--steps=100000", *PLAIN]
    variables = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 100
    while not (folder / "checkpoint-0000020.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert f"`ganfast run {FILE} --resume --run-dir {folder}` goes on" in said and not (folder / "result.json").exists()


def test_nothing_of_an_earlier_run_is_overwritten(tmp_path, capsys):
    run(tmp_path / "run", "--steps=2")
    before, there = content(tmp_path / "run"), ("--run-dir", tmp_path / "run")
    assert "already holds a run (checkpoint-0000002.pt). Go on with it by --resume" in fails(capsys, "run", "halves", *there)
    assert "holds a run of halves, wants one of others" in fails(capsys, "run", other(tmp_path), "--resume", *there)
    assert "no run of a system" in fails(capsys, "run", "halves", "--resume", "--run-dir", tmp_path / "absent")
    assert "seed got 8, the run in" in fails(capsys, "run", "halves", "--resume", "--seed=8", *there)
    assert content(tmp_path / "run") == before and not (tmp_path / "absent").exists()
    (tmp_path / "run" / "system.json").write_text("{")
    assert "system.json cannot be read" in fails(capsys, "run", "halves", "--resume", *there)


def test_a_resumed_run_keeps_what_decides_what_is_held_out(tmp_path, capsys):
    path = other(tmp_path, **{'credit="drawn here"': 'fixed=("bright",)'})
    run(tmp_path / "run", "--steps=1", name=str(path))
    before, again = content(tmp_path / "run"), ("run", path, "--resume", "--run-dir", tmp_path / "run")
    assert "bright got 0.5, the run in" in (said := fails(capsys, *again, "--bright=0.5")) and "has 0.8; a resumed run keeps it" in said
    assert content(tmp_path / "run") == before
    run(tmp_path / "run", "--resume", "--bright=0.8", "--steps=2", name=str(path))
    other(tmp_path)
    run(tmp_path / "run", "--resume", "--bright=0.5", "--steps=3", name=str(path))  # where no system says so, it may change


def other(folder: Path, **changes: str) -> Path:
    """A file with a system of its own: halves under another name, with parts replaced."""
    text = FILE.read_text().replace('"halves"', '"others"')
    for old, new in changes.items():
        assert old in text, f"{FILE.name} has no {old}"
        text = text.replace(old, new)
    path = folder / "others.py"
    path.write_text(text)
    return path


def test_a_file_of_ones_own_is_a_system_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other(tmp_path)
    cli.main(["run", "others.py", "--steps=2", *PLAIN])
    assert (tmp_path / "runs" / "others" / "result.json").exists()
    monkeypatch.chdir(tmp_path / "runs")  # the run knows its file wherever it is asked
    cli.main(["sample", "others", "--text", "right", "--count", "2", "--out", "out"])
    assert "2 images" in capsys.readouterr().out
    assert "there is no file none.py" in fails(capsys, "run", "none.py")
    copied = other(tmp_path).rename("copied.py")
    copied.write_text(FILE.read_text().replace("a test", "a copy under the same name"))
    cli.main(["run", "copied.py", "--steps=1", *PLAIN])
    assert json.loads(Path("runs/halves/system.json").read_text())["file"] == str(copied.resolve())
    (tmp_path / "empty.py").write_text("")
    assert "empty.py has no SYSTEM" in fails(capsys, "run", tmp_path / "empty.py")


def test_samples(tmp_path, capsys):
    run(tmp_path / "run")
    cli.main(["sample", str(tmp_path / "run"), "--text", "right", "--seed", "3", "--count", "4"])
    out = tmp_path / "run" / "sample-step60-right-seed3"
    assert str(out / "grid.png") in capsys.readouterr().out and len(list(out.iterdir())) == 5
    with Image.open(out / "image-002.png") as image:
        assert image.text["Text"] == "right" and image.text["Seed"] == "3" and image.text["Credit"] == "drawn here"
        assert image.text["Synthetic"].startswith("yes")
    cli.main(["sample", str(tmp_path / "run" / "checkpoint-0000020.pt"), "--out", str(tmp_path / "left")])
    assert len(list((tmp_path / "left").iterdir())) == 11
    before = content(tmp_path)
    assert "text got 'up', wants left or right" in fails(capsys, "sample", tmp_path / "run", "--text", "up")
    assert "label got '3', wants none. The system halves takes no label" in fails(capsys, "sample", tmp_path / "run", "--label", "3")
    assert content(tmp_path) == before


def test_samples_of_a_system_that_wants_a_text_or_leaves_them_to_the_trainer(tmp_path, capsys):
    path = other(tmp_path, **{'text: str = "left"': "text: str"})
    run(tmp_path / "run", "--steps=1", name=str(path))
    assert "text is missing, and the system others draws by it. Give --text" in fails(capsys, "sample", tmp_path / "run")
    other(tmp_path, **{", sample=sample": ""})
    assert "text got 'left', wants none" in fails(capsys, "sample", tmp_path / "run", "--text", "left")
    assert "label='2' is unknown; valid: 0, 1" in fails(capsys, "sample", tmp_path / "run", "--label", "2")
    cli.main(["sample", str(tmp_path / "run"), "--label", "1", "--count", "3"])
    with Image.open(tmp_path / "run" / "sample-step1-1-seed0" / "image-002.png") as image:
        assert image.text["Label"] == "1"


def test_long_captions_that_begin_alike_have_folders_of_their_own():
    one, two = (command._short("a long caption " * 9 + end) for end in ("red", "blue"))
    assert one != two and one[:50] == two[:50] and len(one) < 70 and command._short("a red dog") == "a_red_dog"


def test_text_is_refused_where_no_system_draws_by_it(tmp_path, capsys):
    small = ["--image-size=16", "--width=4", "--steps=1", "--batch-size=4", "--sample-every=0"]
    cli.main(["train", "--run-dir", str(tmp_path / "run"), *small, *PLAIN])
    assert "text got 'a dog', wants none" in fails(capsys, "sample", tmp_path / "run", "--text", "a dog")


def test_without_a_name_all_are_listed(capsys, monkeypatch):
    reached = {"halves": {"figures": {"side read": 0.98765, "brightness": 1}, "seeds": 3, "seconds": 4}}
    monkeypatch.setattr(systems, "reached", lambda: reached)
    cli.main(["run"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  halves")]
    assert line.endswith("draws a bright half: a test (side read 0.988)")
    monkeypatch.undo()
    cli.main(["run"])
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in systems.NAMES)


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "system='halvs' is unknown" in (said := fails(capsys, "run", "halvs")) and "Did you mean 'halves'" in said
    assert "wants the name of a system" in fails(capsys, "run", "--steps", "3")
    assert "steps got 0, wants at least 1" in fails(capsys, "run", "halves", "--steps", "0")
    assert "bright got 3.0, wants a number above 0" in fails(capsys, "run", "halves", "--bright", "3")
    assert "--brihgt" in fails(capsys, "run", "halves", "--brihgt", "0.5")
    assert "data got 'x', wants none" in fails(capsys, "run", "halves", "--data", "x")
    assert "device" in fails(capsys, "run", "halves", "--device", "cpuu")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_sentence_before_anything_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = other(tmp_path, **{'credit="drawn here"': 'needs=("robohash",)'})
    monkeypatch.setitem(sys.modules, "robohash", None)
    said = fails(capsys, "run", path)
    assert "the system others needs the package robohash, which is not installed: pip install robohash (" in said
    assert list(tmp_path.iterdir()) == [path]


def test_a_function_of_a_system_that_gives_something_else_is_named(tmp_path, capsys):
    for i, (old, new, words) in enumerate(
        [
            ('"side read": ((', '"other": ((', "measure of others gave other, brightness; goals name side read too"),
            ("made.abs().mean().item()}", "made.abs().mean()}", "wants a dict of numbers"),
            (".expand(3, -1, -1)", ".float()", r"picture of others gave torch.float32 [1, 8, 64], wants uint8 [3, H, W]"),
        ]
    ):
        path = other(tmp_path, **{old: new})
        with pytest.raises(SystemExit):
            cli.main(["run", str(path), "--steps=1", *PLAIN, "--run-dir", str(tmp_path / str(i))])
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_run_folder_keeps_what_it_is_when_it_moves(tmp_path):
    run(tmp_path / "run", "--steps=2")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    run(moved, "--resume", "--steps=3")
    assert (moved / "checkpoint-0000003.pt").exists() and not (tmp_path / "run").exists()
    assert running.saved(moved)[1].run_dir == str(moved)


def test_the_readmes_system_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = [block.text for block in blocks(Path(systems.__file__).with_name("README.md")) if "SYSTEM = System(" in block.text]
    Path("mine.py").write_text(text)
    cli.main(["run", "mine.py", "--steps=2", "--width=4", *PLAIN])
    assert json.loads(Path("runs/digits/result.json").read_text())["figures"].keys() == {"precision", "recall"}
    with Image.open("runs/digits/picture.png") as image:
        assert "MNIST" in image.text["Credit"]


def test_what_a_measure_draws_follows_from_the_seed(tmp_path):
    path = other(tmp_path, **{"made.abs().mean().item()}": "torch.rand(()).item()}"})
    for folder, seed in {"a": 1, "b": 1, "c": 2}.items():
        run(tmp_path / folder, "--steps=1", f"--seed={seed}", name=str(path))
    one, same, another = (json.loads((tmp_path / name / "result.json").read_text())["figures"]["brightness"] for name in "abc")
    assert one == same != another
