"""What the guard does where the fallback is wrong too, and where the check itself fails."""

import pytest

from ganfast import _tune, _tune_check
from tests.tune.test_wrong import FAULTS, PASSES, failures, plant, run


@pytest.mark.parametrize("name", PASSES)
def test_a_reference_that_is_wrong_too_is_said(name, monkeypatch, capsys):
    kernel, which, what = PASSES[name]
    everywhere = ("torch", "cpu", "torch/nhwc", "reference")
    plant(monkeypatch, kernel, which, everywhere, FAULTS["a tenth too large"] if which != 2 else FAULTS["one pixel"])
    run(name)
    said = capsys.readouterr().err
    assert "no way is right here; reference runs, " + what in said and "only reference is right" not in said
    assert {name for name, _ in failures()} == set(everywhere)
    assert f"reference runs, as no way is right: {_tune_check.WRONG}: {what}" in _tune.report()
