"""Options and System: what they refuse, what a system's settings become; the names of systems and their files."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ganfast import systems
from ganfast.systems import command, form, packages
from ganfast.train import config as configs
from tests.systems import halves

PACKAGE = Path(systems.__file__).parent


@dataclass(frozen=True)
class Options(form.Options):
    sizes: tuple[int, ...] = (3, 4)
    """of something"""


def test_options_become_a_config():
    options = Options(steps=7, seed=3, run_dir="runs/x", max_seconds=2.5, fused=False, precision="fp32", log_every=2, device="cpu")
    config = options.config(r1=2.0, latent_dim=5)
    for name in ("steps", "seed", "run_dir", "max_seconds", "fused", "precision", "log_every", "device"):
        assert getattr(config, name) == getattr(options, name)
    assert config.r1 == 2.0 and config.latent_dim == 5 and config.sample_every == max(1, config.steps // 8)
    assert options.config(sample_every=50, steps=9).sample_every == 50 and options.config(steps=9).steps == 9
    with pytest.raises(TypeError, match="Did you mean 'latent_dim'"):
        options.config(latent_dims=5)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"steps": "7"}, TypeError, "steps got '7', wants int"),
        ({"steps": 0}, ValueError, "steps got 0, wants at least 1"),
        ({"fused": 1}, TypeError, "fused got 1, wants bool"),
        ({"seed": -1}, ValueError, "seed got -1"),
        ({"max_seconds": 0}, ValueError, "max_seconds got 0, wants a positive number"),
        ({"precision": "fp23"}, ValueError, "Did you mean 'fp32'"),
        ({"data": 3}, TypeError, "data got 3"),
        ({"sizes": (1, "2")}, TypeError, "sizes got"),
    ],
)
def test_options_that_cannot_be(given, error, words):
    with pytest.raises(error, match=words):
        Options(**given)


def test_options_come_back_from_json():
    options = Options(sizes=(5, 6), max_seconds=3.0)
    assert configs.from_dict(json.loads(json.dumps(vars(options))), Options) == options


def test_systems_that_cannot_be():
    for changes, words in [
        ({"name": "My System"}, "name is 'My System', wants small letters"),
        ({"goals": {"l1": ("<", 1)}}, "the goal of l1 is"),
        ({"goals": {"l1": 1.0}}, "the goal of l1 is 1.0, wants"),
    ]:
        with pytest.raises(ValueError, match=words):
            replace(halves.SYSTEM, **changes)


def test_goals():
    goals = {"a": ("<=", 1), "b": (">=", 0.5), "c": (">=", 0)}
    assert form.reached({"a": 1.0, "b": 0.4, "c": math.nan, "d": 7.0}, goals) == {"a": True, "b": False, "c": False}


def test_a_credit_may_follow_the_options():
    system = replace(halves.SYSTEM, credit=lambda options: f"seed {options.seed}")
    assert system.credit_of(halves.Options(seed=4)) == "seed 4" and halves.SYSTEM.credit_of(halves.Options()) == "drawn here"


def test_networks_follow_from_the_seed():
    one, same, other = (halves.SYSTEM.trainer(halves.Options(seed=seed, fused=False, device="cpu")) for seed in (1, 1, 2))
    first = lambda trainer: next(trainer.generator.parameters())
    assert first(one).equal(first(same)) and not first(one).equal(first(other))


def test_every_system_has_a_name_and_every_name_a_system():
    found = {path.stem for path in PACKAGE.glob("*.py") if "\nSYSTEM = " in path.read_text()}
    assert found == {module.rpartition(".")[2] for module in systems.NAMES.values()}
    for name in systems.NAMES:
        assert systems.load(name).name == name and len(systems.load(name).does) <= 100


def test_the_commands_usage_names_all_options_that_systems_share():
    for field in fields(form.Options):
        assert f"--{'no-' if field.name == 'fused' else ''}{field.name.replace('_', '-')}" in command.USAGE


def test_importing_costs_nothing():
    program = "import sys, ganfast.systems; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'tyro', 'PIL')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_packages_are_found_or_named():
    assert packages.folder("scikit-learn", "a test").name == "sklearn"
    with pytest.raises(ImportError, match=r"systems: a test needs the package nowhere_at_all, which is not installed: pip install nowhere"):
        packages.folder("nowhere_at_all", "a test")


def test_goals_hold_for_the_systems_own_data_alone():
    """Of a user's pictures no right answer is known, and measure may lack what needs one."""
    measure = lambda trainer, options: {} if options.data else {"l1": 0.5}
    system = form.System("some", "tests", form.Options, None, measure, None, goals={"l1": ("<=", 1)})
    assert system.figures(None, form.Options()) == {"l1": 0.5} and system.goals_of(form.Options()) == {"l1": ("<=", 1)}
    assert system.figures(None, form.Options(data="x")) == {} == system.goals_of(form.Options(data="x"))


def test_fixed_options_are_options():
    with pytest.raises(ValueError, match=r"System: fixed='brihgt' is unknown.*Did you mean 'bright'"):
        replace(halves.SYSTEM, fixed=("brihgt",))


def test_the_text_fields_of_a_run_tell_whose_data_are_shown_or_were_learned_from():
    trainer = SimpleNamespace(name="a generator")
    shown = halves.SYSTEM.fields_of(trainer, halves.Options(seed=4))
    assert (shown["Model"], shown["Seed"], shown["Credit"]) == ("halves: a generator", "4", "drawn here") and shown["Synthetic"]
    of_users = halves.SYSTEM.fields_of(trainer, halves.Options(seed=4), 7, own=True)
    assert of_users["Network trained on"] == "drawn here" and of_users["Seed"] == "7" and "Credit" not in of_users
    assert not {"Credit", "Network trained on"} & replace(halves.SYSTEM, credit="").fields_of(trainer, halves.Options()).keys()


def test_what_is_remembered_is_read_anew_where_its_options_change():
    read = []
    data = form.remembered("steps", "seed")(lambda o: read.append((o.steps, o.seed)) or len(read))
    assert [data(Options(steps=steps, run_dir=folder)) for steps, folder in ((1, "a"), (1, "b"), (2, "b"), (1, "b"))] == [1, 1, 2, 3]
    data.cache_clear()
    assert data(Options(steps=1)) == 4
    with pytest.raises(AttributeError):  # an option that is not named would be of another run
        form.remembered("steps")(lambda o: o.seed)(Options())
