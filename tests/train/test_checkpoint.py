"""Checkpoints and run folders: whatever is wrong has one clear error, and nothing on the disk changes."""

import os

import pytest
import torch

from ganfast.train import Trainer, checkpoint
from tests.train.common import small


@pytest.fixture
def run(tmp_path):
    Trainer(small(tmp_path / "run", steps=1)).fit(progress_bar=False)
    return tmp_path / "run"


def contents(run) -> dict:
    return {str(path): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_flipped_header(path):
    path.write_bytes(b"XX" + path.read_bytes()[2:])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a checkpoint\n")


def foreign(path):
    torch.save({"model": {"weight": torch.zeros(3)}}, path)


def a_list(path):
    torch.save([1, 2], path)


def newer(path):
    torch.save(torch.load(path, weights_only=True) | {"version": checkpoint.VERSION + 1}, path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, "cut short, damaged"),
        (one_flipped_header, "cut short, damaged"),
        (empty, "cut short, damaged"),
        (text, "cut short, damaged"),
        (foreign, "another program"),
        (a_list, "another program"),
        (newer, f"format version {checkpoint.VERSION + 1}, this ganfast reads up to {checkpoint.VERSION}"),
    ],
)
def test_a_checkpoint_that_cannot_serve(run, damage, words):
    path = run / checkpoint.CHECKPOINT
    damage(path)
    before = contents(run)
    for use in (lambda: checkpoint.load_sampler(path), lambda: Trainer(small(run, steps=3), resume=True)):
        with pytest.raises(ValueError, match=words) as caught:
            use()
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert contents(run) == before


class Hostile:
    """What a checkpoint from a stranger may hold: reading it as an ordinary pickle makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_hostile_checkpoint_runs_no_code(run, tmp_path):
    path = run / checkpoint.CHECKPOINT
    torch.save(torch.load(path, weights_only=True) | {"extra": Hostile(tmp_path / "made")}, path)
    with pytest.raises(ValueError, match="cut short, damaged"):
        checkpoint.load(path)
    assert not (tmp_path / "made").exists()


def test_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        Trainer(small(tmp_path / "run"), resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["ema", "config", "conditions", "classes", "steps"])
def test_a_checkpoint_without_a_part(run, part):
    path = run / checkpoint.CHECKPOINT
    state = torch.load(path, weights_only=True)
    del state[part]
    torch.save(state, path)
    with pytest.raises(ValueError, match="does not hold a whole generator"):
        checkpoint.load_sampler(path)
    with pytest.raises(ValueError, match="does not hold a whole run"):
        Trainer(small(run, steps=3), resume=True)


def test_a_checkpoint_of_other_sizes(run):
    path = run / checkpoint.CHECKPOINT
    state = torch.load(path, weights_only=True)
    state["config"]["width"] = 8
    torch.save(state, path)
    with pytest.raises(ValueError, match="does not hold a whole generator"):
        checkpoint.load_sampler(path)


@pytest.mark.parametrize(
    ("name", "value"), [("width", 8), ("image_size", 32), ("latent_dim", 7), ("condition_dim", 11), ("conditional", False)]
)
def test_a_resumed_run_keeps_its_networks(run, name, value):
    before = contents(run)
    with pytest.raises(ValueError, match=f"{name} got {value}, the checkpoint has .* keeps its networks"):
        Trainer(small(run, steps=3, **{name: value}), resume=True)
    assert contents(run) == before


def test_a_resumed_run_keeps_its_classes(tmp_path, rgb_folder):
    config = small(tmp_path / "run", data=str(rgb_folder), steps=1)
    Trainer(config).fit(progress_bar=False)
    (rgb_folder / "bees").rename(rgb_folder / "wasps")
    with pytest.raises(ValueError, match="keeps its classes"):
        Trainer(config, resume=True)


def test_an_earlier_run_is_not_overwritten(run):
    before = contents(run)
    with pytest.raises(ValueError, match=r"already holds a run \(checkpoint.pt, config.json, log.jsonl\)"):
        Trainer(small(run))
    assert contents(run) == before


def test_a_folder_that_takes_no_files(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="cannot be written: Not a directory"):
        Trainer(small(tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "kept"

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)  # a read-only folder, also for root
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        Trainer(small(tmp_path / "run"))


def test_a_crash_while_writing_leaves_the_old_checkpoint(run, monkeypatch):
    path = run / checkpoint.CHECKPOINT
    before = contents(run)

    def half(state, file):
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save({}, path)
    assert contents(run) == before


def test_sampling_repeats_and_depends_on_seed_and_label(run):
    sampler = checkpoint.load_sampler(run / checkpoint.CHECKPOINT)
    labels = torch.full((4,), 7)
    images = sampler(labels, 3)
    assert torch.equal(images, checkpoint.load_sampler(run / checkpoint.CHECKPOINT)(labels, 3))
    assert not torch.equal(images, sampler(labels, 4)) and not torch.equal(images, sampler(labels - 1, 3))
    assert images.shape == (4, 1, 16, 16) and images.abs().max() <= 1


def test_many_samples_come_in_batches(run):
    sampler = checkpoint.load_sampler(run / checkpoint.CHECKPOINT)
    labels = torch.arange(601) % 10
    latent = torch.randn(601, 6, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(sampler(labels, 5), sampler.generator(latent, sampler.conditions[labels]))
