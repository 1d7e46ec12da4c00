"""The tuner's cache on disk."""

import json
import multiprocessing
import os

import pytest

from ganfast import _tune, _tune_cache
from tests.tune.common import X, calls, forget


def test_no_home_directory_is_a_word(monkeypatch, told_times, capsys):
    for name in ("GANFAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(_tune_cache.Path, "home", homeless)
    assert _tune.choose("q", calls(default=0.002, fast=0.001)[0], X) == ("fast", True)
    assert "set GANFAST_CACHE" in capsys.readouterr().err


def test_the_cache_survives_the_process_and_other_versions_do_not(fresh, monkeypatch, told_times):
    candidates, ran = calls(default=0.002, fast=0.0)
    _tune.choose("q", candidates, X)
    ran.clear()
    forget()
    assert _tune.choose("q", candidates, X) == ("fast", True)
    assert not ran
    forget()
    monkeypatch.setattr(_tune_cache, "versions", lambda: {"torch": "another"})
    _tune.choose("q", candidates, X)
    assert ran


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "versions": %s, "choices": {"q": 3}}'])
def test_a_corrupt_cache_is_rebuilt_with_a_word(content, fresh, capsys, told_times):
    path = _tune_cache.cache_file(X.device)
    path.write_text(content.replace("%s", json.dumps(_tune_cache.versions())))
    candidates, _ = calls(default=0.002, fast=0.0)
    assert _tune.choose("q", candidates, X) == ("fast", True)
    said = capsys.readouterr().err
    assert said.count("is damaged") == 1 and str(path) in said
    assert len(json.loads(path.read_text())["choices"]) == 1


def test_an_unwritable_cache_is_a_word(monkeypatch, tmp_path, capsys, told_times):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANFAST_CACHE", str(tmp_path / "file" / "folder"))
    candidates, _ = calls(default=0.002, fast=0.0)
    assert _tune.choose("q", candidates, X) == ("fast", True)
    assert "choices last for this process" in capsys.readouterr().err


def _writer(folder, first, barrier):
    os.environ |= {"GANFAST_CACHE": folder, "GANFAST_TUNE": "1"}
    barrier.wait()
    for i in range(20):
        _tune.choose(f"question {first + i}", {"a": lambda: None, "b": lambda: None}, X)


def test_two_processes_at_once_lose_nothing(fresh):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    writers = [context.Process(target=_writer, args=(str(fresh), 100 * i, barrier)) for i in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    assert len(json.loads(_tune_cache.cache_file(X.device).read_text())["choices"]) == 40
    assert not list(fresh.glob("*.json.[0-9]*"))
