"""Words for every wrong call."""

import pytest
import torch

from ganfast.functional import downsample, filter, upfirdn, upsample

X, F = torch.randn(2, 3, 8, 8), torch.ones(4)

WRONG = {
    "no tensor": (lambda: upfirdn([1.0], F), TypeError, "x is a builtins.list"),
    "integers": (lambda: upfirdn(X.int(), F), TypeError, "x has dtype torch.int32"),
    "five dimensions": (lambda: upfirdn(X[None], F), ValueError, r"wants \[N, C, L\] or \[N, C, H, W\]"),
    "a filter of three": (lambda: upfirdn(X, torch.ones(2, 2, 2)), ValueError, r"filter has shape \(2, 2, 2\), wants \[taps\] or \[h, w\]"),
    "a matrix on a line": (lambda: upfirdn(X[0], torch.ones(2, 2)), ValueError, r"wants \[taps\] of at least one tap"),
    "no taps": (lambda: upfirdn(X, torch.ones(0)), ValueError, "of at least one tap"),
    "a list of taps": (lambda: upfirdn(X, [1.0, 2.0]), TypeError, "filter is a builtins.list"),
    "taps elsewhere": (lambda: upfirdn(X, F.to("meta")), ValueError, "filter is on meta, x on cpu"),
    "taps that learn": (lambda: upfirdn(X, F.clone().requires_grad_()), ValueError, "filter requires grad.*convolution's weight"),
    "up of 0": (lambda: upfirdn(X, F, up=0), ValueError, "up is 0, wants positive numbers"),
    "down of 0": (lambda: upfirdn(X, F, down=[1, 0]), ValueError, "wants positive numbers"),
    "three factors": (lambda: upfirdn(X, F, up=[1, 2, 3]), ValueError, "up has 3 entries, wants 2"),
    "half a factor": (lambda: upfirdn(X, F, down=1.5), TypeError, "down is 1.5"),
    "nothing left": (lambda: upfirdn(X, F, padding=-3), ValueError, r"nothing is left: \(4, 4\) taps on \(2, 2\) pixels"),
    "three paddings": (lambda: upfirdn(X, F, padding=[1, 2, 3]), ValueError, "padding has 3 entries, wants an int"),
    "padding of floats": (lambda: upfirdn(X, F, padding=[1.0, 2.0]), TypeError, r"padding is \[1.0, 2.0\]"),
    "flip of 1": (lambda: upfirdn(X, F, flip=1), TypeError, "flip is 1, wants a bool"),
    "a gain of nan": (lambda: upfirdn(X, F, gain=float("nan")), ValueError, "gain is nan"),
    "another backend": (lambda: upfirdn(X, F, backend="cud"), ValueError, "cuda"),
    "a huge factor": (lambda: upfirdn(X, F, down=2**40, padding=4), ValueError, "down is 1099511627776, wants at most 2147483647"),
    "a huge padding": (lambda: upfirdn(X, F, padding=[2**63, 0], down=2**30), ValueError, "wants at most 2147483647 to either side"),
    "whole taps": (lambda: upfirdn(X, torch.tensor([1, 2])), TypeError, r"filter has dtype torch.int64, wants float32, .* or float64\.$"),
    "upsample": (lambda: upsample(X, F, up=0), ValueError, "upsample: up is 0"),
    "downsample": (lambda: downsample(X, torch.ones(2, 2, 2)), ValueError, "downsample: filter has shape"),
    "filter": (lambda: filter(X, F, padding="same"), TypeError, "filter: padding is 'same'"),
    "upsample's padding": (lambda: upsample(X, F, padding=[1, 2, 3]), ValueError, "upsample: padding has 3 entries"),
    "downsample's padding": (lambda: downsample(X, F, padding=1.0), TypeError, "downsample: padding is 1.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_words(name):
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        call()


def test_a_good_call_after_a_wrong_one_that_looks_like_it():
    upfirdn(X, F, up=2)
    for wrong in ({"flip": 1}, {"up": 2.0}, {"gain": True}):
        with pytest.raises((TypeError, ValueError)):
            upfirdn(X, F, **({"up": 2} | wrong))
