"""Weight norms: values and gradients of every CPU backend against the oracle, of all weights and of some."""

import pytest
import torch

from ganfast import _backends
from ganfast.functional import weight_norms
from ganfast.ops.normalised_weights import autograd
from ganfast.testing import assert_close_to_reference, nan_filled
from tests.normalised_weights.common import BACKENDS, cotangents, directions, torch_weight_norms

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_oracle(backend, dtype):
    v, g = directions(dtype)
    with nan_filled():
        got = weight_norms(v, g, backend=backend)
        grads = torch.autograd.grad(got, [*v, *g], cotangents(got))
    assert _backends.ran["normalised_weights"] == backend
    plain = torch_weight_norms(v, g)
    wide = [[t.detach().double().requires_grad_() for t in tensors] for tensors in (v, g)]
    exact = torch_weight_norms(*wide)
    of_plain = torch.autograd.grad(plain, [*v, *g], cotangents(plain))
    of_exact = torch.autograd.grad(exact, [*wide[0], *wide[1]], [t.double() for t in cotangents(plain)])
    names = [f"{kind}{i}" for kind in ("w", "gv", "gg") for i in range(len(v))]
    assert_close_to_reference(*zip(names, [*got, *grads], [*plain, *of_plain], [*exact, *of_exact]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(backend):
    shapes = [((3, 2, 2), (3, 1, 1)), ((2, 3), (1,)), ((4,), (4,))]
    leaves = [torch.randn(shape, dtype=torch.float64).requires_grad_() for pair in zip(*shapes) for shape in pair]
    call = lambda *leaves: tuple(weight_norms(leaves[:3], leaves[3:], backend=backend))
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_what_was_saved_taken_as_a_constant_would_be_caught(monkeypatch):
    right = autograd.reference.weight_norm_grads
    monkeypatch.setattr(autograd.reference, "weight_norm_grads", lambda gw, v, g: right(gw, v.detach(), g))
    leaves = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 2), (3, 1))]
    call = lambda v, g: tuple(weight_norms([v], [g], backend="cpu"))
    assert torch.autograd.gradcheck(call, leaves)
    assert not torch.autograd.gradgradcheck(call, leaves, raise_exception=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_wanted(backend):
    """A frozen weight among others, one with a frozen direction, one whose result nobody used."""
    v, g = directions()
    v[1].requires_grad_(False)
    g[1].requires_grad_(False)
    v[2].requires_grad_(False)
    got = weight_norms(v, g, backend=backend)
    assert [t.requires_grad for t in got] == [i != 1 for i in range(len(v))]
    weights = cotangents(got)
    sum((t * w).sum() for i, (t, w) in enumerate(zip(got, weights)) if i != 4).backward()
    assert [t.grad is None for t in v] == [i in (1, 2, 4) for i in range(len(v))]
    assert [t.grad is None for t in g] == [i in (1, 4) for i in range(len(v))]
    wide = [[t.detach().double().requires_grad_() for t in tensors] for tensors in (v, g)]
    exact = torch_weight_norms(*wide)
    sum((t * w).sum() for t, w in zip(exact, weights)).backward()
    for mine, right in zip([*v, *g], [*wide[0], *wide[1]]):
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad.double(), right.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_may_be_changed_and_frozen(backend):
    """In place, as torch's may; without gradients no graph is built."""
    v, g = directions()
    got = weight_norms(v, g, backend=backend)
    got[0].mul_(2)
    (one,) = torch.autograd.grad(got[0].sum(), g[0])
    (two,) = torch.autograd.grad(torch_weight_norms(v, g)[0].sum() * 2, g[0])
    torch.testing.assert_close(one, two)
    with torch.no_grad():
        assert not any(t.requires_grad for t in weight_norms(v, g, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_and_zeros(backend):
    """Other strides in, contiguous out, as torch's; a direction of zeros is NaN there too; nothing in gives nothing."""
    torch.manual_seed(0)
    v = [torch.randn(4, 6, 3).transpose(0, 1), torch.zeros(2, 3), torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)]
    g = [torch.rand(6, 1, 1), torch.ones(2, 1), torch.rand(2, 1, 1, 1)]
    got, want = weight_norms(v, g, backend=backend), torch_weight_norms(v, g)
    assert [t.stride() for t in got] == [t.stride() for t in want]
    torch.testing.assert_close(got, want, equal_nan=True)
    assert weight_norms([], [], backend=backend) == []
    assert weight_norms([torch.ones(2, 0)], [torch.ones(2)], backend=backend)[0].shape == (2, 0)


@pytest.mark.parametrize("shapes", [[(200, 300)], [(3, 40_000), (70, 500), (5, 4), (900, 64)]], ids=["one", "some"])
def test_threads_do_not_show(shapes):
    """Tasks hold some 32,768 values: rows of several weights, a part of one, or less than a row is long."""
    v, g = [torch.randn(s, requires_grad=True) for s in shapes], [torch.rand(s[0], 1, requires_grad=True) for s in shapes]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = weight_norms(v, g, backend="cpu")
            found.append([*made, *torch.autograd.grad(sum(w.square().sum() for w in made), v + g)])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, found[0] * 2, found[1] + found[2]))
    torch.testing.assert_close(found[0][: len(v)], torch_weight_norms(v, g))


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_are_differentiated_one_after_the_other(backend):
    """As torch's, each with a graph of its own: after a step for the first, and twice only with retain_graph."""
    v, g = directions(torch.float32)
    made, plain = weight_norms(v, g, backend=backend), torch_weight_norms(v, g)
    for i in range(2):
        got = torch.autograd.grad(made[i].square().sum(), [v[i], g[i]], retain_graph=True)
        want = torch.autograd.grad(plain[i].square().sum(), [v[i], g[i]])
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            v[i].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        made[0].sum().backward()
