"""The Protocols by which checks, callbacks and checkpoints know a Trainer: they name all that is used of one, and a Trainer has it."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import ganfast
from ganfast.train import checks
from ganfast.train.saving import resume
from ganfast.train.watch import callbacks, metrics, standard, tensorboard

USED = {
    checks.Checked: [checks],
    callbacks.TrainerLike: [callbacks, standard, metrics, tensorboard],
    resume.Resumable: [resume],
}


def members(protocol: type) -> set[str]:
    return {name for name in (*inspect.get_annotations(protocol), *vars(protocol)) if not name.startswith("_")}


def used(source: str) -> set[str]:
    """Attributes of what is called `trainer`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "trainer"}


@pytest.mark.parametrize("protocol", USED, ids=lambda protocol: protocol.__name__)
def test_all_that_is_used_is_named_and_a_trainer_has_all_that_is_named(protocol):
    for module in USED[protocol]:
        assert used(inspect.getsource(module)) <= members(protocol), module.__name__
    trainer = ganfast.Trainer(nn.Linear(2, 2), nn.Linear(2, 1), torch.randn(8, 2), ganfast.TrainConfig(batch_size=4, latent_dim=2))
    assert [name for name in members(protocol) if not hasattr(trainer, name)] == []


def test_every_file_below_the_loop_that_takes_a_trainer_is_looked_at():
    package = Path(checks.__file__).parent
    below = [path for room in ("data", "saving", "distributed", "watch") for path in (package / room).glob("*.py")]
    taking = {path for path in (*below, package / "checks.py") if used(path.read_text())}
    assert taking <= {Path(module.__file__) for modules in USED.values() for module in modules}
