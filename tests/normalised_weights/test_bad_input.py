"""Each mistake gets one error that names op, argument, received, wanted."""

import pytest
import torch

from ganfast.functional import equalised_weights, spectral_norms, weight_norms

W, G, U, V, LEARNED = torch.randn(4, 3, 3), torch.ones(4, 1, 1), torch.ones(4), torch.ones(9), torch.ones(4, requires_grad=True)
ROWS = {
    "weight_norms": {
        "a tensor": (lambda: weight_norms(W, [G]), TypeError, r"v is a torch.Tensor, wants a list of tensors.*pass \[v\]"),
        "no tensor": (lambda: weight_norms([W], [1.0]), TypeError, r"g\[0\] is a builtins.float, wants a torch.Tensor"),
        "lengths": (lambda: weight_norms([W, W], [G]), ValueError, "g has 1 entries, v 2; all want one for each weight"),
        "integers": (lambda: weight_norms([W.int()], [G]), TypeError, r"v\[0\] has dtype torch.int32, wants float32"),
        "mixed": (lambda: weight_norms([W, W.half()], [G, G]), TypeError, r"v\[1\] has dtype torch.float16, v\[0\] has torch.float32"),
        "elsewhere": (lambda: weight_norms([W], [G.to("meta")]), ValueError, r"g\[0\] is on meta, v\[0\] on cpu"),
        "gain": (lambda: weight_norms([W], [torch.ones(3)]), ValueError, r"g\[0\] has shape \(3,\), wants 4 values, .* v\[0\], or one"),
        "no dimension": (lambda: weight_norms([torch.tensor(1.0)], [torch.ones(1)]), ValueError, r"v\[0\] has no dimensions"),
        "backend": (lambda: weight_norms([W], [G], backend="tritn"), ValueError, "backend='tritn' is unknown.*Did you mean 'triton'"),
        "backend elsewhere": (lambda: weight_norms([W], [G], backend="cuda"), RuntimeError, "backend 'cuda' cannot run: x is on cpu"),
    },
    "spectral_norms": {
        "u": (lambda: spectral_norms([W], [V], [V]), ValueError, r"u\[0\] has shape \(9,\), wants \(4,\) for weights\[0\].*for each row"),
        "v": (lambda: spectral_norms([W], [U], [U]), ValueError, r"v\[0\] has shape \(4,\), wants \(9,\) for weights\[0\]"),
        "vector": (lambda: spectral_norms([U], [U], [V]), ValueError, r"weights\[0\] has shape \(4,\), wants two dimensions or more"),
        "iterations": (lambda: spectral_norms([W], [U], [V], power_iterations=-1), ValueError, "is -1, wants 0 or more"),
        "a float": (lambda: spectral_norms([W], [U], [V], power_iterations=1.0), TypeError, "power_iterations is 1.0, wants an int"),
        "learned u": (lambda: spectral_norms([W], [LEARNED], [V], power_iterations=1), ValueError, r"u\[0\] requires grad, but"),
    },
    "equalised_weights": {
        "lengths": (lambda: equalised_weights([W], [1.0, 2.0]), ValueError, "factors has 2 entries, weights 1; both want one"),
        "a tensor": (lambda: equalised_weights([W], [torch.ones(())]), TypeError, r"factors\[0\] is tensor.*wants a float"),
        "nan": (lambda: equalised_weights([W, W], [1.0, float("nan")]), ValueError, r"factors\[1\] is nan, wants a finite number"),
        "infinite": (lambda: equalised_weights([W], [-float("inf")]), ValueError, r"factors\[0\] is -inf, wants a finite number"),
        "backend": (lambda: equalised_weights([W], [1.0], backend="cuda"), RuntimeError, "backend 'cuda' cannot run"),
    },
}  # fmt: skip


@pytest.mark.parametrize(("op", "row"), [(op, row) for op, rows in ROWS.items() for row in rows])
def test_one_error(op, row):
    call, error, message = ROWS[op][row]
    with pytest.raises(error, match=message) as caught:
        call()
    assert str(caught.value).startswith(f"{op}: ") or row == "backend"
