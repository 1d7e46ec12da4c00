"""What the guard does where the fallback is wrong too, and where the check itself fails."""

import pytest
import torch
import torch.nn.functional as F

from ganfast import _tune, _tune_check
from ganfast.ops.conv_transpose_act import sampled
from ganfast.ops.conv_transpose_act.choice import Spec
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


@pytest.mark.parametrize("work", [2**28, 40000, 1])
@pytest.mark.parametrize("groups", [1, 2, 12])
def test_a_weight_gradient_is_compared_within_its_work(groups, work, monkeypatch):
    """Channels are left out, never pixels: what is wrong at one pixel is seen in those that are left."""
    monkeypatch.setattr(sampled, "_WORK", work)
    done = []
    real = sampled._weight_gradient
    monkeypatch.setattr(sampled, "_weight_gradient", lambda *args: done.append(real(*args)) or done[-1])
    torch.manual_seed(0)
    x, weight = torch.randn(3, 24, 5, 4), torch.randn(24, 36 // groups, 3, 4).requires_grad_()
    y = F.conv_transpose2d(x, weight, None, 2, 1, groups=groups)
    gz = torch.randn_like(y)
    (right,) = torch.autograd.grad(y, weight, gz)
    spec = Spec((2, 2), (1, 1), (0, 0), (1, 1), groups, "linear", 0.0, False, False, False, "auto", "auto", "auto")
    check = sampled.WeightGradient([gz, x], weight, spec, None)
    check.prepare()
    check.see("right", right)
    y, dark = F.conv_transpose2d(x, weight, None, 2, 1, groups=groups), gz.clone()
    dark[:, :, 4, 4] = 0
    check.see("a pixel lost", *torch.autograd.grad(y, weight, dark))
    assert set(check.wrong()) == {"a pixel lost"}
    assert done[0].numel() * x.numel() // x.shape[1] <= max(work, 60 * 12)
    assert done[0].numel() == weight.numel() or work < 2**28
