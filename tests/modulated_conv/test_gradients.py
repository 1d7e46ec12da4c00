"""Gradients of two orders in float64, what is left out, and one graph for torch.compile."""

import functools

import pytest
import torch

from ganfast._autograd import no_weight_gradients
from ganfast.functional import modulated_conv
from tests.modulated_conv.common import FULL, case, grouped, with_epilogue
from tests.modulated_conv.test_modulated_conv import BACKENDS, close, learning

SECOND = {
    "plain": {"act": "silu", "gain": 1.3},
    "up": {"act": "tanh", "flip": False},
    "1x1 up": {"demodulate": False, "act": "prelu"},
    "full down": {"act": "leaky_relu", "alpha": 0.2, "clamp": 0.8},
}


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_orders(backend, name):
    """Through a random direction: gradcheck's fast mode."""
    x, weight, style, options = case(name, torch.float64, channels=(3, 2), batch=2)
    options |= SECOND[name]
    named = [options.pop("noise"), options.pop("bias")]
    if options["act"] == "prelu":
        named.append(torch.rand(2, dtype=torch.float64) + 0.1)

    def call(x, weight, style, noise, bias, *alpha):
        learns = {"alpha": alpha[0]} if alpha else {}
        return modulated_conv(x, weight, style, noise=noise, bias=bias, backend=backend, **options, **learns)

    inputs = learning((x, weight, style, *named))
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_penalty_on_the_styles_gradient(backend, dtype):
    """Path lengths, as StyleGAN2 regularises them: every parameter learns, those that a double backward does not reach get zeros."""
    x, weight, style, options = case("up", dtype, channels=(16, 8))
    options |= FULL
    direction = torch.randn(grouped(x, weight, style, **with_epilogue(options, dtype)).shape)
    found = []
    for call, kind in ((grouped, torch.float64), (functools.partial(modulated_conv, backend=backend), dtype)):
        x_, w_, s_, noise, bias = learning((x, weight, style, options["noise"], options["bias"]), kind)
        y = call(x_, w_, s_, **options | {"noise": noise, "bias": bias})
        (gs,) = torch.autograd.grad((y * direction.to(kind)).sum(), s_, create_graph=True)
        found.append(torch.autograd.grad(gs.square().sum(), (x_, w_, s_, noise, bias)))
    for what, got, want in zip(("x", "weight", "style", "noise", "bias"), found[1], found[0], strict=True):
        if dtype == torch.float32:
            close(got, want, 1e-4, what)
        elif want.abs().max() > 0:
            assert torch.nn.functional.cosine_similarity(got.double().flatten(), want.flatten(), 0) > 0.98, what


@pytest.mark.parametrize("learns", ["x", "x noise", "x bias", "x weight", "x style", "noise bias"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "raw"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_has_a_graph_where_torchs_has_one(backend, demodulate, power, learns):
    """Nothing bends: what a gradient depends on is y's gradient, which depends on y, or a learning factor."""
    names = ("x", "weight", "style", "noise", "bias")
    x, weight, style, options = case("plain", torch.float64)
    given = dict(zip(names, (x, weight, style, options.pop("noise"), options.pop("bias"))))
    found = []
    for call in (grouped, functools.partial(modulated_conv, backend=backend)):
        tensors = {name: t.clone().requires_grad_(name in learns.split()) for name, t in given.items()}
        inputs = [t for t in tensors.values() if t.requires_grad]
        y = call(**tensors, demodulate=demodulate, **options)
        gradients = torch.autograd.grad(y.pow(power).sum(), inputs, create_graph=True)
        penalty = sum(g.square().sum() for g in gradients)
        second = torch.autograd.grad(penalty, inputs, allow_unused=True) if penalty.requires_grad else [None] * len(inputs)
        found.append((gradients, second))
    for got, want, got2, want2 in zip(found[1][0], found[0][0], found[1][1], found[0][1], strict=True):
        assert got.requires_grad or not want.requires_grad
        close(got.detach(), want.detach(), 1e-10)
        if want2 is not None:
            close(got2, want2, 1e-10)
        assert want2 is not None or got2 is None or (got2 == 0).all()


@pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "raw"])
@pytest.mark.parametrize("name", ["plain", "rgb"])
def test_what_nobody_asks_for_is_not_computed(name, demodulate):
    x, weight, style, options = case(name)
    options["demodulate"] = demodulate
    x, weight, style = learning((x, weight, style))
    options["bias"] = options["bias"].requires_grad_()
    with no_weight_gradients():
        modulated_conv(x, weight, style, **options | FULL).sum().backward()
    assert weight.grad is None and options["bias"].grad is None and x.grad is not None and style.grad is not None
    (gs,) = torch.autograd.grad(modulated_conv(x, weight.detach(), style, **options).sum(), style)
    torch.testing.assert_close(gs, torch.autograd.grad(modulated_conv(x, weight, style, **options).sum(), style)[0])


def test_an_optimizer_may_change_the_bias_before_the_backward():
    x, weight, style, options = case("plain")
    x.requires_grad_()
    bias = options["bias"].requires_grad_()
    want = torch.autograd.grad(modulated_conv(x, weight, style, **options | {"act": "silu"}).sum(), x)
    y = modulated_conv(x, weight, style, **options | {"act": "silu"})
    with torch.no_grad():
        bias.add_(1)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), want)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", ["up", "full down"])
@pytest.mark.parametrize("backend", ["cpu", "reference", "torch"])
def test_one_graph(backend, name):
    x, weight, style, options = case(name)
    inputs = learning((x, weight, style))
    call = functools.partial(modulated_conv, backend=backend, **options, **FULL)
    want = call(*inputs)
    gradients = torch.autograd.grad(want.square().sum(), inputs)
    torch._dynamo.reset()
    got = torch.compile(call, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), inputs), gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend", ["cpu", "reference", "torch"])
def test_opcheck(backend, channels_last):
    ops = torch.ops.ganfast
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    x, weight = torch.randn(2, 5, 3, 4).contiguous(memory_format=fmt), torch.randn(4, 5, 3, 3).contiguous(memory_format=fmt)
    style, noise, vector = torch.randn(2, 5), torch.randn(2, 1, 3, 4), torch.rand(5)
    torch.library.opcheck(ops.modulated_conv_scale_fwd.default, (x, style, channels_last, backend))
    torch.library.opcheck(ops.modulated_conv_scale_bwd.default, (x, x, style, channels_last, backend))
    numbers = ("prelu", 0.0, 2.0, 1.5, channels_last, backend)
    for given in ((style, noise, vector, vector), (None, None, None, vector)):
        torch.library.opcheck(ops.modulated_conv_finish_fwd.default, (x, *given, *numbers))
        torch.library.opcheck(ops.modulated_conv_finish_bwd.default, (x, x, *given, *numbers))
    for scale, transposed, turn, dtype in ((None, False, False, torch.float32), (torch.rand(4), True, True, torch.bfloat16)):
        torch.library.opcheck(ops.modulated_conv_prepare_fwd.default, (weight, scale, transposed, turn, dtype, backend))
        gw = weight if dtype == torch.float32 else weight.transpose(0, 1).contiguous().to(dtype)
        torch.library.opcheck(ops.modulated_conv_prepare_bwd.default, (weight, gw, torch.rand(4, 5), scale, transposed, turn, backend))
        torch.library.opcheck(ops.modulated_conv_prepare_bwd.default, (weight, None, torch.rand(4, 5), scale, transposed, turn, backend))
