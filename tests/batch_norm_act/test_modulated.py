"""batch_norm_act and instance_norm_act with an affine from outside and a residual: values, gradients of two orders, what is refused."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from ganfast.functional import batch_norm_act, group_norm_act, instance_norm_act
from ganfast.ops.batch_norm_act import modulated, modulated_autograd
from ganfast.testing import Case, assert_close_to_reference, named, nan_filled
from tests.affine_from_outside import Outside, formula, laid_out

BACKENDS = ["reference", "torch", "cpu"]


@dataclass(frozen=True)
class Row(Case):
    norm: str  # "batch", "eval" or "instance"
    outside: Outside
    shape: tuple[int, ...] = (3, 6, 5, 4)
    act: str = "relu"
    alpha: str | None = None  # "learned": a [C] tensor
    channels_last: bool = False
    affine: bool = False


ROWS = named(
    Row("conditional batch norm (BigGAN)", "batch", Outside("vectors")),
    Row("conditional batch norm channels_last", "batch", Outside("vectors"), channels_last=True, affine=True),
    Row("conditional batch norm in eval mode", "eval", Outside("vectors"), affine=True),
    Row("AdaIN", "instance", Outside("vectors"), act="leaky_relu"),
    Row("AdaIN channels_last", "instance", Outside("vectors"), act="silu", channels_last=True),
    Row("AdaIN of one image", "instance", Outside("vectors"), (1, 6, 5, 4), act="silu"),
    Row("SPADE", "batch", Outside("maps"), act="leaky_relu"),
    Row("SPADE channels_last", "batch", Outside("maps"), act="leaky_relu", channels_last=True),
    Row("SPADE on instance norm", "instance", Outside("maps"), affine=True),
    Row("SPADE in eval mode", "eval", Outside("maps")),
    Row("ResNet's last norm", "batch", Outside("", "first"), affine=True),
    Row("ResNet's last norm, eval, channels_last", "eval", Outside("", "first"), affine=True, channels_last=True),
    Row("a residual after the activation", "instance", Outside("", "last", 2**-0.5), affine=True),
    Row("everything", "batch", Outside("maps", "first", 0.7), act="tanh", affine=True),
    Row("vectors and a residual, learned", "instance", Outside("vectors", "last", 0.7), act="snake", alpha="learned", affine=True),
    Row("vectors and a residual first, learned", "batch", Outside("vectors", "first"), act="prelu", alpha="learned", affine=True),
    Row("rows", "batch", Outside("vectors", "last"), (7, 6), act="silu", affine=True),
    Row("sequences", "instance", Outside("vectors"), (3, 6, 35), act="gelu"),
    Row("voxels channels_last", "instance", Outside("maps"), (2, 6, 3, 2, 4), act="relu", channels_last=True),
)  # fmt: skip


def inputs(row: Row, dtype: torch.dtype) -> tuple[list, torch.Tensor]:
    c, vector = row.shape[1], torch.promote_types(dtype, torch.float32)
    x = laid_out((torch.randn(row.shape) * 2 + torch.arange(c).view(-1, *[1] * (len(row.shape) - 2))).to(dtype), row.channels_last)
    weight, bias = (torch.rand(c).to(vector) + 0.5, torch.randn(c).to(vector)) if row.affine else (None, None)
    alpha = torch.rand(c).to(vector) + 0.5 if row.alpha else 0.2 if row.act == "leaky_relu" else None
    return [x, weight, bias, alpha, *row.outside.tensors(x, vector)], torch.randn(row.shape).to(dtype)


def running(row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    c = row.shape[1]
    return torch.arange(c) + 0.5, torch.arange(c) / c + 0.5


def fused(row: Row, backend: str):
    def call(x, weight, bias, alpha, scale, shift, residual):
        options = {"act": row.act, "alpha": alpha, "scale": scale, "shift": shift, "residual": residual, "backend": backend}
        if row.norm == "instance":
            return instance_norm_act(x, weight, bias, **options, **row.outside.options())
        return batch_norm_act(x, *running(row), weight, bias, training=row.norm == "batch", **options, **row.outside.options())

    return call


def plain(row: Row):
    def call(x, weight, bias, alpha, scale, shift, residual):
        cast = [None if v is None else v.to(x.dtype) for v in (weight, bias)]
        if row.norm == "instance":
            z = F.instance_norm(x, None, None, *cast)
        else:
            z = F.batch_norm(x, *(v.to(x.dtype) for v in running(row)), *cast, training=row.norm == "batch")
        return formula(z, row.act, alpha, scale, shift, residual, row.outside)

    return call


def run(call, tensors, gy, cast=None):
    """(y, gradients) with leaves cast to `cast`."""
    leaves = [v.detach().to(cast or v.dtype).requires_grad_() if isinstance(v, torch.Tensor) else v for v in tensors]
    y = call(*leaves)
    return [y, *torch.autograd.grad(y, [v for v in leaves if isinstance(v, torch.Tensor)], gy.to(y.dtype))]


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_the_oracle(row, backend, dtype):
    tensors, gy = inputs(row, dtype)
    with nan_filled():
        got = run(fused(row, backend), tensors, gy)
    like, exact = run(plain(row), tensors, gy), run(plain(row), tensors, gy, cast=torch.float64)
    assert_close_to_reference(*zip([f"result {i}" for i in range(len(got))], got, like, exact, strict=True))
    assert got[0].stride() == got[1].stride() == tensors[0].stride()


def doubles(row: Row) -> tuple[list, list]:
    """(the tensors of a small call, those of them that are leaves)"""
    shape = tuple(min(s, 3) if i else 2 for i, s in enumerate(row.shape))
    tensors = inputs(Row(row.name, row.norm, row.outside, shape, row.act, row.alpha, row.channels_last, row.affine), torch.float64)[0]
    tensors = [t.detach().requires_grad_() if isinstance(t, torch.Tensor) else t for t in tensors]
    return tensors, [t for t in tensors if isinstance(t, torch.Tensor)]


def check_second_order(row: Row, backend: str) -> bool:
    tensors, leaves = doubles(row)
    row = Row(row.name, row.norm, row.outside, tuple(tensors[0].shape), row.act, row.alpha, row.channels_last, row.affine)

    def call(*given):
        given = iter(given)
        return fused(row, backend)(*(next(given) if isinstance(t, torch.Tensor) else t for t in tensors))

    checks = (torch.autograd.gradcheck, torch.autograd.gradgradcheck)
    return all(check(call, leaves, fast_mode=True, raise_exception=False) for check in checks)


@pytest.mark.pairs
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_two_orders(row, backend):
    torch.manual_seed(1)
    assert check_second_order(row, backend)


def test_planted_errors_would_be_caught(monkeypatch):
    """Statistics taken as constants in the second order; a factor forgotten in the first."""
    row, right = next(r for r in ROWS if r.name == "everything"), modulated_autograd.gradients
    monkeypatch.setattr(modulated_autograd, "gradients", lambda *args: right(*args[:-1], None))
    assert not check_second_order(row, "reference")
    monkeypatch.undo()
    assert check_second_order(row, "cpu")
    passes = modulated.bwd
    monkeypatch.setattr(modulated, "bwd", lambda *args: passes(*args[:12], 1.0, *args[13:]))
    assert not check_second_order(row, "cpu")


def test_running_statistics_move():
    x, outside = torch.randn(4, 3, 5, 5) * 3 + 2, Outside("vectors")
    moved, like = [[torch.zeros(3), torch.ones(3)] for _ in range(2)]
    scale, shift, _ = outside.tensors(x, torch.float32)
    batch_norm_act(x, *moved, training=True, momentum=0.3, scale=scale, shift=shift)
    F.batch_norm(x, *like, training=True, momentum=0.3)
    torch.testing.assert_close(moved, like)


@pytest.mark.parametrize("call", [batch_norm_act, instance_norm_act, group_norm_act], ids=lambda f: f.__name__)
@pytest.mark.parametrize("affine", ["vectors", "maps"])
def test_another_layout_is_right(call, affine):
    x = laid_out(torch.randn(3, 8, 5, 5), True)
    norm = {batch_norm_act: lambda **o: call(x, None, None, training=True, **o), instance_norm_act: lambda **o: call(x, **o)}
    norm = norm.get(call, lambda **o: call(x, 4, **o))
    scale, shift, residual = Outside(affine, "last").tensors(x.contiguous(), torch.float32)
    got = norm(scale=scale, shift=shift, residual=residual)
    by, more = (t.view(3, 8, *(t.shape[2:] or (1, 1))) for t in (scale, shift))
    torch.testing.assert_close(got, norm() * by + more + residual)
    assert got.stride() == x.stride()


def test_only_what_is_wanted():
    x = torch.randn(3, 4, 5, 5)
    for wanted in range(4):
        tensors = [t.clone().requires_grad_(i == wanted) for i, t in enumerate((x, torch.rand(3, 4), torch.rand(3, 4), x))]
        instance_norm_act(tensors[0], scale=tensors[1], shift=tensors[2], residual=tensors[3], act="relu").sum().backward()
        assert [t.grad is not None for t in tensors] == [i == wanted for i in range(4)]


@pytest.mark.parametrize("affine", ["vectors", "maps"])
def test_fullgraph_compile(affine):
    x = torch.randn(3, 8, 5, 5, requires_grad=True)
    scale, shift, residual = (t.requires_grad_() for t in Outside(affine, "first").tensors(x, torch.float32))

    def call(x, scale, shift, residual):
        y = instance_norm_act(x, scale=scale, shift=shift, residual=residual, residual_first=True, act="silu")
        return group_norm_act(y, 4, scale=scale, shift=shift, act="silu")

    leaves = (x, scale, shift, residual)
    want = torch.autograd.grad(call(*leaves).square().sum(), leaves)
    got = torch.autograd.grad(torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves).square().sum(), leaves)
    torch.testing.assert_close(got, want)


X = torch.randn(3, 8, 5, 5)
ONES, MAPS = torch.ones(3, 8), torch.ones(3, 8, 5, 5)
# What is passed, the error, what it says.
BAD = {
    "scale without shift": (
        {"scale": ONES},
        ValueError,
        "scale was given without shift; they come together. For none pass torch.zeros_like(scale)",
    ),
    "shift without scale": ({"shift": ONES}, ValueError, "shift was given without scale"),
    "a vector of channels": (
        {"scale": ONES[0], "shift": ONES[0]},
        ValueError,
        "scale has shape (8,), wants (3, 8) or x's (3, 8, 5, 5). What belongs to a channel alone is weight and bias",
    ),
    "shapes that differ": ({"scale": ONES, "shift": MAPS}, ValueError, "shift has shape (3, 8, 5, 5), scale (3, 8); both must be the same"),
    "integers": ({"scale": ONES.long(), "shift": ONES}, TypeError, "scale has dtype torch.int64"),
    "maps of another dtype": ({"scale": MAPS.half(), "shift": MAPS.half()}, TypeError, "scale has dtype torch.float16, x has"),
    "a residual of another shape": (
        {"residual": MAPS[:, :, :1, :1]},
        ValueError,
        "residual has shape (3, 8, 1, 1), y has (3, 8, 5, 5); both must be the same. Nothing is broadcast",
    ),
    "a residual of another dtype": ({"residual": X.double()}, TypeError, "residual has dtype torch.float64, y has torch.float32"),
    "a factor alone": ({"factor": 0.5}, ValueError, "factor is 0.5, but there is no residual"),
    "a factor that learns": ({"residual": X, "factor": ONES[0, 0]}, TypeError, "A factor that learns is a multiplication of its own"),
    "residual_first alone": ({"residual_first": True}, ValueError, "residual_first is True, but there is no residual"),
    "no tensor": ({"residual": 1.0}, TypeError, "residual is a builtins.float, wants a torch.Tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    options, error, message = BAD[name]
    for op, call in (
        ("batch_norm_act", lambda: batch_norm_act(X, None, None, training=True, **options)),
        ("instance_norm_act", lambda: instance_norm_act(X, **options)),
        ("group_norm_act", lambda: group_norm_act(X, 4, **options)),
    ):
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value).startswith(f"{op}: ") and message in str(raised.value)


NORMS = {
    "group": lambda x, **more: group_norm_act(x, 2, **more),
    "batch": lambda x, **more: batch_norm_act(x, None, None, training=True, **more),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_stay_in_float32_where_an_image_has_one_value_a_channel(norm, backend):
    """[N, C] is x's shape there, but not x's dtype."""
    x, scale, shift = torch.randn(8, 6).bfloat16(), torch.rand(8, 6) + 0.5, torch.randn(8, 6) * 100
    leaves = [t.requires_grad_() for t in (scale, shift)]
    y = norm(x, scale=scale, shift=shift, backend=backend)
    want = norm(x.float(), scale=scale, shift=shift)
    assert torch.equal(y, want.bfloat16()) or (y.float() - want).abs().max() <= want.abs().max() * 2**-8
    gy = torch.randn(8, 6).bfloat16()
    found, wanted = (torch.autograd.grad(out, leaves, gy.to(out.dtype)) for out in (y, want))
    assert all(g.dtype == torch.float32 for g in found)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-4)


def test_a_shift_may_change_before_the_backward():
    """As in eager's chain, which keeps none."""
    x, scale, shift = torch.randn(2, 4, 3, 3), torch.rand(2, 4).requires_grad_(), torch.zeros(2, 4).requires_grad_()
    for call in (instance_norm_act, lambda x, **given: group_norm_act(x, 2, **given, residual=x)):
        y = call(x, scale=scale, shift=shift, act="tanh")
        before = torch.autograd.grad(y.sum(), scale, retain_graph=True)[0]
        with torch.no_grad():
            shift.add_(1)
        assert torch.equal(torch.autograd.grad(y.sum(), scale)[0], before)


def test_a_number_in_a_tensor_is_read_at_each_call():
    """No plan is remembered for it."""
    x, stats = torch.randn(4, 6, 3), [torch.zeros(6), torch.ones(6)]
    for eps in (1e-5, 10.0):
        torch.testing.assert_close(group_norm_act(x, 2, eps=torch.tensor(eps)), F.group_norm(x, 2, eps=eps))
    for training in (True, False):
        found = batch_norm_act(x, *[s.clone() for s in stats], training=torch.tensor(training))
        torch.testing.assert_close(found, F.batch_norm(x, *[s.clone() for s in stats], training=training))
