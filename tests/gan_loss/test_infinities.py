"""An infinite or NaN gradient of the loss (a loss scale that overflowed), against the eager chain; logits changed after the loss."""

import pytest
import torch

from ganfast.functional import discriminator_loss, generator_loss
from ganfast.ops.gan_loss.reference import KINDS, RELATIVISTIC
from tests.infinities import gradients, same

BACKENDS = ["reference", "cpu", pytest.param("triton", marks=pytest.mark.triton)]


@pytest.mark.parametrize("upstream", [float("inf"), float("nan"), 2.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_gradients_are_torchs(backend, kind, upstream):
    leaves = {name: torch.tensor([-200.0, -3.0, -1.0, 0.0, 0.5, 1.0, 3.0, 200.0]).requires_grad_() for name in ("real", "fake")}
    leaves["fake"].data *= 0.9
    calls = [lambda backend: lambda real, fake: discriminator_loss(real, fake, kind=kind, backend=backend)]
    if kind in RELATIVISTIC:
        calls.append(lambda backend: lambda real, fake: generator_loss(fake, real, kind=kind, backend=backend))
    for call in calls:
        for u in (None, {name: torch.randn(8) for name in leaves}):
            got, want = (gradients(call(b), leaves, torch.tensor(upstream), u) for b in (backend, "torch"))
            same(got, want, f"order {1 if u is None else 2}", exactly=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_logits_changed_in_place_after_the_loss(backend, kind):
    """For a log they may be overwritten before the backward, wherever the eager chain keeps none of them, and elsewhere too."""
    leaves = [torch.linspace(-2, 2, 6).requires_grad_(), torch.linspace(-1, 3, 6).requires_grad_()]
    want = torch.autograd.grad(discriminator_loss(*leaves, kind=kind, backend="torch"), leaves)
    logits = [v * 1 for v in leaves]
    loss = discriminator_loss(*logits, kind=kind, backend=backend)
    for v in logits:
        v.detach().sigmoid_()
    torch.testing.assert_close(torch.autograd.grad(loss, leaves, retain_graph=True), want)
    with pytest.raises(RuntimeError, match="changed in place after the loss"):
        torch.autograd.grad(loss, leaves, create_graph=True)
