"""Tuning on, with nothing remembered; a clock that can be told."""

import pytest

from ganfast import _tell, _timing, _tune
from ganfast._memo import Memo


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Tuning on, an empty cache folder, nothing remembered."""
    monkeypatch.setenv("GANFAST_TUNE", "1")
    monkeypatch.setenv("GANFAST_CACHE", str(tmp_path))
    for store in (_tune._choices, _tune._answers, _tune._families, _tune._loaded, _tell._told):
        store.clear()
    Memo.forget_all()
    yield tmp_path
    Memo.forget_all()


@pytest.fixture
def told_times(monkeypatch):
    """The clock believes what the call returns: no test hangs on a busy machine."""
    monkeypatch.setattr(_timing, "measure_once", lambda call: call())
