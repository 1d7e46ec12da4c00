"""An answer of another processor, or of other instructions of the same one, is no answer here."""

import pytest
import torch

from ganfast import _place, _tune
from tests.tune.common import X, calls, forget


@pytest.fixture(autouse=True)
def asked_anew():
    _place.cpu.cache_clear()
    yield
    _place.cpu.cache_clear()


CHANGES = {
    "AMX": lambda patch: patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not _amx(), raising=False),
    "ONEDNN_MAX_CPU_ISA": lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2"),
    "model": lambda patch: patch.setattr(_place, "processor", lambda: "Another 9000"),
}
_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_measured_again(change, monkeypatch, told_times):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert _tune.choose("q", calls(a=0.002, b=0.001)[0], X) == ("b", True)
    forget()
    candidates, ran = calls(a=0.001, b=0.002)
    assert _tune.choose("q", candidates, X) == ("b", True) and not ran
    forget()
    CHANGES[change](monkeypatch)
    _place.cpu.cache_clear()
    assert _tune.choose("q", candidates, X) == ("a", True) and ran


def test_no_call_asks_the_machine_twice(monkeypatch):
    first = _place.place(X.device)
    monkeypatch.setattr(_place, "processor", None)
    assert _place.place(X.device) == first


def test_a_torch_that_knows_no_amx_and_a_system_without_proc(monkeypatch, tmp_path):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.setattr(_place, "Path", lambda path: tmp_path / "none")
    said = _place.place(X.device)
    assert said.startswith("cpu ") and "AMX" not in said and (_place.platform.processor() or _place.platform.machine()) in said
