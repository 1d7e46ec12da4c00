"""Each mistake gets one error that names op, argument, received, wanted."""

import numpy as np
import pytest
import torch

from ganfast.functional import discriminator_loss, generator_loss
from ganfast.nn import DiscriminatorLoss, GeneratorLoss

D, G, REAL, FAKE = discriminator_loss, generator_loss, torch.randn(4, 1), torch.randn(4, 1)
ROWS = {
    "numpy": (lambda: D(REAL, np.zeros(4)), TypeError, "fake_logits is a numpy.ndarray, wants a torch.Tensor.*from_numpy"),
    "no tensor": (lambda: D(None, FAKE), TypeError, "real_logits is a builtins.NoneType, wants a torch.Tensor"),
    "numpy real": (lambda: G(FAKE, np.zeros(4)), TypeError, "real_logits is a numpy.ndarray"),
    "integers": (lambda: D(REAL.int(), FAKE), TypeError, "real_logits has dtype torch.int32, wants float32.*raw outputs"),
    "complex": (lambda: G(FAKE.cfloat()), TypeError, "fake_logits has dtype torch.complex64, wants float32"),
    "mixed dtypes": (lambda: D(REAL, FAKE.bfloat16()), TypeError, "fake_logits has dtype torch.bfloat16, real_logits has torch.float32"),
    "mixed dtypes, generator": (lambda: G(FAKE.half(), REAL), TypeError, "torch.float16, real_logits has torch.float32; both must be"),
    "mixed devices": (lambda: D(REAL.to("meta"), FAKE), ValueError, "fake_logits is on cpu, real_logits on meta"),
    "empty real": (lambda: D(REAL[:0], FAKE), ValueError, r"real_logits is empty: shape \(0, 1\)"),
    "empty fake": (lambda: G(FAKE[:0]), ValueError, r"fake_logits is empty: shape \(0, 1\)"),
    "kind": (lambda: D(REAL, FAKE, kind="hing"), ValueError, "kind='hing' is unknown; valid: minimax.*Did you mean 'hinge'"),
    "kind, generator": (lambda: G(FAKE, kind="relativisitc"), ValueError, "kind='relativisitc' is unknown.*Did you mean 'relativistic'"),
    "kind of another type": (lambda: D(REAL, FAKE, kind=torch.nn.BCELoss()), ValueError, "kind=.*is unknown"),
    "negative smoothing": (lambda: D(REAL, FAKE, smoothing=-0.1), ValueError, r"smoothing is -0.1, wants a value in \[0, 1\)"),
    "smoothing of one": (lambda: D(REAL, FAKE, smoothing=1), ValueError, r"smoothing is 1, wants a value in \[0, 1\)"),
    "smoothing not a number": (lambda: D(REAL, FAKE, smoothing=float("nan")), ValueError, "smoothing is nan, wants a value"),
    "smoothing a tensor": (lambda: D(REAL, FAKE, smoothing=torch.tensor(0.1)), TypeError, r"smoothing is tensor\(0.1000\), wants a float"),
    "paired without real": (lambda: G(FAKE, kind="relativistic"), ValueError, "real_logits is None, kind='relativistic' .* wants them"),
    "average without real": (lambda: G(FAKE, kind="relativistic_average"), ValueError, "real_logits is None, kind='relativistic_average'"),
    "unequal sizes": (
        lambda: D(REAL[:3], FAKE, kind="relativistic"), ValueError, r"fake_logits has shape \(4, 1\), real_logits \(3, 1\); .*equal shapes",
    ),
    "unequal shapes": (
        lambda: G(FAKE.view(4), REAL, kind="relativistic"), ValueError, r"fake_logits has shape \(4,\), real_logits \(4, 1\);.*wants equal",
    ),
    "backend": (lambda: D(REAL, FAKE, backend="tritn"), ValueError, "backend='tritn' is unknown.*Did you mean 'triton'"),
    "backend elsewhere": (lambda: G(FAKE, backend="cuda"), RuntimeError, "backend 'cuda' cannot run: .*is on cpu"),
}  # fmt: skip
for kind in ("hinge", "wasserstein", "relativistic", "relativistic_average"):
    ROWS[f"smoothing {kind}"] = (
        lambda kind=kind: D(REAL, FAKE, kind=kind, smoothing=0.1), ValueError, f"smoothing is 0.1, kind='{kind}' has no target to smooth",
    )  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_one_error(row):
    call, error, message = ROWS[row]
    with pytest.raises(error, match=message) as caught:
        call()
    assert str(caught.value).startswith(("discriminator_loss: ", "generator_loss: "))


def test_modules_refuse_when_they_are_made():
    with pytest.raises(ValueError, match=r"DiscriminatorLoss: kind='hings' is unknown.*Did you mean 'hinge'"):
        DiscriminatorLoss("hings")
    with pytest.raises(ValueError, match=r"DiscriminatorLoss: smoothing is 0.1, kind='hinge' has no target"):
        DiscriminatorLoss("hinge", smoothing=0.1)
    with pytest.raises(ValueError, match=r"GeneratorLoss: kind='wgan' is unknown"):
        GeneratorLoss("wgan")
