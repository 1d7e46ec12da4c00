"""Python looks into the folder that it is started in before it looks for what is installed: what ganfast says where that goes wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ganfast
from ganfast import cli
from tests import environments
from tools import make_wheels

ROOT = Path(__file__).parents[1]
ASK = "import ganfast; print(ganfast.__file__); [ganfast.backends() for _ in range(2)]; print(ganfast.backends()['cpu'])"


@pytest.fixture
def tree(tmp_path):
    """A clone in which nothing was built."""
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "ganfast", root / "ganfast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (root / "csrc").mkdir()
    (root / "setup.py").write_text("")
    return root


def python(folder: Path, *command: str, path: str = "") -> subprocess.CompletedProcess:
    variables = environments.variables(PYTHONPATH=path)
    done = subprocess.run([sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_source_tree_that_was_not_built_is_told_once(tree):
    done = python(tree, "-c", ASK)
    why = f"ganfast is imported from its source tree {tree}, where no compiled extension was built; `make venv` or"
    assert done.stderr.count(why) == 1 and f"ganfast: {why}" in done.stderr and "until then torch's own kernels run" in done.stderr
    assert f"{tree}/ganfast/__init__.py" in done.stdout and f'available=False, reason="{why}' in done.stdout.replace("'", '"')
    assert why in python(tree, "-m", "ganfast", "doctor").stdout


def test_a_source_tree_that_hides_an_install_names_it(tree, tmp_path):
    installed = tmp_path / "site-packages" / "ganfast"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    done = python(tree, "-c", ASK, path=str(installed.parent))
    assert f"start python in another folder, to use the ganfast installed in {installed}" in done.stderr


def test_an_install_without_kernels_is_no_source_tree(tree):
    """Who chose the wheel in Python alone is told nothing."""
    (tree / "setup.py").unlink()
    done = python(tree, "-c", ASK)
    assert done.stderr == "" and "this install has no compiled extension" in done.stdout


@pytest.mark.parametrize("kind", ["script", "package", "folder", "nothing", "ours"])
def test_doctor_says_what_else_python_would_import_here(kind, tmp_path, monkeypatch):
    ours = Path(ganfast.__file__).parent
    monkeypatch.setattr(sys, "path", [])
    if kind == "script":
        (tmp_path / "ganfast.py").write_text("")
    elif kind in ("package", "folder"):
        (tmp_path / "ganfast").mkdir()
    if kind == "package":
        (tmp_path / "ganfast" / "__init__.py").write_text("")
    found = cli._another(ours.parent if kind == "ours" else tmp_path, ours)
    assert found == {
        "script": f"{tmp_path}/ganfast.py",
        "package": f"{tmp_path}/ganfast/__init__.py",
        "folder": f"{tmp_path}/ganfast, a folder without __init__.py: an empty module",
    }.get(kind)
    monkeypatch.setattr(sys, "path", [str(ours.parent)])
    if kind == "folder":
        assert cli._another(tmp_path, ours) is None, "an installed package comes before a folder without __init__.py"


def test_doctor_prints_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["doctor"])
    ours = Path(ganfast.__file__).parent
    said = capsys.readouterr().out
    assert f"ganfast {ganfast.__version__} in {ours}" in said and "NOT the ganfast" not in said
    (tmp_path / "ganfast.py").write_text("")
    cli.main(["doctor"])
    said = capsys.readouterr().out
    assert f"NOT the ganfast that python imports when it is started in this folder, which is {tmp_path}/ganfast.py;" in said


@pytest.mark.prove
def test_an_editable_install_is_found_in_the_folder_that_holds_the_clone(tmp_path):
    """There the clone's own folder, if it is called ganfast, is a package without __init__.py."""
    clone = tmp_path / "work" / "ganfast"
    clone.mkdir(parents=True)
    for name in make_wheels.SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, clone / name)
    for extension in (clone / "ganfast").glob("*.so"):
        extension.unlink()
    interpreter = environments.bare(tmp_path / "environment")
    environments.install(interpreter, "-e", clone, GANFAST_BUILD="none")
    command = [interpreter, "-c", "import ganfast; print(ganfast.accelerate.__module__, ganfast.__file__)"]
    done = subprocess.run(command, cwd=clone.parent, env=environments.variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ganfast.dropin.accelerate", f"{clone}/ganfast/__init__.py"]
