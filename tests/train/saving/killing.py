"""Run as `python -m tests.train.saving.killing FOLDER KILLS`: trains in forked children, one uninterrupted, others killed at random
points and resumed until they are done. Leaves the runs in FOLDER and prints what happened as JSON. A process of its own: torch was
imported, but has no threads yet, so that it may be forked."""

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import BinaryIO

import torch
import torch._dynamo  # by every optimizer: imported once here, not by each child

import ganfast
from ganfast import models
from ganfast.train.saving import checkpoint, disk
from ganfast.train.watch import standard
from tests.train.saving.run_files import Watched

SETTINGS = {
    "steps": 40, "batch_size": 8, "latent_dim": 6, "noise": 0.1, "flip": True, "augment": "color,translation", "n_critic": 2, "r1": 0.5,
    "penalty_every": 3, "precision": "fp32", "log_every": 2, "checkpoint_every": 4, "keep_checkpoints": 2, "device": "cpu",
}  # fmt: skip


def train(folder: Path) -> None:
    """Goes on with the run in `folder`, or begins it."""
    going_on = checkpoint.newest(folder)
    torch.manual_seed(os.getpid() if going_on else 0)  # nothing may depend on what was not saved
    networks = models.DCGANGenerator(16, 6, 4, 1, num_classes=3), models.DCGANDiscriminator(16, 4, 1, num_classes=3)
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (44, 1, 16, 16), generator=draws, dtype=torch.uint8)
    data = images, torch.randint(0, 3, (44,), generator=draws)
    if going_on:
        trainer = ganfast.Trainer.load(folder, *networks, data, condition=True)
    else:
        config = ganfast.TrainConfig(run_dir=str(folder), **SETTINGS)
        trainer = ganfast.Trainer(*networks, data, config, condition=True)
    trainer.fit(progress_bar=False)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Calls:
    """Dies at the `last`-th call of a function, Python's or C's."""

    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0

    def start(self) -> None:
        sys.setprofile(self.note)

    def note(self, frame, event, argument) -> None:
        self.count += event in ("call", "c_call")
        if self.count == self.last:
            die()


class Writes:
    """Dies when half of the `last`-th piece of a file is written."""

    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0

    def start(self) -> None:
        disk.open = self.open

    def open(self, path: Path, mode: str) -> Watched:
        return Watched(open(path, mode), self.write)

    def write(self, file: BinaryIO, piece: bytes) -> int:
        self.count += 1
        if self.count == self.last:
            file.write(bytes(piece)[: len(piece) // 2])
            file.flush()
            die()
        return file.write(piece)


KINDS = {"Calls": Calls, "Writes": Writes}


def in_child(folder: Path, deaths: list, seconds: float = 0) -> bool:
    """Whether the run got done; killed from outside after so many seconds. What it says goes to a file beside its folder."""
    child = os.fork()
    if child == 0:
        said = os.open(f"{folder}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(said, 1)
        os.dup2(said, 2)
        for death in deaths:
            death.start()
        try:
            train(folder)
            sys.setprofile(None)
            Path(f"{folder}.json").write_text(json.dumps({type(death).__name__: death.count for death in deaths}))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def kill(*_) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(Path(f"{folder}.txt").read_text())
    return os.WIFEXITED(status)


def main(base: Path, kills: int) -> None:
    standard.default = lambda config: []  # pictures take longer than these runs
    draw = random.Random(6)
    began = time.monotonic()
    in_child(base / "whole", [Calls(-1), Writes(-1)])
    seconds = time.monotonic() - began
    counts = json.loads((base / "whole.json").read_text())
    runs, deaths = [], []
    while len(deaths) < kills:
        runs.append(f"killed-{len(runs)}")
        done = False
        while not done:
            kind = draw.choice(["Calls", "Calls", "Calls", "Writes", "Clock"])
            share = draw.random() / 3  # of the run, from wherever it stands
            if len(deaths) == kills:
                done = in_child(base / runs[-1], [])
            elif kind == "Clock":
                done = in_child(base / runs[-1], [], share * seconds + 1e-3)
            else:
                done = in_child(base / runs[-1], [KINDS[kind](1 + int(share * counts[kind]))])
            if not done:
                left = [path.name for path in (base / runs[-1]).rglob(f"*{disk.WRITING}")]
                deaths.append({"kind": kind, "share": share, "left": left})
    print(json.dumps({"runs": runs, "deaths": deaths}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
