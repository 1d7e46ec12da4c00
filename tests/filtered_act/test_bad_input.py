"""Words for every wrong call."""

import pytest
import torch

from ganfast.functional import filtered_act

X, LINE, F = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8), torch.ones(4)
WRONG = {
    "no tensor": (lambda: filtered_act([1.0]), TypeError, "filtered_act: x is a builtins.list"),
    "integers": (lambda: filtered_act(X.int()), TypeError, "x has dtype torch.int32"),
    "five dimensions": (lambda: filtered_act(X[None]), ValueError, r"wants \[N, C, L\] or \[N, C, H, W\]"),
    "a filter of three": (
        lambda: filtered_act(X, up_filter=torch.ones(2, 2, 2)),
        ValueError,
        r"up_filter has shape \(2, 2, 2\), wants \[taps\] or",
    ),
    "a matrix on a line": (
        lambda: filtered_act(LINE, down_filter=torch.ones(2, 2)),
        ValueError,
        r"down_filter .* wants \[taps\] of at least",
    ),
    "taps elsewhere": (lambda: filtered_act(X, down_filter=F.to("meta")), ValueError, "down_filter is on meta, x on cpu"),
    "taps that learn": (lambda: filtered_act(X, up_filter=F.clone().requires_grad_()), ValueError, "up_filter requires grad"),
    "up of 0": (lambda: filtered_act(X, up=0), ValueError, "up is 0, wants positive numbers"),
    "down of 0": (lambda: filtered_act(X, down=[1, 0]), ValueError, "wants positive numbers"),
    "nothing between": (
        lambda: filtered_act(X, up_filter=F, padding=-3),
        ValueError,
        r"nothing is left: x of \(8, 8\) has \(-1, -1\) values",
    ),
    "nothing left": (lambda: filtered_act(X, down_filter=torch.ones(9)), ValueError, r"nothing is left: .* then \(0, 0\)"),
    "a bias of two": (lambda: filtered_act(X, torch.ones(2)), ValueError, "bias"),
    "no such act": (lambda: filtered_act(X, act="snake_bet"), ValueError, "snake_beta"),
    "beta of snake": (lambda: filtered_act(LINE, act="snake", beta=1.0), ValueError, "beta was given, but act='snake' has none"),
    "logarithms of relu": (
        lambda: filtered_act(LINE, act="relu", log_scale=True),
        ValueError,
        "log_scale was given, but act='relu' has none",
    ),
    "alpha of two": (lambda: filtered_act(LINE, act="snake_beta", alpha=torch.ones(2)), ValueError, "alpha"),
    "a gain of nan": (lambda: filtered_act(X, gain=float("nan")), ValueError, "gain is nan"),
    "a clamp of 0": (lambda: filtered_act(X, clamp=0.0), ValueError, "clamp is 0.0, wants a positive number"),
    "flip of 1": (lambda: filtered_act(X, flip=1), TypeError, "flip is 1, wants a bool"),
    "reflect": (lambda: filtered_act(LINE, padding_mode="replicat"), ValueError, "replicate"),
    "replicate of planes": (lambda: filtered_act(X, padding_mode="replicate"), ValueError, "'replicate' was given with x of 2 spatial"),
    "replicate and padding": (lambda: filtered_act(LINE, padding_mode="replicate", padding=1), ValueError, "with padding 1, wants"),
    "three paddings": (lambda: filtered_act(X, padding=[1, 2, 3]), ValueError, "filtered_act: padding has 3 entries"),
    "cuda": (lambda: filtered_act(X, backend="cuda"), RuntimeError, "backend 'cuda' cannot run"),
}


@pytest.mark.parametrize("name", WRONG)
def test_words(name):
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        call()


def test_a_good_call_after_a_wrong_one_that_looks_like_it():
    filtered_act(X, up=2, up_filter=F, padding=3)
    for wrong in ({"flip": 1}, {"up": 2.0}, {"gain": True}, {"beta": 1.0}):
        with pytest.raises((TypeError, ValueError)):
            filtered_act(X, **({"up": 2, "up_filter": F, "padding": 3} | wrong))
