"""A folder of its own on the path, and everything as before afterwards."""

import sys
from pathlib import Path

import pytest

import ganfast.stylegan

STANDIN = Path(__file__).with_name("standin")


def ours(name: str) -> bool:
    return name.split(".")[0] in ("torch_utils", "networks_stylegan2", "networks_stylegan3")


def forget() -> None:
    for name in [name for name in sys.modules if ours(name)]:
        del sys.modules[name]


@pytest.fixture
def clean(monkeypatch):
    """No module of these names before the test, none after it, nothing installed."""
    forget()
    finders = list(sys.meta_path)
    yield monkeypatch
    ganfast.stylegan.uninstall()
    forget()
    assert sys.meta_path == finders


@pytest.fixture
def standin(clean):
    clean.syspath_prepend(str(STANDIN))
