"""A run's folder: one process at a time, no earlier run lost, and what was whole on the disk stays whole."""

import errno
import json
import multiprocessing
import os
import signal
import sys
import time

import pytest

from ganfast import _tune
from ganfast.train.saving import checkpoint, kernels
from ganfast.train.saving.checkpoint import RunFolder
from tests.train.saving.run_files import contents, finished, named, names, rows, state, truncated


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "run")


def test_the_last_few_stay_by_number_and_not_by_name(tmp_path):
    folder = RunFolder(tmp_path, resume=False, keep=2)
    steps = (5, 999_999, 9_999_999, 10_000_000, 10_000_001)
    paths = [folder.save(state(step), step) for step in steps]
    assert [path.exists() for path in paths] == [False, False, False, True, True]
    assert checkpoint.load(tmp_path)["steps"] == 10_000_001 and checkpoint.newest(tmp_path) == paths[-1]
    assert list(checkpoint.checkpoints(tmp_path)) == [10_000_000, 10_000_001]


@pytest.mark.parametrize("links", [True, False])
def test_the_best_one_outlives_the_others(tmp_path, links, monkeypatch):
    folder = RunFolder(tmp_path, resume=False, keep=1)
    if not links:

        def refuse(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    for step in range(1, 6):
        folder.save(state(step), step)
        if step in (1, 2, 3):
            folder.keep_best(state(step))
    assert [name for name in names(tmp_path) if name != ".lock"] == ["best.pt", "checkpoint-0000005.pt", "grids"]
    assert checkpoint.load(tmp_path / "best.pt")["steps"] == 3


@pytest.mark.parametrize("how", ["folder", "file", "lock"])
def test_a_folder_that_takes_no_files(tmp_path, monkeypatch, how):
    if how == "file":
        (tmp_path / "file").write_text("kept")
        with pytest.raises(ValueError, match="cannot be written: Not a directory"):
            RunFolder(tmp_path / "file" / "run", resume=False, keep=1)
        assert (tmp_path / "file").read_text() == "kept"
        return

    def refuse(*_, **__):  # permissions do not stop the superuser
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(*((type(tmp_path), "mkdir") if how == "folder" else (os, "open")), refuse)
    with pytest.raises(ValueError, match=f"run_dir {tmp_path} cannot be written: Permission denied"):
        RunFolder(tmp_path, resume=False, keep=1)


def test_an_earlier_run_is_not_overwritten(run):
    before = contents(run)
    with pytest.raises(
        ValueError, match=r"already holds a run \(checkpoint-0000002.pt, .*0000004.pt\); resume it \(--resume\), or take another"
    ) as caught:
        RunFolder(run, resume=False, keep=1)
    assert contents(run).keys() == before.keys() and rows(run)
    RunFolder(run, resume=True, keep=1)  # the refused one holds no lock, though its error is kept
    assert caught.value


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.pt"])
def test_so_is_one_of_which_only_that_is_left(tmp_path, name):
    (tmp_path / name).write_bytes(b"kept")
    with pytest.raises(ValueError, match=f"already holds a run \\({name}\\)"):
        RunFolder(tmp_path, resume=False, keep=1)


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(tmp_path, capsys):
    folder = RunFolder(tmp_path, resume=False, keep=1)
    folder.begin({"width": 8}, 0, ["broken.png"])
    folder.log({"step": 1, "loss_d": 1.0})
    folder.close()
    with pytest.raises(ValueError, match="ended before the first one; start it again without resume"):
        checkpoint.load(tmp_path)
    assert capsys.readouterr().err == ""
    again = RunFolder(tmp_path, resume=False, keep=1)
    assert f"the run in {tmp_path} ended before its first checkpoint; it begins again" in capsys.readouterr().err
    again.begin({"width": 4}, 0, [])
    assert rows(tmp_path) == [] and json.loads((tmp_path / "config.json").read_text()) == {"width": 4}
    assert not (tmp_path / "broken.txt").exists()


def test_a_resumed_log_ends_where_the_checkpoint_was_made(run):
    with open(run / "log.jsonl", "ab") as file:
        file.write(b"\0" * 30 + b'\n[1]\n{"step": 4, "note": "\xff"}\n{"step": 5}\n{"step": 4}\n{"step": 4, "loss_d": 0.')  # torn
    folder = RunFolder(run, resume=True, keep=1)
    folder.begin({}, 4, ["a.png", "b.png"])
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 4] and (run / "broken.txt").read_text() == "a.png\nb.png\n"
    folder.log({"step": 5, "loss_d": float("inf"), "loss_g": float("nan"), "skipped": 3})
    assert rows(run)[-1] == {"step": 5, "loss_d": None, "loss_g": None, "skipped": 3}
    with open(run / "log.jsonl", "ab") as file:
        file.write(b'{"step": 5}')  # torn just before its end of line, which the next line would be glued to
    folder.begin({}, 5, [])
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 4, 5]
    folder.begin({}, 2, [])
    assert [row["step"] for row in rows(run)] == [1, 2]


