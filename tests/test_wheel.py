"""`make wheel`: the names of the wheels, and each of them installed into an environment of its own."""

import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename
from packaging.version import Version
from setuptools import Distribution

import ganfast
from ganfast import _processor
from tests import environments
from tools import make_wheels

ROOT = Path(__file__).parents[1]
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
LOCAL = {"x86-64-v3": "v3", "x86-64-v4": "v4", "python": None}
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="wheels are made on Linux on x86-64")


def name_of(kind: str, monkeypatch) -> str:
    """The file's name, by setup.py's arguments, with nothing compiled."""
    spec = importlib.util.spec_from_file_location("ganfast_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os, "environ", make_wheels.environment(kind))
    distribution = Distribution({"name": "ganfast", **module.extension_arguments()})
    command = distribution.get_command_obj("bdist_wheel")
    command.ensure_finalized()
    return f"{command.wheel_dist_name}-{'-'.join(command.get_tag())}.whl"


@pytest.mark.parametrize("kind", make_wheels.KINDS)
def test_each_wheel_is_told_apart_by_a_name_that_pip_takes(kind, monkeypatch):
    for name, value in {"GANFAST_BUILD": "cuda", "GANFAST_CPU_ARCH": "native", "GANFAST_CPU_FLAGS": "-O0"}.items():
        monkeypatch.setenv(name, value)  # what the shell has set does not decide
    name = name_of(kind, monkeypatch)
    project, version, _, tags = parse_wheel_filename(name)
    assert project == "ganfast" and version.public == ganfast.__version__ and version.local == LOCAL[kind]
    if kind == "python":
        assert name == f"ganfast-{ganfast.__version__}-py3-none-any.whl"
    else:
        assert name == f"ganfast-{ganfast.__version__}+{LOCAL[kind]}-{PYTHON}-{PYTHON}-linux_x86_64.whl"
    assert tags & set(sys_tags()), "pip would refuse it here"


def test_the_version_stands_in_one_place():
    """pyproject.toml takes it from setup.py, setup.py from the package."""
    assert Version(ganfast.__version__).release and f'version = "{ganfast.__version__}"' not in (ROOT / "pyproject.toml").read_text()
    changes = re.findall(r"^## \[([^\]]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[0] == ganfast.__version__, "CHANGELOG.md has no section of this version on top"
    named = re.findall(r"ganfast(?:-|==)(\d[\d.]*\d)", (ROOT / "docs" / "build.md").read_text())
    assert set(named) == {ganfast.__version__}, "docs/build.md names files of another version"


def test_an_unknown_kind_is_refused_with_the_valid_ones():
    done = subprocess.run([sys.executable, "tools/make_wheels.py", "x86-64"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "'x86-64' is unknown; valid: x86-64-v3, x86-64-v4, python" in done.stderr


FIRST = """{snippet}
import torch
from torch import nn

import ganfast

layers = nn.ConvTranspose2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh()
own = nn.Sequential(*layers)
inputs = torch.randn(2, 8, 16, 16)
before = own(inputs)
assert torch.allclose(ganfast.accelerate(own)(inputs), before, atol=1e-4)
print("place", ganfast.__file__)
print("cpu", *ganfast.backends()["cpu"])
"""


@pytest.mark.prove
@pytest.mark.parametrize("kind", make_wheels.KINDS)
def test_an_installed_wheel_runs_the_readmes_first_snippet(kind, tmp_path):
    built = make_wheels.build(kind, tmp_path / "dist")
    python = environments.bare(tmp_path / "environment")
    environments.install(python, built)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    variables = environments.variables(GANFAST_CACHE=str(tmp_path / "cache"))

    def run(*command: str | Path) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=elsewhere, env=variables, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    (elsewhere / "first.py").write_text(FIRST.format(snippet=snippet))
    done = run(python, "first.py")
    assert f"place {tmp_path}/environment/" in done.stdout
    doctor = run(python.with_name("ganfast"), "doctor").stdout
    assert f"ganfast {ganfast.__version__} in {tmp_path}/environment/" in doctor and "NOT the ganfast" not in doctor
    versions = run(python, "-c", "import importlib.metadata as m; print(m.version('ganfast'))").stdout.strip()
    assert Version(versions).local == LOCAL[kind]
    if kind == "python":
        assert "cpu False this install has no compiled extension" in done.stdout and "no compiled extension" in doctor
        return
    (extension,) = (tmp_path / "environment").rglob("ganfast/_C*.so")
    name, wanted = _processor.built_for(str(extension))
    assert name == kind and ("avx512f" in wanted) == (kind == "x86-64-v4") and "avx2" in wanted
    if lacking := _processor.lacking(wanted):
        reason = f"was built for {kind}, this processor lacks {', '.join(lacking)}"
        assert f"cpu False the compiled extension {reason}" in done.stdout and reason in doctor
        assert done.stderr.count(reason) == 1
    else:
        assert f"cpu True native C++ kernels for CPU tensors, built for {kind}" in done.stdout and f"built for {kind}" in doctor
