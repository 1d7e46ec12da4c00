"""Several processes: half the batch in each of two is the whole batch in one; one of them speaks; a lost one ends all."""

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from ganfast import accelerate
from ganfast.nn import BatchNormAct2d
from ganfast.train.distributed.sync_batch_norm import _Synchronised, synchronise
from ganfast.train.distributed.world import World
from ganfast.train.saving import checkpoint
from tests.train.distributed import processes

ROOT = Path(__file__).parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
RING = ["-m", "ganfast", "train", "--data=ring8", "--batch-size=16", "--steps=1000000", "--log-every=10", "--checkpoint-every=10"]

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def torchrun(*args: object) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GANFAST_TUNE": "0", "PYTHONPATH": str(ROOT), "GANFAST_TIMEOUT": "120"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*TORCHRUN, *map(str, args)], cwd=ROOT, env=environment, **pipes)


def worker(launcher: subprocess.Popen, rank: int) -> int:
    """The process id."""
    for pid in map(int, Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()):
        if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{pid}/environ").read_text():
            return pid
    raise AssertionError(f"torchrun has no process of rank {rank}")


def wait_for(condition, launcher: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert launcher.poll() is None and time.monotonic() < until, launcher.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(what each of two processes came to, what they said), of tests/train/distributed/processes.py."""
    folder = tmp_path_factory.mktemp("pair")
    launcher = torchrun(processes.__file__, folder)
    _, said = launcher.communicate(timeout=300)
    assert (folder / "0.pt").exists() and (folder / "1.pt").exists(), said
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)], said, launcher.returncode


@pytest.mark.parametrize("case", processes.CASES)
def test_two_processes_with_half_the_batch_are_one_process(pair, case):
    (first, second), _, _ = pair
    whole, half = processes.run(case, 0), first[case]
    clock = {"seconds": 0, "images_per_second": 0, "compile_seconds": 0, "alarms": []}
    whole["rows"], half["rows"] = ([row | clock for row in rows] for rows in (whole["rows"], half["rows"]))
    loose = {"rtol": 2e-3, "atol": 2e-4} if case == "skipped" else {"rtol": 2e-4, "atol": 2e-5}  # fp16 in the former
    for part, held in whole.items():
        torch.testing.assert_close(half[part], held, **loose, msg=lambda words, part=part: f"{part}: {words}")
    assert [row["skipped"] for row in half["rows"]] == ([0, 1, 0] if case == "skipped" else [0, 0, 0])
    for part in ("generator", "discriminator", "ema", "moments", "scales"):  # not a bit apart, or they would drift
        torch.testing.assert_close(half[part], second[case][part], rtol=0, atol=0)


def test_a_gradient_that_some_lack_counts_as_zero_there(pair):
    (first, second), _, _ = pair
    both = [torch.full((2, 3), 1.5), torch.full((2, 3), 2.5, dtype=torch.float64), torch.full((2, 3), 2.0), None]
    torch.testing.assert_close(first["averages"], both)
    torch.testing.assert_close(second["averages"], both)


def test_batch_norm_over_all_processes_is_that_of_the_whole_batch_to_second_order(pair):
    for found in pair[0]:
        assert max(found["batch norms"].values()) < 1e-11


def test_a_synchronised_norm_keeps_all_but_its_class():
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), BatchNormAct2d(8, act="relu"), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    kinds, x = [BatchNormAct2d, nn.BatchNorm2d], torch.randn(5, 3, 4, 4)
    changed = copy.deepcopy(plain)
    synchronise(nn.ModuleList([changed]))
    synchronise(changed)  # once is enough
    norms = [[m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (plain, changed, copy.deepcopy(changed))]
    assert all(isinstance(m, _Synchronised) for m in norms[1]) and [type(m) for m in norms[2]] == kinds == [type(m) for m in norms[0]]
    for mode in (True, False):  # without other processes
        assert torch.equal(plain.train(mode)(x), changed.train(mode)(x))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), changed.state_dict().values(), strict=True))
    accelerated = accelerate(nn.Sequential(nn.BatchNorm1d(3)))
    synchronise(accelerated)
    assert isinstance(accelerated[0], _Synchronised)

    class Own(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(ValueError, match=r"sync_batch_norm got a Own at '0', wants torch's or ganfast's batch norms"):
        synchronise(nn.Sequential(Own(3)))


def test_a_signal_to_one_stops_all_after_the_same_step_and_the_run_goes_on_the_same(pair):
    (first, second), _, _ = pair
    assert {key: first["stopped"][key] for key in ("steps", "stopped", "files")} == {
        "steps": 3, "stopped": "another process", "files": ["checkpoint-0000003.pt"],
    }  # fmt: skip
    assert second["stopped"]["steps"] == 3 and second["stopped"]["stopped"] == "SIGTERM"
    for found in (first, second):
        for how in ("again", "loaded"):
            for part in ("generator", "discriminator", "ema", "moments"):
                torch.testing.assert_close(found["stopped"][how][part], found["mlp"][part], rtol=0, atol=0)


def test_networks_by_name_are_shared_out_alike(pair):
    alone = processes.by_name()
    for found in pair[0]:
        for name, value in alone.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found["by name"][name], value, rtol=1e-4, atol=1e-5)


def test_a_callback_that_stops_the_run_stops_all_processes_after_the_same_step(pair):
    (first, second), _, _ = pair
    assert (first["enough"]["steps"], first["enough"]["stopped"]) == (4, "enough")
    assert (second["enough"]["steps"], second["enough"]["stopped"]) == (4, "another process")
    alone = processes.by_name(log_every=3)
    assert (alone["steps"], alone["stopped"]) == (3, "enough")


def test_a_batch_that_cannot_be_shared_out_is_refused(pair):
    assert [found["refused"] for found in pair[0]] == ["data: batch_size got 7 for 2 processes, wants a multiple of 2."] * 2


def test_an_error_in_one_process_ends_all(pair):
    _, said, code = pair
    assert code != 0 and "Lost: train: process 1 of 2 ended with ZeroDivisionError: planted at step 2; no checkpoint was written." in said


@pytest.mark.prove
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the processes are found by Linux's /proc")
def test_a_killed_process_ends_the_run_and_the_run_goes_on_from_its_checkpoint(tmp_path):
    run = tmp_path / "run"
    launcher = torchrun(*RING, f"--run-dir={run}")
    wait_for(lambda: any(checkpoint.checkpoints(run)), launcher)  # not that of step 0
    os.kill(worker(launcher, 1), signal.SIGKILL)
    out, said = launcher.communicate(timeout=60)
    (line,) = [line for line in said.splitlines() if line.startswith("ganfast: ")]
    assert line.startswith("ganfast: train: process 1 of 2 no longer answers: killed, hung, or its machine is gone at step ")
    kept = checkpoint.newest(run)
    assert line.endswith(f"; the last good checkpoint is {kept}.") and launcher.returncode != 0 and not out
    step = checkpoint.load(kept)["numbers"]["steps"]
    assert step % 10 == 0

    launcher = torchrun(*RING, f"--run-dir={run}", "--resume")
    wait_for(lambda: checkpoint.checkpoints(run).keys() > {step} and max(checkpoint.checkpoints(run)) > step, launcher)
    os.kill(worker(launcher, 1), signal.SIGTERM)
    out, said = launcher.communicate(timeout=60)
    last = max(checkpoint.checkpoints(run))
    assert launcher.returncode == 0, said
    assert out == f"`ganfast train --resume --run-dir {run}` goes on\n"
    assert f"stopped at step {last} of" in said and "by another process; saved in" in said
    assert "destroy_process_group" not in said and "rror" not in said
    assert (run / checkpoint.LOG).read_text().count(f'"step": {step},') == 1


def test_an_error_of_all_is_said_once(tmp_path):
    launcher = torchrun(*RING, f"--run-dir={tmp_path / 'run'}", "--batch-size=15")
    _, said = launcher.communicate(timeout=60)
    assert said.count("batch_size got 15 for 2 processes, wants a multiple of 2.") == 1 and launcher.returncode != 0


def test_one_process_is_a_world_of_its_own(monkeypatch):
    world = World.from_environment("cpu")
    assert (world.rank, world.size) == (0, 1) and not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE is 2, MASTER_ADDR is not set; torchrun sets both"):
        World.from_environment("cpu")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("GANFAST_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="GANFAST_TIMEOUT is 'soon', wants seconds"):
        World.from_environment("cpu")


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first, factor", [(False, 1.0), (True, 0.5)])
def test_a_synchronised_norm_takes_what_comes_from_outside(one_process, dtype, first, factor):
    """As the layer alone, and refuses what that refuses."""
    torch.manual_seed(0)
    alone = BatchNormAct2d(4, act="silu", residual_first=first, factor=factor).to(dtype)
    together = copy.deepcopy(alone)
    synchronise(together)
    x, residual = (torch.randn(3, 4, 5, 6).to(dtype) for _ in range(2))
    scale, shift = torch.rand(3, 4) + 0.5, torch.randn(3, 4)
    found, want = (norm(x, None, scale, shift, residual=residual) for norm in (together, alone))
    assert found.dtype == want.dtype == dtype
    torch.testing.assert_close(found, want, **({} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.03}))
    torch.testing.assert_close(together.running_var, alone.running_var)
    refused = [{"scale": scale}, {"residual": residual.double()}, {"residual": residual[:1]}]
    for given in refused if factor == 1.0 else [*refused, {}]:
        for norm in (together, alone):
            with pytest.raises((TypeError, ValueError), match=r"scale|residual"):
                norm(x, **given)
