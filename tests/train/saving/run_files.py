"""A run's files as a trainer leaves them, without a trainer, and what may happen to them."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

from ganfast.train.saving import checkpoint
from ganfast.train.saving.checkpoint import RunFolder

STATE = {
    "weight": torch.randn(1000),
    "rng": torch.Generator().manual_seed(3).get_state(),
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.5, 0.9), "foreach": None}]},
    "numbers": OrderedDict(steps=7, name="a", done=False),
}


def state(step: int) -> dict:
    return STATE | {"steps": step, "weight": torch.full((1000,), float(step))}


def finished(path: Path, keep: int = 3) -> Path:
    """A finished run: checkpoints at 2, 3 and 4, a line for each step."""
    folder = RunFolder(path, resume=False, keep=keep)
    folder.begin({"steps": 4}, 0, [])
    for step in range(1, 5):
        folder.log({"step": step, "loss_d": 0.5})
        folder.save(state(step), step)
    folder.close()
    return path


def named(run, step):
    return run / f"checkpoint-{step:07d}.pt"


def names(run) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def contents(run) -> dict:
    return {str(path): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / checkpoint.LOG).read_text().splitlines()]


class Watched:
    """An open file, each piece of which goes through `write(file, piece)`."""

    def __init__(self, file: BinaryIO, write: Callable[[BinaryIO, bytes], int]) -> None:
        self.file, self.watcher = file, write

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    def write(self, piece: bytes) -> int:
        return self.watcher(self.file, piece)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_flipped_bit(path):
    """In a tensor: torch itself reads such a file without a word."""
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((4,), 4.0).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["steps"] == 4


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


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


def older(path):
    torch.save(torch.load(path, weights_only=True) | {"version": 1}, path)


DAMAGES = [truncated, one_flipped_bit, zeros, empty, text]
OTHERS = [
    (foreign, "written by another program"),
    (a_list, "written by another program"),
    (newer, f"format version {checkpoint.VERSION + 1}, this ganfast reads {checkpoint.VERSION}; update ganfast"),
    (older, "format version 1, .* an older ganfast wrote it"),
]
