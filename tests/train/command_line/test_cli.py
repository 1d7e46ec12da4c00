"""The command: what it leaves, and that a mistake is one line on stderr and exit code 2."""

import subprocess
import sys

import pytest
from PIL import Image

from ganfast import cli
from ganfast.train import Trainer
from ganfast.train import config as configs
from ganfast.train.command_line import commands
from ganfast.train.command_line.recipes import Recipe
from ganfast.train.saving import checkpoint

SMALL = ["--image-size=16", "--width=4", "--latent-dim=6", "--batch-size=8", "--steps=2", "--log-every=1", "--no-fused"]
SMALL += ["--precision=fp32", "--sample-every=0"]
WEIGHTS = ["discriminator.safetensors", "ema.safetensors", "generator.safetensors"]
WRITTEN = ["checkpoint-0000002.pt", "config.json", *WEIGHTS, "grids", "kernels.json", "log.jsonl"]


def fails(capsys, *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "Traceback" not in said
    return said


@pytest.fixture
def run(tmp_path, capsys):
    cli.main(["train", "--run-dir", str(tmp_path / "run"), *SMALL])
    assert "2 steps" in capsys.readouterr().out
    return tmp_path / "run"


def test_train_resume_and_override(run, capsys):
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith(".")) == WRITTEN
    cli.main(["train", "--resume", "--run-dir", str(run)])
    said = capsys.readouterr().out
    assert "is finished, all its 2 steps are done; --steps 4 would train 2 more. `ganfast sample" in said
    cli.main(["train", "--resume", "--run-dir", str(run), "--steps", "3"])
    assert checkpoint.load(run)["numbers"]["steps"] == 3
    saved = configs.load(run / checkpoint.CONFIG, Recipe)
    assert saved.steps == 3 and saved.width == 4 and not saved.fused  # the rest as the run had it


def test_a_resumed_run_with_nothing_left_to_do_says_what_would_go_on(run, capsys):
    """Of 30 steps 4 are done: `--steps` is the length of the whole run, which who asks for 3 took for the steps to add."""
    resume = ["train", "--resume", "--run-dir", str(run)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "progress", lambda trainer: trainer.steps / 4)
        cli.main([*resume, "--steps", "30"])
    for asked, says in {
        ("--steps", "3"): "has done 4 steps, and --steps 3 is the length of all of it: --steps 7 trains 3 more; left out, the run goes on",
        ("--steps", "4"): "is finished, all its 4 steps are done; --steps 8 would train 4 more",
        ("--max-seconds", "1e-6"): "the 1e-06 seconds it was given are used up, at step 4 of 30; --max-seconds 2e-06 would go on",
        ("--steps", "4", "--max-seconds", "1e-6"): "--steps 8 with --max-seconds 2e-06 would train 4 more",
    }.items():
        capsys.readouterr()
        cli.main([*resume, *asked])
        assert says in capsys.readouterr().out
        assert configs.load(run / checkpoint.CONFIG, Recipe).steps == 30  # nothing was touched


def test_a_run_that_was_moved_goes_on_where_it_is(run, tmp_path):
    moved = run.rename(tmp_path / "moved")
    cli.main(["train", "--resume", "--run-dir", str(moved), "--steps", "3"])
    assert (moved / "checkpoint-0000003.pt").exists() and not run.exists()


def test_pictures_clips_and_curves(tmp_path):
    cli.main(["train", "--run-dir", str(tmp_path / "run"), *SMALL, "--sample-every=1"])
    for name in ("curves.png", "learning.gif", "interpolation.gif", "grids/step-0000001.png", "grids/step-0000002.png"):
        with Image.open(tmp_path / "run" / name) as image:
            about = image.text["Synthetic"] if name.endswith("png") else image.info["comment"].decode()
            assert "yes" in about


def test_samples_repeat_and_say_what_they_are(run, tmp_path, capsys):
    cli.main(["sample", str(run), "--label", "7", "--seed", "3", "--count", "4"])
    first = run / "sample-step2-7-seed3"
    assert str(first / "grid.png") in capsys.readouterr().out
    assert sorted(path.name for path in first.iterdir()) == [*(f"7-00{i}.png" for i in range(4)), "grid.png"]
    with Image.open(first / "7-002.png") as image:
        assert image.size == (16, 16)
        assert image.text["Synthetic"].startswith("yes") and image.text["Model"] == f"DCGANGenerator, {run}, step 2"
        assert image.text["Seed"] == "3" and image.text["Label"] == "7"
    cli.main(["sample", str(run), "--label", "7", "--seed", "3", "--count", "4", "--out", str(tmp_path / "again")])
    assert all((tmp_path / "again" / path.name).read_bytes() == path.read_bytes() for path in first.iterdir())
    saved = str(run / "checkpoint-0000002.pt")
    cli.main(["sample", saved, "--label", "7", "--seed", "4", "--count", "4", "--out", str(tmp_path / "other")])
    assert (tmp_path / "other" / "7-000.png").read_bytes() != (first / "7-000.png").read_bytes()


