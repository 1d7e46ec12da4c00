"""filtered_act against both published forms in torch's own convolutions, every dtype, to second order."""

import functools

import pytest
import torch

import ganfast.functional as GF
from ganfast.functional import filtered_act
from ganfast.ops.filtered_act.maps import packed, unpacked
from tests.filtered_act.common import CASES, EDGES, by_definition, case, edge_case, parameters

BACKENDS = ["reference", "torch", "cpu"]
# what is between: activation, options
BETWEEN = {
    "lrelu": ("leaky_relu", {"gain": 2**0.5}),
    "lrelu clamped": ("leaky_relu", {"gain": 1.4, "clamp": 0.7}),
    "relu": ("relu", {}),
    "linear clamped": ("linear", {"clamp": 0.8}),
    "prelu": ("prelu", {"flip": True}),
    "snake clamped": ("snake", {"clamp": 0.9}),
    "snake_beta": ("snake_beta", {}),
    "softplus": ("softplus", {"gain": -0.5}),
}
# Of the largest. `torch` rounds after each of its kernels, and a rounded sign is another slope: of 16 bits its vectors'
# gradients say nothing.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def gradients(call, x, bias, options, act, more, dtype):
    """y and the gradients of x, bias and the activation's vectors, computed in `dtype` from numbers that x's dtype has."""
    kind = x.dtype
    leaf = lambda t: t.detach().to(kind).to(dtype).clone().requires_grad_()
    learned = {k: leaf(v) if isinstance(v, torch.Tensor) else v for k, v in parameters(act, x.shape[1]).items()}
    x, bias = leaf(x), leaf(bias)
    y = call(x, bias, act=act, **options, **learned, **more)
    gy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(kind).to(dtype)
    tensors = [x, bias, *(v for v in learned.values() if isinstance(v, torch.Tensor))]
    return [y, *torch.autograd.grad(y, tensors, gy)]


def compare(backend, x, bias, options, act, more):
    got = gradients(functools.partial(filtered_act, backend=backend), x, bias, options, act, more, x.dtype)
    want = gradients(by_definition, x, bias, options, act, more, torch.float64)
    rounds = backend == "torch" and x.itemsize == 2
    for name, g, w in zip(("y", "gx", "gbias", "galpha", "gbeta")[: 2 if rounds else 5], got, want):
        assert g.shape == w.shape
        scale = w.abs().max().item() + 1e-3
        allowed = TOLERANCE[x.dtype] * (5 if rounds else 1)
        torch.testing.assert_close(g.double() / scale, w / scale, rtol=0, atol=allowed, msg=lambda m, n=name: f"{n}: {m}")
    return got


@pytest.mark.pairs
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_by_definition(backend, name, between):
    compare(backend, *case(name, torch.float64 if backend != "cpu" else torch.float32), *BETWEEN[between])


