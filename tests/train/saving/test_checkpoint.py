"""A checkpoint's file: what is written is read, and whatever is wrong with it has one clear error."""

import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ganfast.train.saving import checkpoint
from ganfast.train.saving.checkpoint import RunFolder
from tests.train.saving.run_files import DAMAGES, OTHERS, STATE, contents, finished, named, names, truncated


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "run")


def test_what_is_written_is_read(tmp_path):
    checkpoint.write(STATE, tmp_path / "a.pt")
    read = checkpoint.load(tmp_path / "a.pt")
    assert {name: read[name] for name in STATE if name not in ("weight", "rng", "optimizer")} == {"numbers": STATE["numbers"]}
    assert torch.equal(read["weight"], STATE["weight"]) and torch.equal(read["rng"], STATE["rng"])
    assert read["optimizer"]["param_groups"] == STATE["optimizer"]["param_groups"]
    assert names(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(("damage", "words"), [(damage, "is cut short, damaged, or no checkpoint") for damage in DAMAGES] + OTHERS)
def test_a_file_that_cannot_serve_is_named_with_the_newest_good_one(run, damage, words):
    damage(named(run, 4))
    before = contents(run)
    with pytest.raises(ValueError, match=words) as caught:
        checkpoint.load(named(run, 4))
    said = str(caught.value)
    assert str(named(run, 4)) in said and said.endswith(f"The newest good one beside it is {named(run, 3)}.") and "\n" not in said
    assert checkpoint.newest(run) == named(run, 3)
    assert contents(run) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_gives_its_newest_good_one_with_a_word(run, damage, capsys):
    damage(named(run, 4))
    truncated(named(run, 3))
    assert checkpoint.load(run)["steps"] == 2
    said = capsys.readouterr().err
    assert all(str(named(run, step)) in said for step in (4, 3)) and f"Taking {named(run, 2)}" in said


@pytest.mark.parametrize(("damage", "words"), OTHERS)
def test_a_folder_does_not_go_back_behind_what_another_ganfast_wrote(run, damage, words):
    damage(named(run, 4))
    with pytest.raises(ValueError, match=f"{words}.*The newest good one beside it is .*0000003.pt"):
        checkpoint.load(run)


def test_a_folder_of_broken_files(run):
    for step in (2, 3, 4):
        truncated(named(run, step))
    with pytest.raises(ValueError, match=r"0000004.pt is cut short.*0000002.pt is cut short.*no good one in .*start anew"):
        checkpoint.load(run)
    with pytest.raises(ValueError, match="cut short") as caught:
        checkpoint.load(named(run, 4))
    assert checkpoint.newest(run) is None and "newest good" not in str(caught.value)
    with pytest.raises(ValueError, match="already holds a run"):
        RunFolder(run, resume=False, keep=1)


def test_the_best_one_serves_when_no_other_does(run):
    folder = RunFolder(run, resume=True, keep=3)
    folder.keep_best(checkpoint.load(named(run, 2)))
    named(run, 2).unlink()
    for step in (3, 4):
        truncated(named(run, step))
    assert checkpoint.load(run)["steps"] == 2 and checkpoint.newest(run) == run / "best.pt"


@pytest.mark.parametrize(
    ("place", "words"), [("nothing.pt", "there is no file"), ("run/nothing.pt", "there is no file"), ("empty", "none in")]
)
def test_nothing_to_load(run, place, words):
    (run.parent / "empty").mkdir()
    with pytest.raises(ValueError, match=words) as caught:
        checkpoint.load(run.parent / place)
    assert ("0000004.pt" in str(caught.value)) == place.startswith("run")


class Hostile:
    """What a checkpoint from a stranger may hold: reading it as an ordinary pickle makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_hostile_checkpoint_runs_no_code(run, tmp_path):
    torch.save(torch.load(named(run, 4), weights_only=True) | {"extra": Hostile(tmp_path / "made")}, named(run, 4))
    with pytest.raises(ValueError, match="not safe to read"):
        checkpoint.load(named(run, 4))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [np.float64(1), {1, 2}, range(3), nn.Linear(1, 1), np.zeros(2)], ids=lambda value: type(value).__name__)
def test_what_could_not_be_read_back_is_not_written(run, value):
    before = contents(run)
    with pytest.raises(ValueError, match=r"state\['nets'\]\[1\] is a .*, wants tensors, numbers"):
        checkpoint.write({"nets": [0, value]}, named(run, 4))
    assert contents(run) == before


def test_checksums_are_written_though_torch_is_told_not_to(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        checkpoint.write(STATE, tmp_path / "a.pt")
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    checkpoint.load(tmp_path / "a.pt")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        flat = torch.randn(20)
        self.register_buffer("head", flat[:8])
        self.register_buffer("tail", flat[5:].view(3, 5).t())  # overlaps, and is not contiguous
        self.register_buffer("count", torch.tensor(3))
        self.small = nn.Parameter(torch.randn(3).bfloat16())


def test_weights_of_any_layout_go_into_a_fresh_module(tmp_path):
    module, path = Tied(), tmp_path / "ema.safetensors"
    checkpoint.write_weights(path, module, 12)
    fresh = Tied()
    fresh.load_state_dict(load_file(path))
    for name, value in module.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
    assert fresh.conv.weight.is_contiguous(memory_format=torch.channels_last) and fresh.a.weight is fresh.b.weight
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["format"] == "pt" and about["step"] == "12" and "synthetic" in about["note"] and "left_out" not in about
    assert names(tmp_path) == ["ema.safetensors"]


def test_weights_name_what_safetensors_cannot_hold(tmp_path):
    class WithExtra(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    checkpoint.write_weights(tmp_path / "w.safetensors", WithExtra(2, 2))
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata()["left_out"] == "_extra_state" and sorted(file.keys()) == ["bias", "weight"]
