"""A run's folder: one process at a time, no earlier run lost, and what was whole on the disk stays whole."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from torch import nn

from ganfast.train import checkpoint, disk
from ganfast.train.checkpoint import RunFolder
from tests.train.run_files import contents, finished, named, names, state, truncated


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "run")


def rows(run) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


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
        path = folder.save(state(step), step)
        if step in (1, 2, 3):
            folder.keep_best(path)
            folder.keep_best(path)  # again: nothing is left lying about
    assert [name for name in names(tmp_path) if name != ".lock"] == ["best.pt", "checkpoint-0000005.pt", "grids"]
    assert checkpoint.load(tmp_path / "best.pt")["steps"] == 3


def fill_the_disk(monkeypatch, room):
    """Files take `room` more bytes; then as a full disk."""
    real, written = open, [0]

    def limited(file, mode="r", *rest, **more):
        handle = real(file, mode, *rest, **more)
        if "r" in mode:
            return handle
        write = handle.write

        class Limited:
            def __getattr__(self, name):
                return getattr(handle, name)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                handle.close()

            def write(self, data):
                fits = max(0, room - written[0])
                written[0] += len(data)
                if len(data) <= fits:
                    return write(data)
                write(bytes(data)[:fits])
                raise OSError(errno.ENOSPC, "No space left on device")

        return Limited()

    monkeypatch.setattr("builtins.open", limited)


@pytest.mark.parametrize("room", [0, 1, 500, 3000, 5000])
def test_a_full_disk_loses_nothing(run, monkeypatch, room):
    folder = RunFolder(run, resume=True, keep=1)
    before = contents(run)
    with monkeypatch.context() as patch:
        fill_the_disk(patch, room)
        with pytest.raises(RuntimeError, match=r"0000005.pt cannot be written: No space left on device; whole on the disk: .*0000004.pt"):
            folder.save(state(5), 5)
    assert contents(run) == before
    with monkeypatch.context() as patch:
        fill_the_disk(patch, min(room, 20))
        with pytest.raises(RuntimeError, match=r"log.jsonl cannot be written: No space left"):
            folder.log({"step": 5, "loss_d": 0.123456})
        with pytest.raises(RuntimeError, match=r"w.safetensors cannot be written: No space left"):
            folder.weights("w.safetensors", nn.Linear(9, 9), 5)
        with pytest.raises(RuntimeError, match=r"jsonl cannot be written: No space left"):
            folder.begin({"steps": 9}, 4, [])
    assert contents(run) == before
    assert folder.save(state(5), 5).exists()  # once there is room again
    assert list(checkpoint.checkpoints(run)) == [5]


def test_a_real_limit_of_the_disk(run):
    """As above, met by the operating system within torch's own writer."""
    code = """
import resource, sys, pathlib
from tests.train.run_files import RunFolder, state
folder = RunFolder(pathlib.Path(sys.argv[1]), resume=True, keep=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
folder.save(state(5), 5)
"""
    before = contents(run)
    ended = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert "RuntimeError: checkpoint:" in ended.stderr and f"File too large; whole on the disk: {named(run, 4)}." in ended.stderr
    assert contents(run) | {str(run / ".lock"): b""} == before | {str(run / ".lock"): b""}


def test_a_checkpoint_is_on_the_disk_before_an_older_one_goes(run, monkeypatch):
    folder, order = RunFolder(run, resume=True, keep=1), []
    fsync, replace, unlink = os.fsync, os.replace, type(run).unlink
    monkeypatch.setattr(os, "fsync", lambda fd: order.append(("sync", os.readlink(f"/proc/self/fd/{fd}"))) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(("rename", str(b))) or replace(a, b))
    monkeypatch.setattr(type(run), "unlink", lambda path, **how: order.append(("delete", str(path))) or unlink(path, **how))
    path = folder.save(state(5), 5)
    order = [(what, name) for what, name in order if what != "delete" or not name.endswith(disk.WRITING)]
    assert [what for what, _ in order] == ["sync", "sync", "rename", "sync", "delete", "delete", "delete"]
    (_, log), (_, temporary), (_, renamed), (_, parent), *deleted = order
    assert log == str(run / "log.jsonl") and temporary.startswith(str(path)) and temporary.endswith(disk.WRITING)
    assert renamed == str(path) and parent == str(run) and [name for _, name in deleted] == [str(named(run, step)) for step in (2, 3, 4)]


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
        ValueError, match=r"already holds a run \(checkpoint-0000002.pt, .*0000004.pt\); resume it, or choose another"
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
