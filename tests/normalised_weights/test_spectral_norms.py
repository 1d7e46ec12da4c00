"""Spectral norms: values, u, v and gradients of every CPU backend against the oracle; equalised weights."""

import pytest
import torch
from torch import nn

from ganfast.functional import equalised_weights, spectral_norms
from ganfast.ops.normalised_weights import autograd
from ganfast.testing import assert_close_to_reference, nan_filled
from tests.normalised_weights.common import BACKENDS, cotangents, matrices, torch_spectral_norms

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("iterations", "u_first"), [(0, True), (1, True), (1, False), (3, True)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_oracle(backend, iterations, u_first, dtype):
    leaves, u, v = matrices(dtype)
    with nan_filled():
        got = spectral_norms(leaves, u, v, power_iterations=iterations, u_first=u_first, backend=backend)
        grads = torch.autograd.grad(got, leaves, cotangents(got))
    versions = [t._version for t in (*u, *v)]
    assert all(versions) if iterations else not any(versions)
    _, plain_u, plain_v = matrices(dtype)
    plain = torch_spectral_norms(leaves, plain_u, plain_v, iterations, u_first)
    of_plain = torch.autograd.grad(plain, leaves, cotangents(plain))
    wide = [t.detach().double().requires_grad_() for t in leaves]
    exact_u, exact_v = ([t.double() for t in tensors] for tensors in matrices(dtype)[1:])
    exact = torch_spectral_norms(wide, exact_u, exact_v, iterations, u_first)
    of_exact = torch.autograd.grad(exact, wide, [t.double() for t in cotangents(plain)])
    names = [f"{kind}{i}" for kind in ("w", "u", "v", "gweight") for i in range(len(leaves))]
    of_torch, right = [*plain, *plain_u, *plain_v, *of_plain], [*exact, *exact_u, *exact_v, *of_exact]
    assert_close_to_reference(*zip(names, [*got, *u, *v, *grads], of_torch, right))


@pytest.mark.parametrize("iterations", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(backend, iterations):
    """u and v are constants: after many iterations they change no more."""
    weights = [torch.randn(shape, dtype=torch.float64) for shape in ((3, 2, 2), (2, 3))]
    u, v = [w.new_ones(w.shape[0]) for w in weights], [w.new_ones(w[0].numel()) for w in weights]
    torch_spectral_norms(weights, u, v, 20, True)
    again = lambda: ([t.clone() for t in u], [t.clone() for t in v])
    call = lambda *leaves: tuple(spectral_norms(leaves, *again(), power_iterations=0, backend=backend))
    leaves = [w.requires_grad_() for w in weights]
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    if iterations:  # of what was saved with the new u and v, a second order is torch's own
        found = []
        ours = lambda: spectral_norms(leaves, *again(), power_iterations=1, backend=backend)
        for norms in (ours, lambda: torch_spectral_norms(leaves, *again(), 1, True)):
            first = torch.autograd.grad(sum(t.pow(3).sum() for t in norms()), leaves, create_graph=True)
            found.append(torch.autograd.grad(sum(t.square().sum() for t in first), leaves))
        torch.testing.assert_close(*found)


def test_sigma_taken_as_a_constant_would_be_caught(monkeypatch):
    right = autograd.reference.spectral_norm_grad
    wrong = lambda gw, weight, u, v: right(gw, weight, u, v, (u @ weight @ v).detach())
    monkeypatch.setattr(autograd.reference, "spectral_norm_grad", wrong)
    leaf, u, v = (torch.ones(shape, dtype=torch.float64) for shape in ((3, 2), (3,), (2,)))
    leaf = (leaf + torch.rand_like(leaf)).requires_grad_()
    call = lambda w: tuple(spectral_norms([w], [u], [v], backend="cpu"))
    assert torch.autograd.gradcheck(call, (leaf,))
    assert not torch.autograd.gradgradcheck(call, (leaf,), raise_exception=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("u_first", [True, False], ids=["parametrization", "hook"])
def test_what_torchs_layers_do(u_first, backend):
    """Over steps of training, then in evaluation."""
    torch.manual_seed(0)
    norm = (nn.utils.parametrizations if u_first else nn.utils).spectral_norm
    names = (
        [f"parametrizations.weight.{name}" for name in ("original", "0._u", "0._v")] if u_first else ["weight_orig", "weight_u", "weight_v"]
    )
    layers = [norm(nn.Conv2d(3, 8, 3), n_power_iterations=2), norm(nn.Linear(8, 5), n_power_iterations=2)]
    tensors = [[dict([*m.named_parameters(), *m.named_buffers()])[name].detach().clone() for m in layers] for name in names]
    x = torch.randn(1, 3, 3, 3)
    for training in (True, True, False):
        for layer in layers:
            layer.train(training)(x if isinstance(layer, nn.Conv2d) else x.new_zeros(8))
        want = [m.weight.detach() for m in layers] if not training or not u_first else None  # a parametrization would iterate once more
        got = spectral_norms(*tensors, power_iterations=2 * training, u_first=u_first, backend=backend)
        if want is not None:
            torch.testing.assert_close(got, want)
    held = [[dict([*m.named_parameters(), *m.named_buffers()])[name].detach() for m in layers] for name in names]
    torch.testing.assert_close(tensors, held)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_forwards_before_a_backward(backend):
    """What the first saved of u and v is its own."""
    leaves, u, v = matrices(torch.float64)
    total = 0
    for _ in range(2):
        total = total + sum(t.pow(3).sum() for t in spectral_norms(leaves, u, v, power_iterations=1, backend=backend))
    got = torch.autograd.grad(total, leaves)
    _, u, v = matrices(torch.float64)
    want = torch.autograd.grad(sum(t.pow(3).sum() for _ in range(2) for t in torch_spectral_norms(leaves, u, v, 1, True)), leaves)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_wanted(backend):
    leaves, u, v = matrices()
    leaves[1].requires_grad_(False)
    got = spectral_norms(leaves, u, v, power_iterations=1, backend=backend)
    assert [t.requires_grad for t in got] == [i != 1 for i in range(len(leaves))]
    sum(t.pow(3).sum() for i, t in enumerate(got) if i != 2).backward()
    assert [t.grad is None for t in leaves] == [i in (1, 2) for i in range(len(leaves))]
    (want,) = torch.autograd.grad(torch_spectral_norms([leaves[3]], [u[3].clone()], [v[3].clone()], 0, True)[0].pow(3).sum(), leaves[3])
    torch.testing.assert_close(leaves[3].grad, want, rtol=1e-4, atol=1e-5)


def test_equalised():
    leaves = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 2), (4,), (2, 2))]
    factors = (0.5, 3, -1.0)
    call = lambda *leaves: tuple(equalised_weights(leaves, factors))
    assert all(torch.equal(got, leaf * factor) for got, leaf, factor in zip(call(*leaves), leaves, factors))
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    leaves[1].requires_grad_(False)
    got = call(*leaves)
    assert [t.requires_grad for t in got] == [True, False, True]
    got[0].sum().backward()
    assert torch.equal(leaves[0].grad, torch.full_like(leaves[0], 0.5)) and leaves[2].grad is None
