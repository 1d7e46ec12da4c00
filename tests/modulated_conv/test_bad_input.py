"""Words for every wrong call."""

import pytest
import torch

from ganfast.functional import modulated_conv

X, W, S, F = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(2, 3), torch.ones(4)
call = lambda x=X, weight=W, style=S, **options: lambda: modulated_conv(x, weight, style, **options)

WRONG = {
    "no tensor": (call(x=[1.0]), TypeError, "x is a builtins.list"),
    "integers": (call(x=X.int()), TypeError, "x has dtype torch.int32"),
    "one image": (call(x=X[0]), ValueError, r"x has shape \(3, 8, 8\), wants \[N, Cin, H, W\]"),
    "a flat weight": (call(weight=W[0]), ValueError, r"weight has shape \(3, 3, 3\), wants \[Cout, Cin, kh, kw\]"),
    "other channels": (call(weight=torch.randn(4, 5, 3, 3)), ValueError, "weight expects Cin=5, x has 3 channels"),
    "a transposed weight": (call(weight=torch.randn(3, 4, 3, 3)), ValueError, "expects Cin=4, x has 3 channels.*Transposed weights"),
    "an empty weight": (call(weight=torch.randn(0, 3, 3, 3)), ValueError, "wants no empty dimension"),
    "styles of w": (call(style=torch.randn(2, 512)), ValueError, r"style has shape \(2, 512\), wants \(2, 3\).*layer's affine"),
    "one style": (call(style=torch.randn(1, 3)), ValueError, r"style has shape \(1, 3\), wants \(2, 3\), one entry for each"),
    "a flat style": (call(style=torch.randn(3)), ValueError, r"wants \[N, Cin\]"),
    "styles elsewhere": (call(style=S.to("meta")), ValueError, "style is on meta, x on cpu"),
    "a weight elsewhere": (call(weight=W.to("meta")), ValueError, "weight is on meta, x on cpu"),
    "up of 0": (call(up=0), ValueError, "up is 0, wants a positive number"),
    "down of 0": (call(down=0), ValueError, "down is 0, wants a positive number"),
    "half": (call(up=0.5), TypeError, "up is 0.5, wants an int"),
    "up and down": (call(up=2, down=2, filter=F), ValueError, "up is 2 and down 2, wants at least one of them to be 1"),
    "a filter of three": (call(up=2, filter=torch.ones(2, 2, 2)), ValueError, r"filter has shape \(2, 2, 2\), wants \[taps\] or \[h, w\]"),
    "taps that learn": (call(up=2, filter=F.clone().requires_grad_()), ValueError, "filter requires grad"),
    "taps elsewhere": (call(up=2, filter=F.to("meta")), ValueError, "filter is on meta, x on cpu"),
    "a list of taps": (call(up=2, filter=[1.0]), TypeError, "filter is a builtins.list"),
    "three paddings": (call(padding=[1, 2, 3]), ValueError, "modulated_conv: padding has 3 entries"),
    "padding by name": (call(padding="same"), TypeError, "padding is 'same'"),
    "nothing left": (call(padding=-3), ValueError, r"the output would have no pixels: \(0, 0\) from input \(8, 8\)"),
    "flip of 1": (call(flip=1), TypeError, "flip is 1, wants a bool"),
    "demodulate by name": (call(demodulate="yes"), TypeError, "demodulate is 'yes'"),
    "noise of a channel each": (call(padding=1, noise=torch.randn(2, 4, 8, 8)), ValueError, r"broadcasts to \(2, 1, 8, 8\). All channels"),
    "noise of x's size": (
        call(noise=torch.randn(8, 8)),
        ValueError,
        r"noise has shape \(8, 8\), wants one that broadcasts to \(2, 1, 6, 6\)",
    ),
    "noise of five": (call(noise=torch.randn(1, 1, 1, 6, 6)), ValueError, "noise has shape"),
    "a number as noise": (call(noise=0.1), TypeError, "noise is a builtins.float"),
    "noise elsewhere": (call(noise=torch.randn(6, 6).to("meta")), ValueError, "noise is on meta, x on cpu"),
    "a bias of x's channels": (call(bias=torch.zeros(3)), ValueError, r"bias has shape \(3,\), wants \(4,\)"),
    "a bias elsewhere": (call(bias=torch.zeros(4).to("meta")), ValueError, "bias is on meta, x on cpu"),
    "another activation": (call(act="lrelu"), ValueError, "act='lrelu' is unknown.*mean 'leaky_relu'"),
    "no activation": (call(act=None), ValueError, r"act=None is unknown; valid: [^.]*\.$"),
    "alpha for nothing": (call(alpha=0.2), ValueError, "alpha was given, but act='linear' has no parameter"),
    "a gain of nan": (call(gain=float("nan")), ValueError, "gain is nan"),
    "a clamp of 0": (call(clamp=0), ValueError, "clamp is 0.0, wants a positive number"),
    "an eps below 0": (call(eps=-1.0), ValueError, "eps is -1.0"),
    "no kernels": (call(backend="cuda"), RuntimeError, "backend 'cuda' cannot run: it has no modulated_conv; triton has"),
}


@pytest.mark.parametrize("name", WRONG)
def test_words(name):
    wrong, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        wrong()


def test_a_good_call_after_a_wrong_one_that_looks_like_it():
    modulated_conv(X, W, S, up=2, padding=1)
    for wrong in ({"flip": 1}, {"up": 2.0}, {"gain": True}, {"padding": True}):
        with pytest.raises((TypeError, ValueError)):
            modulated_conv(X, W, S, **({"up": 2, "padding": 1} | wrong))
