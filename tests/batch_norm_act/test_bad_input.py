"""Each mistake gets one error that names op, argument, received, wanted."""

import numpy as np
import pytest
import torch

from ganfast.functional import batch_norm_act

X, MEAN, VAR = torch.randn(4, 3, 5, 5), torch.zeros(3), torch.ones(3)
ROWS = {
    "numpy": (lambda: batch_norm_act(np.zeros((4, 3)), MEAN, VAR), TypeError, "x is a numpy.ndarray.*from_numpy"),
    "integers": (lambda: batch_norm_act(X.int(), MEAN, VAR), TypeError, "x has dtype torch.int32, wants float32"),
    "rank": (lambda: batch_norm_act(torch.randn(3), MEAN, VAR), ValueError, r"x has 1 dimensions, wants 2 to 5"),
    "mean length": (lambda: batch_norm_act(X, torch.zeros(4), VAR), ValueError, r"running_mean has shape \(4,\), wants \(3,\)"),
    "weight length": (lambda: batch_norm_act(X, MEAN, VAR, torch.ones(2)), ValueError, r"weight has shape \(2,\), wants \(3,\)"),
    "bias rank": (lambda: batch_norm_act(X, MEAN, VAR, None, torch.ones(3, 1)), ValueError, r"bias has shape \(3, 1\), wants \(3,\)"),
    "half of the statistics": (lambda: batch_norm_act(X, MEAN, None), ValueError, "come together"),
    "eval without statistics": (lambda: batch_norm_act(X, None, None), ValueError, "running_mean is None, eval mode wants"),
    "one value": (lambda: batch_norm_act(torch.randn(1, 3), None, None, training=True), ValueError, "one value per channel"),
    "momentum": (lambda: batch_norm_act(X, MEAN, VAR, training=True, momentum=None), TypeError, "momentum is None, wants a float"),
    "eps": (lambda: batch_norm_act(X, MEAN, VAR, eps=-1.0), ValueError, "eps is -1.0"),
    "act": (lambda: batch_norm_act(X, MEAN, VAR, act="rleu"), ValueError, "act='rleu' is unknown.*Did you mean 'relu'"),
    "alpha without": (lambda: batch_norm_act(X, MEAN, VAR, act="relu", alpha=0.1), ValueError, "act='relu' has no parameter"),
    "alpha length": (lambda: batch_norm_act(X, MEAN, VAR, act="prelu", alpha=torch.ones(5)), ValueError, r"alpha has shape \(5,\)"),
    "backend": (lambda: batch_norm_act(X, MEAN, VAR, backend="tritn"), ValueError, "backend='tritn' is unknown.*Did you mean 'triton'"),
    "backend elsewhere": (lambda: batch_norm_act(X, MEAN, VAR, backend="cuda"), RuntimeError, "backend 'cuda' cannot run: x is on cpu"),
    "partials": (lambda: batch_norm_act(X, None, None, training=True, partials=torch.ones(3, 3)), ValueError, r"wants \(T, 3, 3\)"),
    "another's partials": (
        lambda: batch_norm_act(X, None, None, training=True, partials=torch.ones(1, 3, 3)),
        ValueError, "count 1 values per channel, x has 100",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_one_error(row):
    call, error, message = ROWS[row]
    with pytest.raises(error, match=message) as caught:
        call()
    assert str(caught.value).startswith("batch_norm_act: ")
    assert MEAN.equal(torch.zeros(3)) and VAR.equal(torch.ones(3))
