"""What was made under torch.inference_mode() is taken where torch's layers take it: autograd refuses to save it for a backward."""

import pytest
import torch
import torch.nn.functional as F

from ganfast.functional import (
    batch_norm_act,
    bias_act,
    conv_act,
    conv_transpose_act,
    discriminator_loss,
    generator_loss,
    group_norm_act,
    instance_norm_act,
    upsample_conv_act,
)  # fmt: skip
from tests.infinities import act_of_torch

WIDE, NORM = (2, 4, 5, 5), {"weight": (4,), "bias": (4,)}
CONV = {"weight": (4, 4, 3, 3), "bias": (4,)}
# name -> (shape of x, shapes of the rest that learns, torch's layer before the activation, ganfast's op)
OPS = {
    "conv": (WIDE, CONV, lambda x, w, b: F.conv2d(x, w, b, 1, 1), lambda *a, **k: conv_act(*a, padding=1, **k)),
    "conv_transpose": (WIDE, CONV, lambda x, w, b: F.conv_transpose2d(x, w, b, 1, 1),
                       lambda *a, **k: conv_transpose_act(*a, padding=1, **k)),
    "upsample_conv": (
        (2, 4, 3, 3), CONV, lambda x, w, b: F.conv2d(F.interpolate(x, scale_factor=2), w, b, 1, 1),
        lambda *a, **k: upsample_conv_act(*a, padding=1, **k),
    ),
    "batch_norm": (WIDE, NORM, lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
                   lambda x, w, b, **k: batch_norm_act(x, None, None, w, b, training=True, **k)),
    "instance_norm": (WIDE, NORM, lambda x, w, b: F.instance_norm(x, None, None, w, b), instance_norm_act),
    "group_norm": (WIDE, NORM, lambda x, w, b: F.group_norm(x, 2, w, b), lambda x, w, b, **k: group_norm_act(x, 2, w, b, **k)),
    "bias": (WIDE, {"bias": (4,)}, lambda x, b: x + b[:, None, None], bias_act),
}  # fmt: skip
NORMS = ["batch_norm", "instance_norm", "group_norm"]
ALPHAS = {"leaky_relu": 0.2}


def inferred(*shape: int) -> torch.Tensor:
    with torch.inference_mode():
        return torch.randn(shape)


def alike(got: torch.Tensor, want: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    """Two forwards by their values and their gradients of two orders."""
    results = []
    for y in (got, want):
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        results.append([y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("act", ["linear", "relu", "leaky_relu", "tanh", "silu"])
@pytest.mark.parametrize("name", OPS)
def test_a_residual(name, act, first):
    size, shapes, layer, op = OPS[name]
    x, *rest = leaves = [torch.randn(s, requires_grad=True) for s in (size, *shapes.values())]
    shape = layer(*leaves).shape
    residual = inferred(*shape)
    got = op(x, *rest, act=act, alpha=ALPHAS.get(act), residual=residual, residual_first=first, factor=0.5)
    z = layer(*leaves)
    alpha = ALPHAS.get(act)
    want = (act_of_torch(z + residual, act, alpha) if first else act_of_torch(z, act, alpha) + residual) * 0.5
    alike(got, want, leaves)


@pytest.mark.parametrize("act", ["linear", "relu", "silu"])
@pytest.mark.parametrize("name", NORMS)
def test_a_shift(name, act):
    """One for each value, as SPADE's; the scale learns."""
    size, _, layer, op = OPS[name]
    x, scale = leaves = [torch.randn(size, requires_grad=True) for _ in range(2)]
    shift = inferred(*size)
    got = op(x, None, None, act=act, scale=scale, shift=shift)
    alike(got, act_of_torch(layer(x, None, None) * scale + shift, act, None), leaves)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_without_an_activation_keeps_no_residual(name):
    size, shapes, _, op = OPS[name]
    tensors = [torch.randn(s, requires_grad=True) for s in (size, *shapes.values())]
    residual, kept = torch.randn(size), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        op(*tensors, residual=residual, residual_first=True)
    assert kept and residual.data_ptr() not in kept


def test_what_an_activation_saves_and_a_bias_that_nothing_saves():
    x, bias, weight = inferred(2, 4, 5, 5), inferred(4), torch.randn(4, 4, 3, 3, requires_grad=True)
    learned = torch.randn(4, requires_grad=True)
    alike(bias_act(x, learned, act="silu"), F.silu(x + learned[:, None, None]), [learned])
    x = torch.randn(2, 4, 3, 3)
    alike(upsample_conv_act(x, weight, bias, padding=1), F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, 1, 1), [weight])


@pytest.mark.parametrize("kind", ["nonsaturating", "hinge", "relativistic"])
def test_logits_of_reals(kind):
    fake, real = torch.randn(8, requires_grad=True), inferred(8)
    loss = discriminator_loss(real, fake, kind=kind)
    loss.backward()
    got, fake.grad = fake.grad, None
    discriminator_loss(real.clone(), fake, kind=kind).backward()
    torch.testing.assert_close(got, fake.grad)
    if kind == "relativistic":
        generator_loss(fake, real, kind=kind).backward()
