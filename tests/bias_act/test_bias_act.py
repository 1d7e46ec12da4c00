"""Values and first gradients of every CPU backend against the oracle: layouts, dims, gains, clamps, what is saved, overwriting."""

from dataclasses import dataclass

import pytest
import torch

from ganfast import _backends
from ganfast._activations import ACTIVATIONS
from ganfast.functional import bias_act
from ganfast.ops.bias_act import autograd, kernels, reference
from ganfast.testing import Case, assert_close_to_reference, named, nan_filled

BACKENDS = ["reference", "torch", "cpu"]
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Row(Case):
    shape: tuple[int, ...]
    act: str = "leaky_relu"
    alpha: float | str | None = None  # "learned": a [C] tensor
    gain: float = 1.0
    clamp: float | None = None
    dim: int = 1
    channels_last: bool = False
    bias: bool = True


ROWS = named(
    Row("dcgan d1", (8, 16, 8, 8), alpha=0.2),
    Row("dcgan d1 channels_last", (8, 16, 8, 8), alpha=0.2, channels_last=True),
    Row("stylegan", (2, 33, 16, 16), alpha=0.2, gain=2**0.5, clamp=1.0),
    Row("stylegan channels_last", (2, 33, 16, 16), alpha=0.2, gain=2**0.5, clamp=1.0, channels_last=True),
    Row("stylegan mapping", (9, 64), alpha=0.2, gain=2**0.5),
    Row("many rows", (700, 5), "tanh", gain=0.5),
    Row("hifigan", (2, 7, 301), alpha=0.1),
    Row("short planes, several blocks", (70, 300, 4, 4), "relu"),
    Row("negative slope", (3, 5, 7, 5), alpha=-0.2),
    Row("negative gain", (3, 5, 7, 5), "elu", gain=-1.5, clamp=0.8),
    Row("small gain", (3, 5, 7, 5), "tanh", gain=0.01),
    Row("no gain", (3, 5, 7, 5), "sigmoid", gain=0.0, clamp=1.0),
    Row("linear", (3, 5, 7, 5), "linear"),
    Row("linear gain", (3, 5, 7, 5), "linear", gain=3.0),
    Row("linear clamp", (3, 5, 7, 5), "linear", clamp=0.7, channels_last=True),
    Row("no bias", (3, 5, 7, 5), "relu", gain=2.0, bias=False),
    Row("no bias, gelu", (3, 5, 7, 5), "gelu", clamp=0.7, bias=False),
    Row("nothing", (3, 5, 7, 5), "linear", bias=False),
    Row("selu clamp", (3, 5, 7, 5), "selu", gain=1.2, clamp=1.5),
    Row("softplus", (3, 5, 7, 5), "softplus", 1.5, gain=2.0, clamp=2.5),
    Row("silu clamp", (4, 6, 9, 9), "silu", gain=1.7, clamp=0.6),
    Row("silu clamp channels_last", (4, 6, 9, 9), "silu", gain=1.7, clamp=0.6, channels_last=True),
    Row("prelu", (4, 6, 9, 9), "prelu", "learned", gain=2.0, clamp=0.9),
    Row("prelu short planes", (40, 6, 3, 3), "prelu", "learned"),
    Row("elu learned", (4, 6, 3, 9), "elu", "learned", gain=0.5, channels_last=True),
    Row("softplus learned", (4, 6, 31), "softplus", "learned", clamp=1.1),
    Row("snake", (2, 6, 130), "snake", "learned"),
    Row("snake of a float", (2, 6, 130), "snake", 0.7, gain=2.0),
    Row("voxels", (2, 5, 3, 4, 5), "relu", gain=2.0, clamp=1.0, channels_last=True),
    Row("dim 0", (6, 5, 7), "relu", dim=0),
    Row("dim 0 of a vector", (50,), "tanh", dim=0),
    Row("dim -1", (4, 5, 6, 12), alpha=0.2, gain=2**0.5, clamp=1.0, dim=-1),
    Row("dim -2", (4, 5, 6, 12), "prelu", "learned", dim=-2),
    Row("dim 1 of six", (2, 3, 2, 2, 3, 2), "silu", clamp=0.5),
    Row("one element", (1, 1), "relu"),
)


def _inputs(row: Row, dtype: torch.dtype):
    x = torch.randn(row.shape).to(dtype)
    if row.channels_last:
        x = x.contiguous(memory_format=_FORMATS[x.dim()])
    c, vector = row.shape[row.dim], torch.promote_types(dtype, torch.float32)
    bias = torch.randn(c).to(vector) if row.bias else None
    alpha = torch.rand(c).to(vector) + 0.5 if row.alpha == "learned" else row.alpha
    return x, bias, alpha, torch.randn(row.shape).to(dtype)


