"""What the guard does where the fallback is wrong too, and where the check itself fails."""

import pytest
import torch

from ganfast import _tune, _tune_check
from tests.tune.common import X, calls, forget
from tests.tune.test_wrong import FAULTS, PASSES, failures, plant, run


@pytest.mark.parametrize("name", PASSES)
def test_a_reference_that_is_wrong_too_is_said(name, monkeypatch, capsys):
    kernel, which, what = PASSES[name]
    everywhere = ("torch", "cpu", "torch/nhwc", "reference")
    plant(monkeypatch, kernel, which, everywhere, FAULTS["a tenth too large"] if which != 2 else FAULTS["one pixel"])
    run(name)
    said = capsys.readouterr().err
    assert "no way is right here; reference runs, " + what in said and "reference runs instead" not in said
    assert {name for name, _ in failures()} == set(everywhere)
    assert f"reference runs, as no way is right: {_tune_check.WRONG}: {what}" in _tune.report()


ERRORS = [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["prepare", "see", "wrong", "fallback_off"])
def test_a_check_that_fails_is_told_once_and_ends_no_call(step, error, monkeypatch, told_times, capsys):
    class Failing(_tune_check.Check):
        asked = 0

        def see(self, name, result):
            pass

        def wrong(self):
            return {"a": "off", "b": "off"} if step == "fallback_off" else {}

    def fail(self, *_):
        Failing.asked += 1
        raise error

    monkeypatch.setattr(Failing, step, fail)
    if step == "fallback_off":
        Failing.fallback = "reference"
    want = "reference" if step == "fallback_off" else "b"
    candidates = calls(a=0.002, b=0.001)[0]
    assert _tune.choose("q", candidates, X, "", Failing()) == (want, True)
    asked = Failing.asked
    assert asked == (2 if step == "see" else 1)
    assert _tune.choose("q", candidates, X, "", Failing()) == (want, True)
    forget()  # nor is it asked again in the next process
    assert _tune.choose("q", candidates, X, "", Failing()) == (want, True) and Failing.asked == asked
    assert _tune.choose("another", candidates, X, "", Failing()) == (want, True)
    said = capsys.readouterr().err
    assert said.count(f"not compared: {type(error).__name__}") == 1
    assert f"the check did not run: not compared: {type(error).__name__}" in _tune.report()


def test_a_wrong_way_is_dropped_though_another_could_not_be_compared(told_times):
    class Half(_tune_check.Check):
        def see(self, name, result):
            if name == "a":
                raise MemoryError

        def wrong(self):
            return {"b": "off"}

    assert _tune.choose("q", calls(a=0.002, b=0.001)[0], X, "", Half())[0] == "a"