def test_without_a_label_every_class_has_a_row(run, tmp_path):
    cli.main(["sample", str(run), "--count", "3", "--out", str(tmp_path / "all")])
    assert len(list((tmp_path / "all").iterdir())) == 31
    with Image.open(tmp_path / "all" / "grid.png") as grid:
        assert grid.size == (3 * 18 + 2, 10 * 18 + 2) and grid.text["Seed"] == "0"


def test_a_name_from_a_checkpoint_is_no_path():
    assert commands.file_name("../../etc/x.y") == "______etc_x_y"


def test_mistakes_are_one_line(run, tmp_path, capsys, rgb_folder):
    saved = str(run)
    assert "Did you mean 'train'" in fails(capsys, "trian")
    assert "steps got 0, wants at least 1" in fails(capsys, "train", "--steps", "0")
    assert "--stpes" in fails(capsys, "train", "--stpes", "3")
    assert "already holds a run" in fails(capsys, "train", "--run-dir", run)
    assert "no such folder" in fails(capsys, "train", "--data", tmp_path / "absent", "--run-dir", tmp_path / "a")
    assert "cannot be written" in fails(capsys, "train", "--run-dir", rgb_folder / "ants" / "0.png" / "run")
    assert "there is no run to resume in" in fails(capsys, "train", "--resume", "--run-dir", tmp_path / "b")
    assert "width got 8, the checkpoint has 4" in fails(capsys, "train", "--resume", "--run-dir", run, "--width", "8")
    assert "wants mlp for ring8" in fails(capsys, "train", "--data", "ring8", "--model", "dcgan", "--run-dir", tmp_path / "c")
    assert "there is no file" in fails(capsys, "sample", tmp_path / "none.pt")
    assert "there is no file" in fails(capsys, "sample", tmp_path / "none.pt", "--pick", "3")
    assert "no checkpoint" in fails(capsys, "sample", rgb_folder / "ants" / "0.png")
    assert "label='eleven' is unknown; valid: 0, 1" in fails(capsys, "sample", saved, "--label", "eleven")
    assert "count got 0" in fails(capsys, "sample", saved, "--count", "0")


def test_an_unconditional_model_takes_no_label(tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["train", "--run-dir", str(run), "--condition", "none", *SMALL])
    assert "unconditional" in fails(capsys, "sample", run, "--label", "7")
    cli.main(["sample", str(run), "--count", "2"])
    found = sorted(path.name for path in (run / "sample-step2-all-seed0").iterdir())
    assert found == ["grid.png", "image-000.png", "image-001.png"]


def test_points(tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["train", "--data=ring8", "--run-dir", str(run), "--steps=2", "--log-every=1", "--batch-size=8", "--metrics-every=2"])
    assert configs.load(run / checkpoint.CONFIG, Recipe).model == "mlp"
    cli.main(["sample", str(run), "--count", "5", "--out", str(tmp_path / "out")])
    rows = (tmp_path / "out" / "points.csv").read_text().splitlines()
    assert rows[0].startswith("# synthetic") and rows[1] == "x,y" and len(rows) == 7
    for name in (run / "grids" / "step-0000002.png", tmp_path / "out" / "points.png"):
        with Image.open(name) as image:
            assert image.text["Synthetic"].startswith("yes")
    assert (run / checkpoint.BEST).exists()


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert "pip install 'ganfast[train]'" in fails(capsys, "train")


def test_broken_images_are_counted(tmp_path, capsys, rgb_folder):
    cli.main(["train", "--data", str(rgb_folder), "--run-dir", str(tmp_path / "run"), *SMALL])
    assert "1 images cannot be read and are left out" in capsys.readouterr().err


def test_doctor_says_what_is_there_and_why_the_rest_is_not(capsys):
    cli.main(["doctor"])
    said = capsys.readouterr().out
    for name in ("torch", "auto", "reference", "cpu", "triton", "cuda", "training: ready", "data of systems: ready"):
        assert name in said


def test_doctor_says_how_to_get_what_is_missing(monkeypatch, capsys):
    import ganfast
    from ganfast._backends import Availability

    monkeypatch.setitem(ganfast.__dict__, "backends", lambda: {"cpu": Availability(False, "it was not built")})
    monkeypatch.setattr(cli, "_version", lambda package: "not installed" if package == "tqdm" else "1")
    cli.main(["doctor"])
    said = capsys.readouterr().out
    assert "no   it was not built" in said and "native parts: install a C++ compiler" in said and "missing tqdm; pip install" in said


def test_help_and_no_command(capsys):
    cli.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: ganfast {train,run,sample,project,edit,compare,doctor}")
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


def test_as_a_module():
    found = subprocess.run([sys.executable, "-m", "ganfast", "sample", "none.pt"], capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and found.stderr == "ganfast: checkpoint: there is no file none.pt.\n"
