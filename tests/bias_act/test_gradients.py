"""First and second derivatives through the public function, in float64; tracing."""

import pytest
import torch

from ganfast.functional import bias_act
from ganfast.ops.bias_act import autograd

BACKENDS = ["reference", "torch", "cpu"]


def _double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize(("gain", "clamp"), [(1.0, None), (2**0.5, 1.0), (-0.5, 0.4)])
@pytest.mark.parametrize("act", ["linear", "leaky_relu", "tanh", "silu", "snake"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(backend, act, gain, clamp, dim):
    learned = act == "snake"
    leaves = (_double(2, 3, 3), _double(3), *([(torch.rand(3).double() + 0.5).requires_grad_()] if learned else []))

    def call(x, bias, *rest):
        return bias_act(x, bias, dim=dim, act=act, alpha=rest[0] if rest else None, gain=gain, clamp=clamp, backend=backend)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("act", ["tanh", "silu"])
def test_third_order(act):
    x, results = _double(2, 3), []
    for call in (lambda x: bias_act(x, act=act, gain=2.0), lambda x: 2 * getattr(torch, act, torch.nn.functional.silu)(x)):
        g = call(x)
        for _ in range(3):
            (g,) = torch.autograd.grad(g.sum(), x, create_graph=True)
        results.append(g)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("act", ["tanh", "silu"])
def test_what_was_saved_taken_as_a_constant_would_be_caught(monkeypatch, act):
    right = autograd.reference.gradients
    monkeypatch.setattr(autograd.reference, "gradients", lambda gy, saved, *rest: right(gy, saved.detach(), *rest))
    call = lambda x: bias_act(x, act=act, gain=2.0, backend="cpu")
    assert torch.autograd.gradcheck(call, (_double(3, 2),))
    assert not torch.autograd.gradgradcheck(call, (_double(3, 2),), raise_exception=False)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)])
@pytest.mark.parametrize("act", ["prelu", "linear"])
def test_only_what_is_wanted(wanted, act):
    if act == "linear" and wanted[2]:
        return
    x, bias, alpha = (torch.randn(*s).requires_grad_(w) for s, w in zip([(4, 3, 5), (3,), (1,)], wanted, strict=True))
    y = bias_act(x, bias, act=act, alpha=alpha if act == "prelu" else None)
    assert y.requires_grad == any(wanted)
    if any(wanted):
        y.sum().backward()
    assert [t.grad is not None for t in (x, bias, alpha)] == list(wanted)
    assert alpha.grad is None or alpha.grad.shape == (1,)


def test_dtypes_mix_and_autocast_casts_nothing():
    x = torch.randn(4, 3, 5, dtype=torch.bfloat16, requires_grad=True)
    bias, alpha = torch.randn(3, requires_grad=True), torch.rand(3, dtype=torch.float64, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        y = bias_act(x, bias, act="prelu", alpha=alpha)
        grads = torch.autograd.grad(y.float().square().sum(), (x, bias, alpha), create_graph=True)
    assert [t.dtype for t in (y, *grads)] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float64]
    grads[1].sum().backward()


def test_a_gradient_in_another_layout():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    gy = torch.randn(2, 3, 4, 5)
    for act in ("tanh", "silu"):
        want = torch.autograd.grad(getattr(torch.nn.functional, act)(x), x, gy)
        torch.testing.assert_close(torch.autograd.grad(bias_act(x, act=act), x, gy), want)
        expanded = torch.ones(1).expand(2, 3, 4, 5)
        want = torch.autograd.grad(getattr(torch.nn.functional, act)(x), x, expanded)
        torch.testing.assert_close(torch.autograd.grad(bias_act(x, act=act), x, expanded), want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "channels_last"), [(torch.float32, False), (torch.bfloat16, True)], ids=["float32", "bfloat16 channels_last"]
)
@pytest.mark.thinned(3)
def test_opcheck(backend, dtype, channels_last):
    ops, vector = torch.ops.ganfast, torch.rand(4)
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    x, gy = (torch.randn(2, 4, 3, 3).to(dtype).contiguous(memory_format=fmt) for _ in range(2))
    for bias, alpha, act, gain, clamp, from_y in [
        (None, None, "linear", 1.0, None, True),
        (vector, None, "tanh", 2.0, 1.0, True),
        (vector, vector, "prelu", -2.0, 1.0, False),
    ]:
        numbers = (bias, alpha, act, 0.0, gain, clamp)
        torch.library.opcheck(ops.bias_act_fwd.default, (x, *numbers, channels_last, backend))
        torch.library.opcheck(ops.bias_act_fwd_.default, (x.clone(), *numbers, channels_last, backend))
        torch.library.opcheck(ops.bias_act_bwd.default, (gy, x, *numbers, from_y, channels_last, backend))


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize(("act", "dim"), [("leaky_relu", 1), ("silu", 1), ("tanh", -1), ("linear", 1)])
def test_fullgraph_compile(backend, act, dim):
    torch.compiler.reset()
    call = lambda x, bias: bias_act(x, bias, dim=dim, act=act, gain=2**0.5, clamp=1.0, backend=backend)
    x, bias = torch.randn(3, 4, 5, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for f in (compiled, call):
        y = f(x, bias)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, bias))))
    torch.testing.assert_close(*results)


def test_overwriting_compiles():
    from ganfast.ops.bias_act import kernels

    def call(x):
        z = x * 2
        return kernels.fwd_(z, None, None, "relu", 0.0, 1.0, None, False, "reference")[0] + z

    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(torch.compile(call, fullgraph=True, backend="aot_eager")(x), 2 * torch.relu(2 * x))
