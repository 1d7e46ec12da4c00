"""`bias_act` with a residual: values and gradients against plain torch, what is saved, bad input, tracing."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from ganfast._activations import ACTIVATIONS, act_fwd
from ganfast.functional import bias_act
from ganfast.ops.bias_act import autograd, kernels
from ganfast.testing import Case, assert_close_to_reference, named, nan_filled

BACKENDS = ["reference", "torch", "cpu"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALF = 2**-0.5


@dataclass(frozen=True)
class Row(Case):
    shape: tuple[int, ...] = (3, 5, 7, 6)
    act: str = "leaky_relu"
    alpha: float | str | None = None  # "learned": a [C] tensor
    gain: float = 1.0
    clamp: float | None = None
    first: bool = False
    factor: float = 1.0
    dim: int = 1
    channels_last: bool = False
    other_layout: bool = False  # of the residual
    bias: bool = True

    @property
    def options(self):
        return {"act": self.act, "gain": self.gain, "clamp": self.clamp, "residual_first": self.first, "factor": self.factor}


ROWS = named(
    Row("linear", act="linear"),
    Row("linear, clamp", act="linear", clamp=0.7, factor=HALF),
    Row("relu", act="relu", channels_last=True),
    Row("relu first", act="relu", first=True),
    Row("leaky", alpha=0.2, gain=2**0.5, factor=HALF),
    Row("leaky, clamp", alpha=0.2, gain=2**0.5, clamp=1.0, factor=HALF, channels_last=True),
    Row("leaky first, clamp", alpha=0.2, gain=2**0.5, clamp=1.0, first=True, factor=HALF),
    Row("negative factor", alpha=0.2, factor=-1.5, clamp=0.9),
    Row("negative factor first", alpha=0.2, factor=-1.5, clamp=0.9, first=True),
    Row("no factor", act="tanh", factor=0.0, clamp=0.9),
    Row("negative slope", alpha=-0.2, channels_last=True),
    Row("tanh", act="tanh", other_layout=True),
    Row("tanh first", act="tanh", first=True, factor=HALF, channels_last=True, other_layout=True),
    Row("silu", act="silu", factor=HALF),
    Row("silu first", act="silu", first=True, factor=HALF),
    Row("gelu first, clamp", act="gelu", first=True, clamp=0.7, channels_last=True),
    Row("snake", (2, 6, 40), act="snake", alpha="learned"),
    Row("prelu", act="prelu", alpha="learned", factor=HALF),
    Row("prelu first", act="prelu", alpha="learned", first=True, gain=2.0, clamp=0.9, bias=False),
    Row("short planes", (9, 40, 3, 3), alpha=0.2),
    Row("long runs", (1, 3, 5001), alpha=0.2, clamp=1.0),
    Row("wide rows", (5, 2500), "relu"),
    Row("voxels", (2, 5, 3, 4, 5), act="relu", gain=2.0, clamp=1.0, channels_last=True),
    Row("dim -1", (4, 5, 6, 12), alpha=0.2, clamp=1.0, dim=-1, other_layout=True),
    Row("dim 0", (6, 5, 7), act="silu", first=True, dim=0),
)


def _last(t):
    return t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)


def _inputs(row, dtype):
    torch.manual_seed(0)
    x, residual, gy = (torch.randn(row.shape).to(dtype) for _ in range(3))
    c, vector = row.shape[row.dim], torch.promote_types(dtype, torch.float32)
    found = {"x": _last(x) if row.channels_last else x}
    found["residual"] = _last(residual) if row.channels_last != row.other_layout else residual
    if row.bias:
        found["bias"] = torch.randn(c).to(vector)
    if row.alpha == "learned":
        found["alpha"] = torch.rand(c).to(vector) + 0.5
    return found, gy


def _plain(row, x, residual, bias=None, alpha=None, until="y"):
    """In torch, channels at dim 1, step by step; `until` "z" or "u": before the activation, before the clamp."""
    x, residual = x.movedim(row.dim, 1), residual.movedim(row.dim, 1)
    z = x if bias is None else x + bias.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
    z = z + residual if row.first else z
    number = (row.alpha if isinstance(row.alpha, float) else ACTIVATIONS[row.act].default_alpha) or 0.0
    u = act_fwd(z, row.act, alpha, number) * row.gain
    y = u if row.clamp is None else u.clamp(-row.clamp, row.clamp)
    y = (y if row.first else y + residual) * row.factor
    return {"z": z, "u": u, "y": y}[until].movedim(1, row.dim)


def _fused(row, backend, x, residual, bias=None, alpha=None):
    alpha = row.alpha if alpha is None else alpha
    return bias_act(x, bias, dim=row.dim, alpha=alpha, residual=residual, backend=backend, **row.options)


def _off_the_edge(row, tensors, gy):
    """gy is zero where an element is within rounding of a kink or of the clamp's bound."""
    double = {name: t.double() for name, t in tensors.items()}
    near, z = 8 * torch.finfo(gy.dtype).eps, _plain(row, **double, until="z")
    edge = z.abs() < near * z.abs().max()
    if row.clamp is not None:
        edge |= (_plain(row, **double, until="u").abs() - row.clamp).abs() < near * row.clamp
    return gy.masked_fill(edge, 0)