def test_what_is_later_than_the_resumed_checkpoint_is_set_aside(run, capsys):
    truncated(named(run, 4))
    kept = named(run, 4).read_bytes()
    folder = RunFolder(run, resume=True, keep=2)
    folder.begin({}, 3, [])
    assert "goes on from step 3; checkpoint-0000004.pt is set aside as checkpoint-0000004.pt.aside" in capsys.readouterr().err
    assert checkpoint.newest(run) == named(run, 3) and (run / "checkpoint-0000004.pt.aside").read_bytes() == kept
    folder.save(state(4), 4)
    folder.save(state(5), 5)
    assert list(checkpoint.checkpoints(run)) == [4, 5]


def test_what_a_kill_left_half_written_is_cleared_and_never_read(run):
    half = [run / "checkpoint-0000009.pt.ab12.writing", run / "best.pt.writing", run / "grids" / "step.png.00.writing"]
    for path in half:
        path.write_bytes(named(run, 4).read_bytes())
    assert checkpoint.newest(run) == named(run, 4) and checkpoint.load(run)["steps"] == 4
    RunFolder(run, resume=True, keep=1)
    assert not any(path.exists() for path in half) and checkpoint.newest(run) == named(run, 4)


def hold(path, ready, workers) -> None:
    """Holds the folder until it is killed, with a forked worker that outlives it."""
    folder = RunFolder(path, resume=True, keep=1)
    if workers and os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    folder.log({"step": 5})
    ready.set()
    time.sleep(60)


@pytest.mark.parametrize("workers", [False, True])
def test_two_runs_in_one_folder(run, workers):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=hold, args=(run, ready, workers))
    first.start()
    assert ready.wait(30)
    before = contents(run)
    with pytest.raises(ValueError, match=f"in use by process {first.pid} on .*; stop it, or choose another folder"):
        RunFolder(run, resume=True, keep=1)
    assert contents(run) == before
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    RunFolder(run, resume=True, keep=1)  # at once, though its worker lives


def test_a_second_trainer_of_one_process_is_told_so_and_the_folder_is_free_when_the_first_is_gone(run):
    first = RunFolder(run, resume=True, keep=1)
    with pytest.raises(ValueError, match="in use by this very process"):
        RunFolder(run, resume=True, keep=1)
    first.close()
    first.close()
    second = RunFolder(run, resume=True, keep=1)
    del second  # collected, not closed
    RunFolder(run, resume=True, keep=1)


def test_without_locks_a_run_goes_on(run, monkeypatch, capsys):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    RunFolder(run, resume=True, keep=1).close()
    assert "takes no lock (No locks available)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fcntl", None)  # Windows
    RunFolder(run, resume=True, keep=1).log({"step": 5})


def test_at_least_one_checkpoint_is_kept(tmp_path):
    with pytest.raises(ValueError, match="keep_checkpoints got 0, wants at least 1"):
        RunFolder(tmp_path, resume=False, keep=0)


def test_choices_of_the_checkpoint_and_those_made_since_are_read_together(run, capsys, monkeypatch):
    held = {"off": "", "answers": {"a": "cpu"}, "families": {"f": {"a": "cpu"}, "g": {}}}
    since = {"off": "", "answers": {"b": "torch"}, "families": {"f": {"b": "torch"}, "h": {"c": "cpu"}}}
    folder = RunFolder(run, resume=True, keep=3)
    folder.save(state(5) | {"kernels": held}, 5)
    assert checkpoint.with_kernels(run)["kernels"] | {"off": ""} == held
    monkeypatch.setattr(_tune, "choices", lambda: since)
    folder.keep_kernels()
    families = {"f": {"a": "cpu", "b": "torch"}, "g": {}, "h": {"c": "cpu"}}
    assert checkpoint.with_kernels(run)["kernels"] == {"off": "", "answers": {"a": "cpu", "b": "torch"}, "families": families}
    for damage in ("{", "[1]", '{"answers": 3}'):
        (run / kernels.FILE).write_text(damage)
        assert checkpoint.with_kernels(run)["kernels"] | {"off": ""} == held
    assert "the tuner's choices are those of the checkpoint" in capsys.readouterr().err