def _run(call, x, bias, alpha, gy, cast=None):
    leaves = [v.detach().to(cast or v.dtype).requires_grad_() if isinstance(v, torch.Tensor) else v for v in (x, bias, alpha)]
    y = call(*leaves)
    return [y, *torch.autograd.grad(y, [v for v in leaves if isinstance(v, torch.Tensor)], gy.to(y.dtype))]


def _plain(row: Row):
    """In torch, channels moved to where the formula has them."""

    def call(x, bias, alpha):
        at_1 = x.unsqueeze(0) if x.dim() == 1 else x.movedim(row.dim, 1)
        tensor = alpha if isinstance(alpha, torch.Tensor) else None
        value = (ACTIVATIONS[row.act].default_alpha or 0.0) if alpha is None or tensor is not None else alpha
        y = reference.bias_act(at_1, bias, tensor, row.act, value, row.gain, row.clamp)
        return y.squeeze(0) if x.dim() == 1 else y.movedim(1, row.dim)

    return call


def _fused(row: Row, backend: str):
    options = {"dim": row.dim, "act": row.act, "gain": row.gain, "clamp": row.clamp, "backend": backend}
    return lambda x, bias, alpha: bias_act(x, bias, alpha=alpha, **options)


def _off_the_edge(row: Row, x, bias, alpha, gy):
    """gy is zero where x is within rounding of a kink or of the clamp's bound: the side an element falls on is nobody's error."""
    with torch.no_grad():
        double = lambda v: v.double() if isinstance(v, torch.Tensor) else v
        unclamped = _plain(Row("", row.shape, row.act, row.alpha, row.gain, dim=row.dim))(*map(double, (x, bias, alpha)))
        z = _plain(Row("", row.shape, "linear", dim=row.dim))(double(x), double(bias), None)
    near = 4 * torch.finfo(x.dtype).eps
    edge = z.abs() < near * z.abs().max()
    if row.clamp is not None:
        edge |= (unclamped.abs() - row.clamp).abs() < near * row.clamp
    return gy.masked_fill(edge, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_the_oracle(row, backend, dtype):
    *inputs, gy = _inputs(row, dtype)
    gy = _off_the_edge(row, *inputs, gy)
    with nan_filled():
        got = _run(_fused(row, backend), *inputs, gy)
    plain, exact = _run(_plain(row), *inputs, gy), _run(_plain(row), *inputs, gy, cast=torch.float64)
    names = ["y", "gx", *(["gbias"] if row.bias else []), *(["galpha"] if row.alpha == "learned" else [])]
    if dtype == torch.float64:  # the oracle's budget is plain torch's error against float64, here none
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-10)
    else:
        assert_close_to_reference(*zip(names, got, plain, exact, strict=True))
    if row.channels_last:
        assert got[0].is_contiguous(memory_format=_FORMATS[got[0].dim()])


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_memory(backend):
    """Views, transposes and expansions, along several dims; y is never x's memory."""
    base = torch.randn(4, 6, 10, 10)
    for x in (
        base[:, ::2, 1:-1:2],
        base[:, :1].expand(-1, 3, -1, -1),
        base.transpose(1, 3),
        base.contiguous(memory_format=torch.channels_last),
    ):
        for dim in range(4):
            bias = torch.randn(x.shape[dim])
            want = torch.relu(x + bias.view([-1 if d == dim else 1 for d in range(4)]))
            torch.testing.assert_close(bias_act(x, bias, dim=dim, act="relu", backend=backend), want)
    for act in ("linear", "relu"):
        y = bias_act(base, act=act, backend=backend)
        assert y.data_ptr() != base.data_ptr()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("act", ["linear", "relu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_clamps_own_bound(act, dtype, backend):
    """0.3 is no number of either dtype, and bfloat16 rounds it up; a clamp that rounds down must still be recognised in y."""
    for clamp in (0.3, 0.7):
        x = torch.linspace(-4, 4, 501, dtype=dtype).view(1, 1, -1).requires_grad_()
        y = bias_act(x, act=act, clamp=clamp, gain=2.0, backend=backend)
        (gx,) = torch.autograd.grad(y.sum(), x)
        at_bound = (y.abs() - clamp).abs() < clamp * torch.finfo(dtype).eps
        assert at_bound.any() and (gx[at_bound] == 0).all()
        assert (gx[y.detach().abs() < clamp * 0.98][-3:] != 0).all()


def test_at_exactly_the_bound_gradients_pass_where_x_was_saved():
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    bound = torch.nn.functional.silu(x.detach())[0, 0].item()
    (got,) = torch.autograd.grad(bias_act(x, act="silu", clamp=bound, backend="reference").sum(), x)
    (want,) = torch.autograd.grad(torch.nn.functional.silu(x).clamp(-bound, bound).sum(), x)
    assert torch.equal(got, want) and got[0, 0] != 0 and got[0, 1] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_pass(backend):
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]])
    for clamp in (None, 3.0):
        y = bias_act(x, act="leaky_relu", gain=2.0, clamp=clamp, backend=backend)
        assert y[0, 0].isnan() and y[0, 1].item() == (clamp or float("inf")) and y[0, 2].item() == -(clamp or float("inf"))


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"act": "linear", "gain": 5.0}, "nothing"),
        ({"act": "linear", "clamp": 1.0}, "y"),
        ({"act": "tanh", "gain": 2.0, "clamp": 1.0}, "y"),
        ({"act": "leaky_relu", "alpha": 0.2}, "y"),
        ({"act": "leaky_relu", "alpha": -0.2}, "x"),
        ({"act": "relu", "gain": 0.0}, "x"),
        ({"act": "relu", "gain": -1.0}, "x"),
        ({"act": "relu", "gain": 1e-4}, "x"),
        ({"act": "silu"}, "x"),
        ({"act": "prelu", "alpha": torch.rand(6)}, "x"),
    ],
)
def test_what_is_saved(options, saved):
    x, bias = torch.randn(2, 6, 5, requires_grad=True), torch.randn(6, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = bias_act(x, bias, **options)
    large = [t.data_ptr() for t in kept if t.numel() == x.numel()]
    assert large == {"nothing": [], "y": [y.data_ptr()], "x": [x.data_ptr()]}[saved]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("act", ["linear", "relu", "leaky_relu", "elu", "gelu", "snake"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_overwriting(act, channels_last, backend):
    x, bias = torch.randn(2, 6, 9, 9), torch.randn(6)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for args in ((bias, None, act, 0.7, 2**0.5, 1.0), (None, None, act, 0.7, 1.0, None)):
        want, _ = kernels.fwd(x, *args, channels_last, backend)
        z = x.clone()
        version = z._version
        y, _ = kernels.fwd_(z, *args, channels_last, backend)
        assert y is z and (z._version > version or torch.equal(x, want))
        torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6)
        with torch.inference_mode():
            torch.testing.assert_close(kernels.fwd_(x.clone(), *args, channels_last, backend)[0], want, rtol=1e-6, atol=1e-6)


def test_sums_do_not_depend_on_the_number_of_threads():
    x, gy, bias = torch.randn(16, 24, 40, 40), torch.randn(16, 24, 40, 40), torch.zeros(24, requires_grad=True)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for fmt in (torch.contiguous_format, torch.channels_last):
            y = bias_act(x.contiguous(memory_format=fmt), bias, act="tanh", backend="cpu")
            results.append(torch.autograd.grad(y, bias, gy.contiguous(memory_format=fmt))[0])
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0,)])
def test_empty(shape):
    dim = 1 if len(shape) > 1 else 0
    x, bias = torch.empty(shape, requires_grad=True), torch.ones(shape[dim], requires_grad=True)
    y = bias_act(x, bias, dim=dim, act="silu", clamp=1.0)
    y.sum().backward()
    assert y.shape == shape and x.grad.shape == shape and bias.grad.tolist() == [0] * shape[dim]