@pytest.mark.pairs
@pytest.mark.parametrize("between", ["lrelu clamped", "prelu", "snake_beta", "softplus"])
@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_that_go_on(backend, name, between):
    compare(backend, *edge_case(name, torch.float64 if backend != "cpu" else torch.float32), *BETWEEN[between])


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["stylegan3", "radial", "line rests", "bigvgan"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes(backend, name, dtype):
    made = case(name, dtype) if name in CASES else edge_case(name, dtype)
    for act, more in (BETWEEN["lrelu"], BETWEEN["snake_beta"]):
        results = compare(backend, *made, act, more)
        assert [t.dtype for t in results[:2]] == [dtype, dtype]


@pytest.mark.parametrize("act", ["leaky_relu", "snake_beta"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_last_in_and_out(backend, act):
    x, bias, options = case("stylegan3", channels=5)
    last = x.contiguous(memory_format=torch.channels_last)
    got = gradients(functools.partial(filtered_act, backend=backend), last, bias, options, act, {}, torch.float32)
    want = gradients(functools.partial(filtered_act, backend=backend), x, bias, options, act, {}, torch.float32)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in got[:2])


@pytest.mark.pairs
@pytest.mark.parametrize("name", ["stylegan3 up 4", "full", "line rests", "bigvgan", "down 3"])
@pytest.mark.parametrize("act", ["leaky_relu", "softplus", "snake_beta"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_second_order(backend, name, act):
    """Of a penalty on the gradient, as R1 and path lengths take it, by every input."""
    x, bias, options = (case if name in CASES else edge_case)(name, torch.float64, channels=2, batch=1)
    results = []
    for call in (functools.partial(filtered_act, backend=backend), by_definition):
        learned = {k: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in parameters(act, 2).items()}
        leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
        y = call(*leaves, act=act, clamp=1.1, **options, **learned)
        weights = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
        (gx,) = torch.autograd.grad(y, leaves[0], weights, create_graph=True)
        tensors = [*leaves, weights, *(v for v in learned.values() if isinstance(v, torch.Tensor))]
        results.append(torch.autograd.grad((gx.square() + gx).sum() + y.square().sum(), tensors))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_it_is_its_three_parts():
    x, bias, options = case("stylegan3")
    up, down, pad, uf, df = (options[k] for k in ("up", "down", "padding", "up_filter", "down_filter"))
    u = GF.upfirdn(x + bias.view(1, -1, 1, 1), uf, up=up, padding=pad, gain=up * up)
    want = GF.upfirdn(GF.bias_act(u, act="leaky_relu", alpha=0.2, gain=1.4, clamp=0.9), df, down=down)
    torch.testing.assert_close(filtered_act(x, bias, alpha=0.2, gain=1.4, clamp=0.9, **options), want)
    x, _, options = edge_case("bigvgan")
    inner = slice(12, -12)  # where no edge reaches
    u = GF.bias_act(GF.upsample(x, options["up_filter"]), act="snake", alpha=0.7)
    want = GF.downsample(u, options["down_filter"])
    torch.testing.assert_close(filtered_act(x, act="snake", alpha=0.7, **options)[..., inner], want[..., inner])


def test_without_filters_it_is_bias_act():
    x, bias = torch.randn(2, 3, 5, 6), torch.randn(3)
    torch.testing.assert_close(filtered_act(x, bias, act="silu", gain=0.7), GF.bias_act(x, bias, act="silu", gain=0.7))


def kept_bytes(call, x):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        call(x)
    large = [t for t in kept if t.numel() > 100]
    return sum(t.numel() * t.element_size() for t in large)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_kept(backend):
    """The smaller one of x and of two bits a value of the upsampled x; at most 1.25 of a float32 x, not the upsampled tensor."""
    taps = torch.ones(12) / 12
    plane, line = torch.randn(1, 4, 64, 64, requires_grad=True), torch.randn(1, 4, 4096, requires_grad=True)
    common = {"up_filter": taps, "down_filter": taps, "down": 2, "backend": backend}
    lrelu = lambda x, up: filtered_act(x, up=up, padding=[11, 10] * (x.dim() - 2), act="leaky_relu", alpha=0.2, **common)
    snake = lambda x: filtered_act(x, up=2, padding_mode="replicate", act="snake", alpha=torch.ones(4), **common)
    full = plane.numel() * 4
    assert kept_bytes(lambda x: lrelu(x, 2), plane) < 0.32 * full  # a byte a value, and borders
    assert kept_bytes(lambda x: lrelu(x, 4), plane) == full
    assert kept_bytes(lambda x: lrelu(x.bfloat16(), 2), plane) < 0.32 * full
    assert kept_bytes(lambda x: lrelu(x.bfloat16(), 4), plane) == full / 2
    assert kept_bytes(snake, line) == line.numel() * 4


def test_two_bits_a_value():
    codes = torch.randint(0, 4, (2, 3, 13), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert packed(codes).shape == (2, 3, 4) and torch.equal(unpacked(packed(codes), 13), codes)
    x, _, options = case("stylegan3")
    args = (options["up_filter"], options["down_filter"], [2, 2], [2, 2], [9, 9], [8, 8], False, False, None, None)
    signs = [torch.ops.ganfast.filtered_act_fwd(x, *args, "leaky_relu", 0.2, 1.4, 0.5, True, False, b)[1] for b in ("reference", "cpu")]
    assert torch.equal(*signs)


def test_threads_do_not_show():
    before, found = torch.get_num_threads(), []
    taps = torch.rand(12)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for size in ((1, 2, 200, 20), (2, 3, 3000)):
                torch.manual_seed(0)
                x, alpha = torch.randn(size, requires_grad=True), torch.rand(size[1], requires_grad=True)
                y = filtered_act(x, up_filter=taps, down_filter=taps, up=2, down=2, padding=11, act="snake", alpha=alpha, backend="cpu")
                found.append([y, *torch.autograd.grad(y.square().sum(), (x, alpha))])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found[:2], found[2:]):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_sums_over_many_pixels_keep_their_digits():
    x = (torch.rand(1, 16, 160, 160) + 1).requires_grad_()
    bias, alpha = torch.zeros(16, requires_grad=True), torch.full((16,), 0.3, requires_grad=True)
    y = filtered_act(x, bias, act="prelu", alpha=alpha, up=2, padding=[1, 0, 1, 0], up_filter=torch.ones(2), backend="cpu")
    got = torch.autograd.grad(y.sum(), (bias, alpha))
    (want,) = torch.autograd.grad(filtered_act(x.double(), bias.double(), act="prelu", alpha=0.3, up=2, padding=[1, 0, 1, 0],
                                               up_filter=torch.ones(2), backend="reference").sum(), bias)  # fmt: skip
    torch.testing.assert_close(got[0], want, rtol=2e-6, atol=0)


def test_an_empty_batch():
    x, alpha = torch.randn(0, 3, 16, requires_grad=True), torch.ones(3, requires_grad=True)
    y = filtered_act(
        x, act="snake", alpha=alpha, up_filter=torch.ones(4), down_filter=torch.ones(4), up=2, down=2, padding_mode="replicate"
    )
    assert y.shape == (0, 3, 16)
    y.sum().backward()
    assert x.grad.shape == x.shape and not alpha.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_one_graph(backend):
    for name, act in (("stylegan3", "leaky_relu"), ("bigvgan", "snake_beta")):
        x, bias, options = (case if name in CASES else edge_case)(name)
        x.requires_grad_()
        given = options | parameters(act)
        call = lambda t, b=bias, a=act, o=given: filtered_act(t, b, act=a, **o, backend=backend)
        want = call(x)
        gradient = torch.autograd.grad(want.square().sum(), x)
        torch._dynamo.reset()
        got = torch.compile(call, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got.square().sum(), x), gradient)
    x = torch.randn(1, 2, 7, 6)
    maps = (torch.rand(4), torch.rand(3, 2), [2, 1], [1, 2], [3, 1], [2, 2], False, False)
    ops = torch.ops.ganfast
    y, signs = ops.filtered_act_fwd(x, *maps, torch.rand(2), None, "leaky_relu", 0.2, 1.4, 0.5, True, True, backend)
    torch.library.opcheck(ops.filtered_act_fwd.default, (x, *maps, torch.rand(2), None, "leaky_relu", 0.2, 1.4, 0.5, True, True, backend))
    torch.library.opcheck(ops.filtered_act_bwd.default, (y, x, *maps, None, torch.rand(2, 2), "snake_beta", 0.0, 1.4, None, True, backend))
    for transposed in (False, True):
        v = y if transposed else x
        torch.library.opcheck(
            ops.filtered_act_linear.default, (v, signs, *maps, "leaky_relu", 0.2, 1.4, transposed, [7, 6], False, backend)
        )


def test_autocast_and_inference_tensors():
    x, bias, options = case("stylegan3")
    want = filtered_act(x, bias, **options)
    with torch.autocast("cpu", torch.bfloat16):  # casts nothing
        for backend in BACKENDS:
            torch.testing.assert_close(filtered_act(x, bias, **options, backend=backend), want)
            assert GF.upfirdn(x, options["up_filter"], padding=6, backend=backend).dtype == torch.float32
    with torch.inference_mode():
        frozen = x.clone()
    learned = bias.clone().requires_grad_()
    for act in ("leaky_relu", "silu"):
        filtered_act(frozen, learned, act=act, **options).sum().backward()
    torch.testing.assert_close(filtered_act(frozen, bias, **options), want)
