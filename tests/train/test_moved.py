"""The trainer's modules under the names they had when all of them lay in one folder, and pickles that hold such names."""

import ast
import importlib
import inspect
import pickle
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import ganfast
from ganfast.train import _moved
from ganfast.train._moved import MOVED, PACKAGE

# What each module of ganfast.train defined in public when all lay in one folder, but for imports.
HELD = {
    "batches": "on_device KEPT Order Source InMemory",
    "callbacks": "POINTS WATCHED MEANING Callback Pictures Function as_callback default watch show",
    "checkpoint": "FORMAT VERSION CONFIG LOG BROKEN GRIDS BEST LOCK ASIDE SYNTHETIC Damaged write load newest checkpoints "
    "write_weights RunFolder",
    "checks": "networks phases parts first_step",
    "commands": "Train Sample train sample",
    "config": "Loss SMOOTHED TrainConfig Config to_dict from_dict load",
    "curves": "Curve PANELS LABELS LOGARITHMIC LEVELS BESIDE panel_of write_curves log_rows",
    "data": "ImageData to_float to_uint8 digits folder images_of class_vectors",
    "decode": "SUFFIXES GREY square Files",
    "densities": "X CELL DATA EQUILIBRIUM FIXED Bumps pushed play",
    "disk": "WRITING atomic sync take_lock release",
    "distributed": "Unreachable Lost summed World",
    "features": "Features in_eval_mode pixels8 inception FEATURES features_of",
    "grids": "about tile picture write_png write_gif write_grid interpolation slerp class_rows",
    "items": "Refused refuse reals look_at_range warn seconds named",
    "loaders": "FromLoader loader_source",
    "loop": "Trainer",
    "metrics": "LARGER_IS_BETTER SCORES precision_recall frechet_distance kernel_distance scores Evaluate Reader train_reader "
    "Features features_of inception pixels8 write_curves",
    "mixtures": "REACH Mixture MIXTURES draw_points scatter",
    "monitors": "ALARMS Thresholds Alarm Monitors spread",
    "autoencoders": "Autoencoding autoencoding",
    "pool": "ImagePool",
    "terms": "Objective KNOWN adversarial Adversarial Terms Pair adversaries logits_of refuse_sigmoid mode_seeking",
    "phases": "PENALTIES Phase phases_of turns_of Draws Batch",
    "precision": "Precision",
    "prepare": "prepare optimizers",
    "randomness": "mixed permutation global_state seed_all own_randomness",
    "recipes": "NETWORK Subject Recipe preset PLANE IMAGES PRESETS networks penalised condition_of trainer load_sampler",
    "resume": "NUMBERS state_of restore config_of whole",
    "sampling": "Conditioner Sampler conditioner",
    "signals": "StopRequests",
    "sources": "source_of",
    "spread": "spread",
    "streams": "Streamed FromHost FromDataset stacked",
    "sync_norm": "synchronise synchronised_batch_norm_act",
    "tensorboard": "TensorBoard",
    "turns": "Updates Turn runner Meters",
    "workers": "Entry Items is_pil Looked look timed free_memory room gigabytes processes loader end into_memory",
}


@pytest.mark.parametrize("old", sorted(HELD))
def test_every_old_name_imports(old):
    module = importlib.import_module(f"{PACKAGE}.{old}")
    assert module is sys.modules[f"{PACKAGE}.{old}"] is getattr(ganfast.train, old)
    for name in HELD[old].split():
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            real = sys.modules[value.__module__]
            assert not isinstance(real, _moved.Moved) and getattr(real, value.__name__) is value


def test_the_table_is_of_modules_that_moved_and_leads_to_some_that_exist():
    folder = Path(_moved.__file__).parent
    for old, news in MOVED.items():
        assert old in HELD and not (folder / f"{old}.py").exists() and not (folder / old).exists(), old
        assert all((folder / f"{new.replace('.', '/')}.py").is_file() for new in news), old


ALL_WAYS = """
import ganfast
assert not [name for name in __import__("sys").modules if name.startswith("ganfast.train")], "import ganfast alone loads the trainer"
assert ganfast.train.mixtures.MIXTURES
import ganfast.train.monitors
import ganfast.train.sync_norm as sync
from ganfast.train import sources, data
from ganfast.train.sources import source_of
from ganfast.train.distributed import World
from ganfast.train.spread import *
from ganfast.train import data as also
from ganfast.train.watch import alarms, diversity
from ganfast.train.data.sources import source_of as new
assert new is source_of is sources.source_of and spread is diversity.spread and ganfast.train.monitors.Monitors is alarms.Monitors
assert data.folder is also.folders.folder and sync.synchronise and World(0, 1).size == 1
assert "ganfast.train.tensorboard" not in __import__("sys").modules, "an old name that nobody asked for"
"""


def test_old_names_in_a_new_process():
    done = subprocess.run([sys.executable, "-c", ALL_WAYS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_old_name_is_to_read_from():
    old = importlib.import_module(f"{PACKAGE}.workers")
    with pytest.raises(AttributeError, match=r"^free_memory cannot be set in .*ganfast.train.data.workers. Set it there"):
        old.free_memory = lambda device="cpu": 1000


def test_what_never_was_there_is_refused_and_the_new_place_is_named():
    with pytest.raises(ImportError, match="source_off"):
        exec("from ganfast.train.sources import source_off", {})
    with pytest.raises(AttributeError, match=r"no attribute 'source_off'. This is the old name of ganfast.train.data.sources"):
        _ = ganfast.train.sources.source_off
    with pytest.raises(ModuleNotFoundError, match=r"ganfast\.train\.newcomer"):
        importlib.import_module("ganfast.train.newcomer")
    with pytest.raises(AttributeError, match="no attribute 'newcomer'"):
        _ = ganfast.train.newcomer


def test_pickles_with_old_names_load():
    old = b"cganfast.train.monitors\nThresholds\n."
    assert pickle.loads(old) is type(ganfast.TrainConfig().thresholds)
    config = pickle.dumps(ganfast.TrainConfig(steps=7), 0).replace(b"ganfast.train.thresholds", b"ganfast.train.monitors")
    assert pickle.loads(config) == ganfast.TrainConfig(steps=7)


def test_a_checkpoint_depends_on_no_module_of_the_project(tmp_path):
    """So that those written before the modules moved load, and those written now will."""
    config = ganfast.TrainConfig(batch_size=4, latent_dim=2)
    ganfast.Trainer(nn.Linear(2, 2), nn.Linear(2, 1), torch.randn(8, 2), config).save(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        (pickled,) = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    named = {arg for code, arg, _ in pickletools.genops(pickled) if code.name in ("GLOBAL", "INST", "STACK_GLOBAL")}
    assert named and all(arg is not None and arg.startswith(("torch", "collections")) for arg in named)


def test_the_project_itself_uses_the_new_names():
    root, found = Path(ganfast.__file__).parents[1], []
    for path in [path for folder in ("ganfast", "benchmarks", "tools", "tests") for path in (root / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())) if path != Path(__file__) else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [f"{path}: {name}" for name in names if name.removeprefix(f"{PACKAGE}.").split(".")[0] in MOVED and PACKAGE in name]
    assert found == []
