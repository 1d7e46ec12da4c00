"""Each mistake gets one error that names op, argument, received, wanted."""

import numpy as np
import pytest
import torch

from ganfast.functional import bias_act

X = torch.randn(4, 3, 5, 5)
ROWS = {
    "numpy": (lambda: bias_act(np.zeros((4, 3))), TypeError, "x is a numpy.ndarray.*from_numpy"),
    "integers": (lambda: bias_act(X.int()), TypeError, "x has dtype torch.int32, wants float32"),
    "no dimension": (lambda: bias_act(torch.tensor(1.0)), ValueError, "x has no dimensions, wants one or more"),
    "dim of a vector": (lambda: bias_act(torch.randn(3)), ValueError, r"dim is 1, x has shape \(3,\) and wants one from -1 to 0.*dim=-1"),
    "dim": (lambda: bias_act(X, dim=-5), ValueError, "dim is -5, .* wants one from -4 to 3"),
    "dim type": (lambda: bias_act(X, dim=1.0), TypeError, "dim is 1.0, wants an int"),
    "bias length": (lambda: bias_act(X, torch.ones(5)), ValueError, r"bias has shape \(5,\), wants \(3,\).*3 entries of x along dim 1"),
    "bias rank": (lambda: bias_act(X, torch.ones(3, 1, 1)), ValueError, r"bias has shape \(3, 1, 1\), wants \(3,\)"),
    "bias type": (lambda: bias_act(X, 0.5), TypeError, "bias is a builtins.float, wants a torch.Tensor"),
    "bias dtype": (lambda: bias_act(X, torch.ones(3).int()), TypeError, "bias has dtype torch.int32"),
    "bias elsewhere": (lambda: bias_act(X, torch.ones(3, device="meta")), ValueError, "bias is on meta, x on cpu"),
    "act": (lambda: bias_act(X, act="lrelu"), ValueError, "act='lrelu' is unknown.*Did you mean 'leaky_relu'"),
    "alpha without": (lambda: bias_act(X, act="relu", alpha=0.1), ValueError, "act='relu' has no parameter"),
    "alpha length": (lambda: bias_act(X, act="prelu", alpha=torch.ones(5)), ValueError, r"alpha has shape \(5,\)"),
    "gain tensor": (lambda: bias_act(X, gain=torch.ones(3)), TypeError, "gain is tensor.*wants a float.*multiplication of its own"),
    "gain bool": (lambda: bias_act(X, gain=True), TypeError, "gain is True, wants a float"),
    "gain nan": (lambda: bias_act(X, gain=float("nan")), ValueError, "gain is nan, wants a finite number"),
    "clamp": (lambda: bias_act(X, clamp=-1.0), ValueError, r"clamp is -1.0, wants a positive number, the bound on \|y\|, or None"),
    "clamp zero": (lambda: bias_act(X, clamp=0), ValueError, "clamp is 0.0, wants a positive number"),
    "clamp pair": (lambda: bias_act(X, clamp=(-1, 1)), TypeError, r"clamp is \(-1, 1\), wants a float"),
    "clamp infinite": (lambda: bias_act(X, clamp=float("inf")), ValueError, "clamp is inf, wants a finite number"),
    "backend": (lambda: bias_act(X, backend="tritn"), ValueError, "backend='tritn' is unknown.*Did you mean 'triton'"),
    "residual numpy": (lambda: bias_act(X, residual=X.numpy()), TypeError, "residual is a numpy.ndarray.*from_numpy"),
    "residual broadcast": (
        lambda: bias_act(X, residual=X[:1]),
        ValueError,
        r"residual has shape \(1, 3, 5, 5\), y has .*expand",
    ),
    "residual channels": (lambda: bias_act(X, residual=X[:, :2]), ValueError, r"residual has shape \(4, 2, 5, 5\).*projection"),
    "residual rank": (lambda: bias_act(X, residual=X[0]), ValueError, r"residual has shape \(3, 5, 5\), y has"),
    "residual dtype": (
        lambda: bias_act(X, residual=X.half()),
        TypeError,
        "residual has dtype torch.float16, y has .*Cast one",
    ),
    "residual elsewhere": (lambda: bias_act(X, residual=X.to("meta")), ValueError, "residual is on meta, y on cpu"),
    "first without": (lambda: bias_act(X, residual_first=True), ValueError, "residual_first is True, but there is no residual"),
    "first": (lambda: bias_act(X, residual=X, residual_first=X), TypeError, "residual_first is tensor.*wants a bool"),
    "factor without": (lambda: bias_act(X, factor=0.5), ValueError, "factor is 0.5, but there is no residual.*gain is what multiplies"),
    "factor": (lambda: bias_act(X, residual=X, factor=float("inf")), ValueError, "factor is inf, wants a finite number"),
    "factor bool": (lambda: bias_act(X, residual=X, factor=True), TypeError, "factor is True, wants a float"),
    "factor tensor": (lambda: bias_act(X, residual=X, factor=X), TypeError, "factor is tensor.*multiplication of its own"),
    "backend elsewhere": (lambda: bias_act(X, backend="cuda"), RuntimeError, "backend 'cuda' cannot run: x is on cpu"),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_error(row):
    call, error, message = ROWS[row]
    bias_act(X, residual=X, factor=1.0)
    for _ in range(2):  # a call that failed must not be remembered as one that passed
        with pytest.raises(error, match="(?s)" + message) as caught:
            call()
        assert str(caught.value).startswith("bias_act: ")