def test_a_plan_does_not_confuse_calls():
    """Options that hash alike, and the same x after its layout changed."""
    x = torch.randn(2, 3, 3, 3)
    for fmt in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        assert bias_act(x.contiguous(memory_format=fmt), act="relu").is_contiguous(memory_format=fmt)
    with pytest.raises(TypeError, match="gain is True"):
        bias_act(x, act="relu", gain=True)
    assert torch.equal(bias_act(x, dim=-3), bias_act(x))


def test_the_planted_mistakes_are_caught(monkeypatch):
    """A backward that forgets the gain, or the clamp, or takes y for z, fails the oracle."""
    row = next(row for row in ROWS if row.name == "stylegan")
    right = kernels.bwd
    for wrong in (
        lambda gy, saved, bias, alpha, act, value, gain, clamp, *rest: right(gy, saved, bias, alpha, act, value, 1.0, clamp, *rest),
        lambda gy, saved, bias, alpha, act, value, gain, clamp, *rest: right(gy, saved, bias, alpha, act, value, gain, None, *rest),
        lambda gy, saved, bias, alpha, act, value, gain, clamp, from_y, *rest: right(
            gy, saved, torch.ones(33), alpha, act, value, gain, clamp, False, *rest
        ),
    ):
        monkeypatch.setattr(autograd.kernels, "bwd", wrong)
        with pytest.raises(AssertionError):
            test_against_the_oracle(row, "reference", torch.float32)


def test_sines_are_the_fused_passes_own():
    x = torch.ones(1)
    assert all(kernels.automatic(x, act) == _backends.first_fused(x) for act in ("snake", "snake_beta", "silu"))
