"""What the disk does to a run's folder: full, or the process dead at any touch, what was whole on it stays whole."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest
from torch import nn

from ganfast.train.saving import checkpoint, disk
from ganfast.train.saving.checkpoint import RunFolder
from tests.train.saving.run_files import Watched, contents, finished, named, rows, state


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "run")


def fill_the_disk(monkeypatch, room):
    """Files take `room` more bytes; then as a full disk."""
    real, written = open, [0]

    def write(file, piece):
        fits = max(0, room - written[0])
        written[0] += len(piece)
        if len(piece) <= fits:
            return file.write(piece)
        file.write(bytes(piece)[:fits])
        raise OSError(errno.ENOSPC, "No space left on device")

    def limited(path, mode="r", *rest, **more):
        file = real(path, mode, *rest, **more)
        return file if "r" in mode else Watched(file, write)

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
from tests.train.saving.run_files import RunFolder, state
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


TOUCHES = {"fsync", "replace", "unlink", "link", "open", "write", "writelines", "flush", "close", "ftruncate", "mkdir", "flock"}


def killed_at(touch, path) -> bool:
    """Goes on with the run in a child that dies before its `touch`-th touch of the disk; False: there are not so many."""
    child = os.fork()
    if child == 0:
        count = [0]

        def note(frame, event, called):
            count[0] += event == "c_call" and called.__name__ in TOUCHES
            if count[0] == touch:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(note)
        folder = RunFolder(path, resume=True, keep=1)
        folder.begin({"steps": 5}, 4, ["broken.png"])
        folder.log({"step": 5, "loss_d": 0.5})
        folder.save(state(5), 5)
        folder.keep_best(state(5))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_killed_at_every_touch_of_the_disk(run, tmp_path):
    touch, ends = 1, []
    while killed_at(touch, shutil.copytree(run, path := tmp_path / f"copy-{touch}")):
        step = checkpoint.load(path)["steps"]
        ends.append((step, (path / "best.pt").exists()))
        assert not ends[-1][1] or checkpoint.load(path / "best.pt")["steps"] == 5
        RunFolder(path, resume=True, keep=1).begin({}, step, [])
        assert [row["step"] for row in rows(path)] == list(range(1, step + 1))
        assert not list(path.rglob(f"*{disk.WRITING}"))
        touch += 1
    assert touch > 40 and set(ends) == {(4, False), (5, False), (5, True)} and ends == sorted(ends)
