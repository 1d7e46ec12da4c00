"""setup_filter: what it makes of numbers, taps and matrices, and its words."""

import numpy as np
import pytest
import torch

from ganfast.functional import setup_filter, upfirdn

TAPS = [1.0, 3.0, 3.0, 1.0]
LONG = [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 5.0]
MATRIX = [[1.0, 2.0, 3.0], [0.0, 1.0, 4.0]]


def test_few_taps_become_their_matrix():
    want = torch.tensor(TAPS).outer(torch.tensor(TAPS)) / 64
    for f in (TAPS, tuple(TAPS), [1, 3, 3, 1], np.array(TAPS), torch.tensor(TAPS, dtype=torch.float64), torch.tensor([1, 3, 3, 1])):
        got = setup_filter(f)
        assert got.dtype == torch.float32 and got.device.type == "cpu"
        torch.testing.assert_close(got, want)


def test_eight_taps_stay_taps():
    torch.testing.assert_close(setup_filter(LONG), torch.tensor(LONG) / 24)
    assert setup_filter(LONG[:7]).shape == (7, 7)
    torch.testing.assert_close(setup_filter(LONG, separable=False), torch.tensor(LONG).outer(torch.tensor(LONG)) / 576)
    torch.testing.assert_close(setup_filter(TAPS, separable=True), torch.tensor(TAPS) / 8)


def test_a_matrix_stays_one():
    torch.testing.assert_close(setup_filter(MATRIX), torch.tensor(MATRIX) / 11)
    torch.testing.assert_close(setup_filter(MATRIX, flip=True), torch.tensor(MATRIX).flip(0, 1) / 11)
    assert setup_filter([[1.0] * 9] * 9).shape == (9, 9)


def test_none_and_numbers_are_one_tap():
    x = torch.randn(1, 2, 4, 5)
    assert torch.equal(setup_filter(None), torch.ones(1, 1)) and torch.equal(setup_filter(None, separable=True), torch.ones(1))
    assert torch.equal(upfirdn(x, setup_filter(None)), x)
    assert torch.equal(setup_filter(7), torch.ones(1, 1))
    assert torch.equal(setup_filter(7, normalize=False, separable=True, gain=4), torch.full((1,), 14.0))


def test_flip_and_normalize():
    torch.testing.assert_close(setup_filter(LONG, flip=True), torch.tensor(LONG).flip(0) / 24)
    torch.testing.assert_close(setup_filter(LONG, normalize=False), torch.tensor(LONG))
    torch.testing.assert_close(setup_filter([1.0, -1.0], normalize=False), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


@pytest.mark.parametrize("f", [TAPS, LONG, MATRIX], ids=["taps", "long", "matrix"])
def test_the_gain_is_an_images(f):
    x = torch.randn(1, 2, 12, 12)
    torch.testing.assert_close(upfirdn(x, setup_filter(f, gain=3)), upfirdn(x, setup_filter(f)) * 3)


def test_memory_and_device():
    mine = torch.tensor(LONG)
    made = setup_filter(mine, normalize=False)
    made.zero_()
    assert torch.equal(mine, torch.tensor(LONG))
    assert setup_filter(TAPS, device="meta").is_meta and setup_filter(TAPS, device=torch.device("cpu")).device.type == "cpu"


WRONG = {
    "words": (lambda: setup_filter("blur"), TypeError, "f is 'blur', wants None, a number, taps"),
    "ragged": (lambda: setup_filter([[1.0], [1.0, 2.0]]), TypeError, "torch.as_tensor says"),
    "complex": (lambda: setup_filter([1j, 2.0]), TypeError, "f has dtype torch.complex64"),
    "three dimensions": (lambda: setup_filter(torch.ones(2, 2, 2)), ValueError, r"f has shape \(2, 2, 2\), wants \[\], \[taps\]"),
    "no taps": (lambda: setup_filter([]), ValueError, "of at least one tap"),
    "nan": (lambda: setup_filter([1.0, float("nan")]), ValueError, "not finite"),
    "learned": (lambda: setup_filter(torch.ones(4, requires_grad=True)), ValueError, "f requires grad.*f.detach()"),
    "a matrix taken apart": (lambda: setup_filter(MATRIX, separable=True), ValueError, "separable is True, f has shape"),
    "no mean": (lambda: setup_filter([1.0, -1.0]), ValueError, "the sum of f is 0.*normalize=False"),
    "separable of 1": (lambda: setup_filter(TAPS, separable=1), TypeError, "separable is 1, wants a bool"),
    "flip of 0": (lambda: setup_filter(TAPS, flip=0), TypeError, "flip is 0"),
    "a gain of words": (lambda: setup_filter(TAPS, gain="2"), TypeError, "gain is '2'"),
    "a negative gain": (lambda: setup_filter(LONG, gain=-1), ValueError, "gain is -1.0, wants no negative"),
}


@pytest.mark.parametrize("name", WRONG)
def test_words(name):
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        call()