def _all(call, tensors, gy, cast=None):
    leaves = {name: t.detach().to(cast or t.dtype).requires_grad_() for name, t in tensors.items()}
    y = call(**leaves)
    return [y, *grad(y, list(leaves.values()), gy.to(y.dtype))]


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_the_oracle(row, backend, dtype):
    tensors, gy = _inputs(row, dtype)
    gy = _off_the_edge(row, tensors, gy)
    with nan_filled():
        got = _all(lambda **t: _fused(row, backend, **t), tensors, gy)
    plain = lambda **t: _plain(row, **t)
    names = ["y", *tensors]
    if dtype == torch.float64:
        torch.testing.assert_close(got, _all(plain, tensors, gy), rtol=1e-10, atol=1e-10)
    else:
        exact = _all(plain, tensors, gy, torch.float64)
        assert_close_to_reference(*zip(names, got, _all(plain, tensors, gy), exact, strict=True))
    assert got[0].is_contiguous() if not row.channels_last else _last(got[0]).stride() == got[0].stride()
    with torch.no_grad():
        # Where no sign is asked for, gain and residual may be one fused multiply-add.
        torch.testing.assert_close(_fused(row, backend, **tensors), got[0], rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_half_types_are_rounded_once(first, dtype, backend):
    x, residual = (torch.randn(2, 3, 40).to(dtype) for _ in range(2))
    row = Row("", (2, 3, 40), "leaky_relu", 0.2, first=first, factor=HALF, bias=False)
    want = _plain(row, x.float(), residual.float()).to(dtype)
    assert torch.equal(_fused(row, backend, x, residual), want)


SMALL = [row for row in ROWS if row.name not in ("short planes", "long runs", "wide rows", "voxels")]


@pytest.mark.pairs
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", SMALL, ids=str)
def test_gradcheck_and_gradgradcheck(row, backend):
    shape = tuple(min(size, 3) for size in row.shape)
    row = Row(**{**vars(row), "shape": shape})
    tensors, _ = _inputs(row, torch.float64)
    leaves = tuple(t.requires_grad_() for t in tensors.values())
    call = lambda *values: _fused(row, backend, **dict(zip(tensors, values)))
    assert gradcheck(call, leaves, fast_mode=True) and gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("act", ["linear", "relu", "silu"])
def test_x_added_to_itself(act, first):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    call = lambda x: bias_act(x, act=act, residual=x, residual_first=first)
    row = Row("", (2, 3, 4), act, first=first)
    torch.testing.assert_close(call(x), _plain(row, x, x))
    assert gradcheck(call, x) and gradgradcheck(call, x)


def test_equal_gradients_do_not_become_one_tensor():
    """linear: x and the residual receive gy itself, as from torch's add."""
    gy = torch.ones(2, 3, 4)
    x, residual = (torch.zeros(2, 3, 4, requires_grad=True) for _ in range(2))
    for _ in range(2):
        bias_act(x, residual=residual).backward(gy)
    assert all((t.grad == 2).all() for t in (x, residual)) and (gy == 1).all()
    assert len({t.data_ptr() for t in (x.grad, residual.grad, gy)}) == 3
    received = []
    y = bias_act(x, act="relu", residual=residual)
    y.grad_fn.register_hook(lambda inputs, outputs: received.append(gy.data_ptr() in [t.data_ptr() for t in inputs if t is not None]))
    y.backward(gy)
    assert received == [True], "a pass for a residual's gradient that is gy"


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("learns", ["x", "bias", "residual", "x residual"])
@pytest.mark.parametrize("act", ["linear", "relu", "silu"])
def test_only_what_is_wanted(monkeypatch, act, learns, first):
    leaves = {"x": torch.randn(4, 3, 5), "bias": torch.randn(3), "residual": torch.randn(4, 3, 5)}
    for name in leaves:
        leaves[name].requires_grad_(name in learns)
    passes, right = [], kernels.bwd
    monkeypatch.setattr(autograd.kernels, "bwd", lambda *args: passes.append(1) or right(*args))
    y = bias_act(**leaves, act=act, residual_first=first)
    if learns == "residual" and not first:
        assert not any(t is not None for t in y.grad_fn.saved_tensors)
    y.sum().backward()
    assert [t.grad is not None for t in leaves.values()] == [name in learns for name in leaves]
    assert len(passes) == (act != "linear" and (first or learns != "residual"))


def test_a_gradient_that_nobody_asked_for_costs_no_pass(monkeypatch):
    x, residual = (torch.randn(2, 3, 4, requires_grad=True) * 1 for _ in range(2))
    monkeypatch.setattr(autograd.kernels, "bwd", None)
    (got,) = grad(bias_act(x, act="relu", residual=residual, factor=0.5).sum(), residual)
    assert (got == 0.5).all()


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"act": "linear", "factor": HALF}, {}),
        ({"act": "relu"}, {torch.bool: 1}),
        ({"act": "leaky_relu", "alpha": 0.2, "clamp": 1.0}, {torch.uint8: 1}),
        ({"act": "leaky_relu", "alpha": 0.2, "factor": -1.0}, {torch.float32: 1}),
        ({"act": "tanh"}, {torch.float32: 1}),
        ({"act": "relu", "residual_first": True, "factor": HALF}, {torch.float32: 1}),
        ({"act": "relu", "residual_first": True, "open_output": True}, {torch.bool: 1}),
        ({"act": "silu", "residual_first": True}, {torch.float32: 2}),
    ],
)
def test_what_is_saved(options, saved):
    x, bias, residual = torch.randn(2, 6, 5, requires_grad=True), torch.randn(6, requires_grad=True), torch.randn(2, 6, 5)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.dtype, []).append(t) or t, lambda t: t):
        bias_act(x, bias, residual=residual, **options)
    assert {dtype: sum(t.numel() == x.numel() for t in ts) for dtype, ts in kept.items() if ts[0].numel() > 6 or len(ts) > 2} == saved


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("act", ["relu", "leaky_relu"])
def test_a_penalty_hands_zeros_where_torchs_does(act, first):
    """To everything before the activation; past a residual that comes after it only from other activations' sums."""
    x, before, beside = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(3))
    bias = torch.randn(3, requires_grad=True)
    torchs = lambda z: F.relu(z) if act == "relu" else F.leaky_relu(z, 0.01)

    def eager(x, residual):
        z = x + bias[:, None]
        return torchs(z + residual) if first else torchs(z) + residual

    fused = lambda x, residual: bias_act(x, bias, act=act, residual=residual, residual_first=first)
    for top in (lambda y: y, lambda y: bias_act(y, act="relu"), torch.relu):
        found = []
        for layer in (eager, fused):
            y = top(layer(x * before, x.detach() * beside))
            (gx,) = grad(y.sum(), x, create_graph=True)
            found.append([g is not None for g in grad(gx.square().sum(), (before, beside, bias), allow_unused=True)])
        assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_empty(shape):
    x, residual = (torch.empty(shape, requires_grad=True) for _ in range(2))
    y = bias_act(x, act="silu", residual=residual)
    y.sum().backward()
    assert y.shape == x.grad.shape == residual.grad.shape == shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_pass(backend):
    """A residual that is not finite does not reach the activation where it is added after it, and relu's zero stays one."""
    bad = torch.tensor([[float("nan"), float("inf"), -float("inf")]])
    for act in ("relu", "tanh"):
        for x, residual in ((torch.zeros(1, 3), bad), (bad, torch.zeros(1, 3))):
            x, residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
            for row in (Row("", (1, 3), act, bias=False), Row("", (1, 3), act, bias=False, first=True)):
                got, want = _fused(row, backend, x, residual), _plain(row, x, residual)
                torch.testing.assert_close(got, want, equal_nan=True)
                gy = torch.full_like(got, float("inf"))
                for a, b in zip(*(grad(y, (x, residual), gy) for y in (got, want))):
                    torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend):
    x, residual, bias = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.rand(4)
    for first, signs, clamp in ((False, True, 1.0), (True, False, None), (False, True, None)):
        args = (bias, None, "relu", 0.0, 1.0, clamp, False, backend, residual, first, 0.5, signs)
        torch.library.opcheck(torch.ops.ganfast.bias_act_fwd.default, (x, *args))
        torch.library.opcheck(torch.ops.ganfast.bias_act_fwd_.default, (x.clone(), *args))
    found = torch.randint(0, 2, x.shape, dtype=torch.uint8)
    args = (None, None, "relu", 0.0, 1.0, 1.0, True, False, backend)
    torch.library.opcheck(torch.ops.ganfast.bias_act_bwd.default, (x, found, *args))


@pytest.mark.parametrize(("act", "first", "dim"), [("leaky_relu", False, 1), ("silu", True, 1), ("tanh", False, -1), ("relu", True, 1)])
def test_fullgraph_compile(act, first, dim):
    torch.compiler.reset()
    call = lambda x, bias, r: bias_act(x, bias, dim=dim, act=act, clamp=1.0, residual=r, residual_first=first, factor=HALF)
    leaves = [torch.randn(s, requires_grad=True) for s in ((3, 4, 5, 4), (4,), (3, 4, 5, 4))]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*([y, *grad(y.square().sum(), leaves)] for y in (compiled(*leaves), call(*leaves))))
