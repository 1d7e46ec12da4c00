"""However a run ends, and it goes on: it is bit for bit the run that nothing happened to."""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ganfast import _tune, cli
from ganfast.train import Trainer
from ganfast.train.command_line import recipes
from ganfast.train.saving import checkpoint, disk, kernels
from ganfast.train.watch import standard
from tests.train.common import CLOCK, differences, log_rows, small, trained
from tests.train.saving.killing import KINDS
from tests.train.saving.run_files import Watched

ALIKE = os.environ | {"OMP_NUM_THREADS": "1", "GANFAST_TUNE": "0"}
OPTIONS = [
    "--image-size=16", "--width=4", "--latent-dim=6", "--batch-size=8", "--steps=150", "--log-every=4", "--checkpoint-every=20",
    "--keep-checkpoints=2", "--sample-every=1000", "--precision=fp32", "--device=cpu", "--no-fused",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than these runs."""
    monkeypatch.setattr(standard, "default", lambda config: [])


def rows(run: Path) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in log_rows(run)]


def same_run(one: Path, other: Path, but: tuple[str, ...] = ()) -> None:
    assert [name for name in differences(one, other) if name not in but] == []
    assert rows(one) == rows(other)
    assert not list(other.rglob(f"*{disk.WRITING}"))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.prove)])
def test_killed_at_many_points(tmp_path, kills):
    command = [sys.executable, "-m", "tests.train.saving.killing", str(tmp_path), str(kills)]
    ended = subprocess.run(command, capture_output=True, text=True, env=ALIKE)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    deaths = report["deaths"]
    every = {*KINDS, "Clock"}
    assert len(deaths) == kills and (kills < len(every) or {death["kind"] for death in deaths} == every)
    assert kills < len(every) or sum(bool(death["left"]) for death in deaths) >= 2  # inside a file
    for name in report["runs"]:
        same_run(tmp_path / "whole", tmp_path / name)
        for file in ("ema", "generator", "discriminator"):
            one, other = (load_file(tmp_path / run / f"{file}.safetensors") for run in ("whole", name))
            assert one.keys() == other.keys() and all(torch.equal(one[tensor], other[tensor]) for tensor in one)
        assert checkpoint.checkpoints(tmp_path / name).keys() == checkpoint.checkpoints(tmp_path / "whole").keys() == {36, 40}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standard, "default", lambda config: [])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        cli.main(["train", "--run-dir", str(run), *OPTIONS])
        torch.set_num_threads(threads)
    return run


def goes_on(run: Path, said: str, name: str, uninterrupted: Path, capsys) -> None:
    """By the very command that was printed."""
    (stopped,) = checkpoint.checkpoints(run).keys() - set(range(20, 160, 20))
    assert f"stopped at step {stopped} of 150 by {name}; saved in {run}" in said
    cli.main(re.search(r"`ganfast (train --resume --run-dir .*)` goes on", said)[1].split())
    assert "150 steps" in capsys.readouterr().out
    same_run(uninterrupted, run, but=("/rng/torch",))  # another process's generator, from which nothing is drawn


def test_on_sigterm_it_saves_and_says_how_to_go_on(tmp_path, uninterrupted, capsys):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ganfast", "train", "--run-dir", str(run), *OPTIONS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ALIKE)
    while process.poll() is None and not (run / checkpoint.LOG).exists():
        time.sleep(0.005)
    with pytest.raises(ValueError, match=f"in use by process {process.pid} on "):  # and the first goes on unharmed
        recipes.trainer(small(run))
    process.terminate()
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    goes_on(run, said + errors, "SIGTERM", uninterrupted, capsys)


def test_on_ctrl_c_it_saves_and_says_how_to_go_on(tmp_path, uninterrupted, capsys, monkeypatch):
    def step(trainer, real=Trainer.step):
        real(trainer)
        if trainer.steps == 33:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        cli.main(["train", "--run-dir", str(tmp_path / "run"), *OPTIONS])  # returns: exit code 0
    signal.signal(signal.SIGINT, before)
    goes_on(tmp_path / "run", "".join(capsys.readouterr()), "Ctrl-C", uninterrupted, capsys)


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(tmp_path, monkeypatch):
    """In the middle of the second checkpoint."""
    trained(tmp_path / "whole", steps=9)
    run = tmp_path / "run"
    trainer = recipes.trainer(small(run, steps=9))

    written = [0]

    def write(file, piece):
        written[0] += len(piece) if trainer.steps == 6 else 0
        if written[0] > 30_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return file.write(piece)

    def limited(path, mode):
        return Watched(open(path, mode), write)

    monkeypatch.setattr(disk, "open", limited, raising=False)
    with pytest.raises(RuntimeError, match=r"0000006.pt cannot be written: No space left on device; whole on the disk: .*0000003.pt"):
        trainer.fit(progress_bar=False)
    monkeypatch.setattr(disk, "open", open)
    assert list(checkpoint.checkpoints(run)) == [3] and not list(run.rglob(f"*{disk.WRITING}"))
    recipes.trainer(small(run, steps=9), resume=True).fit(progress_bar=False)
    same_run(tmp_path / "whole", run)


def test_a_damaged_last_checkpoint_costs_its_steps_alone(tmp_path, capsys):
    trained(tmp_path / "whole", steps=9)
    run = tmp_path / "run"
    trained(run)
    last = checkpoint.newest(run)
    last.write_bytes(last.read_bytes()[:-100])
    resumed = recipes.trainer(small(run, steps=9), resume=True)
    assert resumed.steps == 3 and f"{last} is cut short" in capsys.readouterr().err
    resumed.fit(progress_bar=False)
    same_run(tmp_path / "whole", run)


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """The tuner on, with a cache of its own; every question is answered by the candidate named here, as by a clock's whim. Asked for
    layers or a kernel of ganfast's, "torch" answers layers."""
    monkeypatch.setenv("GANFAST_TUNE", "1")
    monkeypatch.setenv("GANFAST_CACHE", str(tmp_path / "cache"))
    whim = []

    def measure(question, candidates, device, check, margin):
        whim.append(whim[0])
        liked = whim[0], {"torch": "torch"}.get(whim[0], "fused")
        name = next(name for name in (*liked, *candidates) if name in candidates)
        return _tune.Choice(name, {}, {})

    monkeypatch.setattr(_tune, "_measure", measure)
    yield whim
    forget()


def forget():
    """As a new process."""
    for store in (_tune._choices, _tune._answers, _tune._families, _tune._loaded):
        store.clear()
    _tune.Memo.forget_all()


@pytest.mark.parametrize("backend", ["cpu"])
def test_a_resumed_run_keeps_its_kernels_whatever_the_tuner_would_say_now(tmp_path, answers, backend):
    def run(name, answer, steps, resume=False):
        forget()
        answers[:] = [answer]
        trainer = recipes.trainer(small(tmp_path / name, fused=True, steps=steps, decay_from=1.0, log_every=3), resume=resume)
        trainer.fit(progress_bar=False)
        return len(answers) - 1

    assert run("whole", backend, 6) > 5  # questions
    (cache,) = (tmp_path / "cache").glob("*.json")
    cache.unlink()
    run("other", "torch", 6)  # which also leaves a cache file full of other answers
    assert [name for name in differences(tmp_path / "whole", tmp_path / "other") if name.startswith("/networks/generator")]
    cache.unlink()
    run("parts", backend, 3)
    cache.unlink()
    run("other again", "torch", 3)
    assert run("parts", "torch", 6, resume=True) == 0
    changed = {"/config/steps", *(f"/optimizers/{name}/param_groups/0/lr" for name in ("generator", "discriminator"))}
    assert set(differences(tmp_path / "whole", tmp_path / "parts")) <= changed


def test_a_run_killed_before_its_first_checkpoint_goes_on_with_its_kernels(tmp_path, answers, monkeypatch):
    """With another cache: the choices made in its steps are in its folder as soon as anything that they made is."""

    def run(name, answer, resume=False, dies_at=0):
        forget()
        for cache in (tmp_path / "cache").glob("*.json"):
            cache.unlink()
        answers[:] = [answer]
        settings = small(tmp_path / name, fused=True, steps=4, decay_from=1.0, log_every=1, checkpoint_every=100)
        trainer = recipes.trainer(settings, resume=resume)
        with monkeypatch.context() as patch:
            log = checkpoint.RunFolder.log
            patch.setattr(checkpoint.RunFolder, "log", lambda folder, row: (log(folder, row), row["step"] == dies_at and 1 / 0)[0])
            with pytest.raises(ZeroDivisionError) if dies_at else contextlib.nullcontext():
                trainer.fit(progress_bar=False)
        return len(answers) - 1

    run("whole", "cpu")
    run("killed", "cpu", dies_at=2)
    assert checkpoint.checkpoints(tmp_path / "killed").keys() == {0}
    assert run("killed", "torch", resume=True) == 0  # nothing was asked anew
    same_run(tmp_path / "whole", tmp_path / "killed")
    for name in ("whole", "killed"):
        assert checkpoint.checkpoints(tmp_path / name).keys() == {4}
        assert json.loads((tmp_path / name / kernels.FILE).read_text()) == checkpoint.load(tmp_path / name)["kernels"]


def test_a_first_run_that_failed_begins_again_or_goes_on(tmp_path, monkeypatch):
    """Restarted, nothing of the failed run is left: neither its weights nor its kernels."""
    trained(tmp_path / "whole")
    failed = tmp_path / "failed"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda trainer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained(failed, seed=1, width=8)
    (failed / kernels.FILE).write_text('{"off": "", "answers": {"stale": "stale"}, "families": {}}')
    trained(failed)
    same_run(tmp_path / "whole", failed)
    assert "stale" not in (failed / kernels.FILE).read_text()


def test_best_is_later_than_the_start(tmp_path):
    trainer = recipes.trainer(small(tmp_path / "run", checkpoint_every=100))

    def log(bar=None, trainer=trainer):
        trainer.save_best()
        raise ZeroDivisionError

    trainer.log = log
    with pytest.raises(ZeroDivisionError):
        trainer.fit(progress_bar=False)
    assert checkpoint.newest(tmp_path / "run").name == checkpoint.BEST and checkpoint.checkpoints(tmp_path / "run").keys() == {0}
    with pytest.raises(ValueError, match=r"already holds a run \(best.pt\)"):
        recipes.trainer(small(tmp_path / "run"))
    assert recipes.trainer(small(tmp_path / "run", checkpoint_every=100), resume=True).steps == 2
