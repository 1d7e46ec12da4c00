"""The Triton kernels, interpreted, against float64."""

import pytest
import torch

from ganfast import _backends
from ganfast.functional import spectral_norms, weight_norms
from tests.normalised_weights.common import cotangents, directions, matrices, torch_spectral_norms, torch_weight_norms
from tests.triton_interpreter import assert_close, interpreted  # noqa: F401

pytestmark = pytest.mark.triton
DTYPES = [torch.float32, torch.float16]


def doubled(tensors):
    return [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wide", [False, True], ids=["odd", "wide"])
def test_weight_norms(wide, dtype):
    v, g = ([t for t in tensors if t.shape[:1] != (300,)] for tensors in directions(dtype))  # so many programs take seconds
    if wide:
        v = [torch.randn(t.shape[0], 8 * t.shape[-1]).to(dtype).requires_grad_() for t in v]
    got = weight_norms(v, g, backend="triton")
    assert _backends.ran["normalised_weights"] == "triton"
    upstream = cotangents(got)
    grads = torch.autograd.grad(got, [*v, *g], upstream)
    wide_v, wide_g = doubled(v), doubled(g)
    want = torch_weight_norms(wide_v, [t if t.numel() == 1 else t.view(-1, *[1] * (x.dim() - 1)) for t, x in zip(wide_g, v)])
    wanted = torch.autograd.grad(want, [*wide_v, *wide_g], [t.double() for t in upstream])
    for i, (a, b) in enumerate(zip([*got, *grads], [*want, *wanted])):
        assert_close(a, b.detach(), str(i), scale=1.0)


@pytest.mark.parametrize(
    ("iterations", "u_first", "dtype"), [(1, True, DTYPES[0]), (2, False, DTYPES[0]), (0, True, DTYPES[0]), (1, True, DTYPES[1])]
)
def test_spectral_norms(iterations, u_first, dtype):
    leaves, u, v = matrices(dtype)
    exact_u, exact_v = doubled(u), doubled(v)
    got = spectral_norms(leaves, u, v, power_iterations=iterations, u_first=u_first, backend="triton")
    upstream = cotangents(got)
    grads = torch.autograd.grad(got, leaves, upstream)
    wide = doubled(leaves)
    want = torch_spectral_norms(wide, exact_u, exact_v, iterations, u_first)
    wanted = torch.autograd.grad(want, wide, [t.double() for t in upstream])
    for i, (a, b) in enumerate(zip([*got, *u, *v, *grads], [*want, *exact_u, *exact_v, *wanted])):
        assert_close(a, b.detach(), str(i), floor=64.0)
