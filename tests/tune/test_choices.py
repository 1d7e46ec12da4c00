"""The tuner's answers in a checkpoint: a resumed run takes the same kernels, whatever the cache or the clock would say."""

import copy
import json
import pickle

import pytest
import torch

import ganfast.functional as GF
from ganfast import _tune, _tune_cache
from ganfast._memo import Memo
from ganfast.ops.conv_transpose_act import kernels
from tests.tune.common import X, calls, forget


def ask(question="q", family="", **seconds):
    candidates, ran = calls(**seconds)
    return _tune.choose(question, candidates, X, family)[0], ran


def through_a_file(choices, path) -> dict:
    torch.save(choices, path)
    return torch.load(path, weights_only=True)


def test_adopted_answers_stand_before_the_cache_and_the_clock(told_times, tmp_path):
    assert ask(a=0.002, b=0.001)[0] == "b"
    kept = through_a_file(_tune.choices(), tmp_path / "choices.pt")
    forget()
    _tune_cache.cache_file(X.device).unlink()
    assert ask(a=0.001, b=0.002)[0] == "a"  # this machine has changed its mind, and the cache file with it
    forget()
    _tune.adopt(kept)
    answer, ran = ask(a=0.001, b=0.002)
    assert answer == "b" and not ran
    assert _tune.choices() == kept  # for the next checkpoint, asked or not


def test_what_the_process_had_settled_is_asked_again(told_times):
    assert ask(a=0.002, b=0.001)[0] == "b"
    kept = _tune.choices()
    forget()
    _tune_cache.cache_file(X.device).unlink()
    assert ask(a=0.001, b=0.002)[0] == "a"
    settled = Memo({"plan": "by the answer a"})
    copied = copy.deepcopy(settled), pickle.loads(pickle.dumps(settled))
    _tune.adopt(kept)
    assert not settled and not any(copied) and ask(a=0.001, b=0.002)[0] == "b"


def test_an_adopted_answer_that_is_no_candidate_here_is_no_answer(told_times):
    ask(a=0.002, gone=0.001)
    kept = _tune.choices()
    forget()
    _tune.adopt(kept)
    assert ask(a=0.002, b=0.001)[0] == "b"


def test_a_size_that_went_by_the_commonest_answer_goes_by_the_same_one(told_times):
    """Though the cache file knows more sizes by now: a family that is full stays as it was."""
    for i in range(_tune.MOST_SHAPES):
        ask(f"q {i}", "family", a=0.002, b=0.001)
    assert ask("new", "family", a=0.001, b=0.002)[0] == "b"
    kept = _tune.choices()
    forget()
    _tune_cache.cache_file(X.device).unlink()
    elsewhere = [f"elsewhere {i}" for i in range(_tune.MOST_SHAPES + 1)]
    for question in elsewhere:
        ask(question, question, a=0.001, b=0.002)
    forget()
    _tune.adopt(kept)
    for question in elsewhere:
        assert ask(question, "family", a=0.001, b=0.002)[0] == "a"
    answer, ran = ask("new", "family", a=0.001, b=0.002)
    assert answer == "b" and not ran


def test_a_choice_from_the_cache_file_is_kept_too(told_times):
    ask(a=0.002, b=0.001)
    forget()
    ask(a=0.001, b=0.002)  # answered by the file
    kept = _tune.choices()
    assert list(kept["answers"].values()) == ["b"] and list(json.loads(json.dumps(kept))["families"].values()) == [kept["answers"]]


def test_tuning_off_here_and_on_there_is_a_word(told_times, monkeypatch, capsys):
    ask(a=0.002, b=0.001)
    kept = _tune.choices()
    _tune.adopt(kept)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GANFAST_TUNE", "0")
    _tune.adopt(kept)
    assert "tuning is off (GANFAST_TUNE=0), in the run that goes on it was on" in capsys.readouterr().err
    assert ask(a=0.002, b=0.001)[0] == "a"


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_layer_takes_the_adopted_kernel(backend, monkeypatch):
    """Though another one was measured, and settled for this very call."""
    x, weight = torch.randn(8, 16, 6, 6, requires_grad=True), torch.randn(16, 24, 4, 4, requires_grad=True)

    def bits():
        y = GF.conv_transpose_act(x, weight, stride=2, padding=1, act="tanh")
        return [y, *torch.autograd.grad(y.square().sum(), (x, weight))]

    bits()
    measured = _tune.choices()
    assert len(measured["answers"]) == 3  # a pass each
    ran, real = [], kernels.fwd
    monkeypatch.setattr(kernels, "fwd", lambda *args: ran.append(args[-1]) or real(*args))
    _tune.adopt(measured | {"answers": dict.fromkeys(measured["answers"], backend)})
    first = bits()
    assert ran == [backend]
    assert all(torch.equal(a, b) for a, b in zip(first, bits(), strict=True))
