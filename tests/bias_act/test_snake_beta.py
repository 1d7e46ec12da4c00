"""snake_beta, the activation of two parameters, and snake on a logarithmic scale, against the formula as BigVGAN's paper has it."""

import functools

import pytest
import torch

import ganfast.functional as GF
from ganfast.functional import bias_act

BACKENDS = ["reference", "torch", "cpu", pytest.param("triton", marks=pytest.mark.triton)]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
# name: shape, dim, whether channels_last
SHAPES = {"line": ((2, 5, 33), 1, False), "plane": ((2, 5, 7, 9), 1, False), "last": ((2, 5, 7, 9), 1, True),
          "tokens": ((3, 11, 5), -1, False), "rows": ((40, 5), 1, False)}  # fmt: skip


def formula(x, bias, alpha, beta, log_scale, dim, gain=1.0, clamp=None, residual=None):
    shape = [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
    alpha, beta = (v.exp() if log_scale else v for v in (alpha.view(shape), beta.view(shape)))
    z = x + bias.view(shape)
    y = (z + torch.sin(alpha * z).pow(2) / (beta + 1e-9)) * gain
    y = y if clamp is None else y.clamp(-clamp, clamp)
    return y if residual is None else y + residual


def made(name, dtype):
    shape, dim, last = SHAPES[name]
    g = torch.Generator().manual_seed(4)
    x, residual = (torch.randn(shape, generator=g, dtype=torch.float64).mul(2).to(dtype) for _ in range(2))
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    return x, residual, [(torch.rand(5, generator=g, dtype=torch.float64) + 0.3).to(dtype) for _ in range(3)], dim


@pytest.mark.parametrize("more", [{}, {"gain": 0.7, "clamp": 1.5}], ids=["plain", "clamped"])
@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(backend, name, log_scale, more):
    dtype = torch.float32
    x, residual, vectors, dim = made(name, dtype)
    found = []
    for call, kind in ((functools.partial(bias_act, act="snake_beta", backend=backend), dtype), (formula, torch.float64)):
        leaves = [t.detach().to(kind).requires_grad_() for t in (x, *vectors, residual)]
        named = dict(zip(("bias", "alpha", "beta", "residual"), leaves[1:]))
        y = call(leaves[0], **named, log_scale=log_scale, dim=dim, **more)
        gy = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(kind)
        found.append([y, *torch.autograd.grad(y, leaves, gy)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5 * (1 + want.abs().max().item()))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS[:3])
def test_dtypes(backend, dtype):
    x, _, vectors, dim = made("plane", dtype)
    got = bias_act(x, vectors[0], act="snake_beta", alpha=vectors[1], beta=vectors[2], backend=backend)
    want = formula(x.double(), *(v.double() for v in vectors), False, dim)
    assert got.dtype == dtype
    allowed = TOLERANCE[dtype] * (4 if backend == "torch" else 1)  # which rounds after each of its kernels
    torch.testing.assert_close(got.double(), want, rtol=allowed, atol=allowed)


@pytest.mark.parametrize("backend", BACKENDS[:3])
def test_two_orders(backend):
    x, _, vectors, _ = made("line", torch.float64)
    leaves = [t[:, :2, :5].clone().requires_grad_() if t.dim() > 1 else t[:2].clone().requires_grad_() for t in (x, *vectors)]
    call = lambda x, bias, alpha, beta: bias_act(x, bias, act="snake_beta", alpha=alpha, beta=beta, backend=backend)
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_large_arguments_keep_their_digits():
    """The fused pass reduces them itself."""
    z = torch.cat([torch.linspace(-40, 40, 4001), torch.linspace(-3e4, 3e4, 4001)]).view(1, 1, -1).requires_grad_()
    alpha = torch.tensor([3.0])
    y = bias_act(z, act="snake_beta", alpha=alpha, beta=2.0, backend="cpu")
    (gx,) = torch.autograd.grad(y.sum(), z)
    argument = (alpha * z.detach()).double()  # rounded as the pass rounds it
    sine = argument.sin().square() / (2 + 1e-9)
    torch.testing.assert_close((y.detach() - z.detach()).double(), sine, rtol=0, atol=4e-3)
    near = z.detach().abs() < 41
    torch.testing.assert_close(y.detach().double()[near], (z.detach().double() + sine)[near], rtol=2e-7, atol=2e-7)
    torch.testing.assert_close(gx.double(), 1 + 1.5 * (2 * argument).sin(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS[:3])
def test_snakes_logarithm_and_the_defaults(backend):
    x, log = torch.randn(2, 3, 20), torch.randn(3)
    run = functools.partial(bias_act, x, backend=backend)
    torch.testing.assert_close(run(act="snake", alpha=log, log_scale=True), run(act="snake", alpha=log.exp()))
    torch.testing.assert_close(run(act="snake", alpha=0.3, log_scale=True), run(act="snake", alpha=1.3498588))
    torch.testing.assert_close(run(act="snake_beta"), run(act="snake_beta", alpha=torch.ones(3), beta=1.0))
    torch.testing.assert_close(run(act="snake_beta", log_scale=True), run(act="snake_beta"))
    assert run(act="snake_beta", beta=0.0).isfinite().all()


def test_compiled_in_one_graph():
    x, alpha = torch.randn(2, 3, 20), torch.rand(3, requires_grad=True)
    call = lambda x, a: bias_act(x, act="snake_beta", alpha=a, beta=a + 1, log_scale=True)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(call, fullgraph=True, backend="aot_eager")(x, alpha), call(x, alpha))


X = torch.randn(2, 3, 8)
WRONG = {
    "beta of two": (lambda: bias_act(X, act="snake_beta", beta=torch.ones(2)), "beta has shape"),
    "beta of snake": (lambda: bias_act(X, act="snake", beta=1.0), "beta was given, but act='snake' has none"),
    "logarithm of silu": (lambda: bias_act(X, act="silu", log_scale=True), "log_scale was given, but act='silu' has none"),
    "a beta of nan": (lambda: bias_act(X, act="snake_beta", beta=float("nan")), "beta is nan"),
    "a convolution": (
        lambda: GF.conv_act(X, torch.randn(3, 3, 1), act="snake_beta"),
        "has two parameters, which bias_act and filtered_act alone",
    ),
    "a norm": (lambda: GF.group_norm_act(X, 1, act="snake_beta"), "group_norm_act: act='snake_beta' has two parameters"),
}


@pytest.mark.parametrize("name", WRONG)
def test_words(name):
    call, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_a_log_scale_that_is_no_bool():
    with pytest.raises(TypeError, match="log_scale is 'yes', wants a bool"):
        bias_act(X, act="snake_beta", log_scale="yes")
