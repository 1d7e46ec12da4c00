"""The convolutions with a residual: values and gradients against plain torch, what is kept, autocast, empty batches."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from ganfast._activations import ACTIVATIONS, act_fwd
from ganfast.functional import conv_act, conv_transpose_act, upsample_conv_act
from ganfast.ops.conv_transpose_act import autograd, reference
from ganfast.testing import Case, assert_close_to_reference, named, nan_filled

BACKENDS = ["reference", "torch", "cpu", "auto"]
BF16, FP16, FP64 = torch.bfloat16, torch.float16, torch.float64
HALF = 2**-0.5
OPS = {"conv": conv_act, "transpose": conv_transpose_act, "upsample": upsample_conv_act}


@dataclass(frozen=True)
class Row(Case):
    op: str = "conv"
    n: int = 2
    c_in: int = 6
    c_out: int = 8
    size: tuple[int, ...] = (7, 6)
    kernel: tuple[int, ...] = (3, 3)
    stride: int = 1
    padding: int = 1
    groups: int = 1
    act: str = "linear"
    alpha: float | str | None = None
    first: bool = False
    factor: float = 1.0
    layout: str = "contiguous"  # or "channels_last", "mixed": the residual's is another, "unbatched"
    bias: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def options(self):
        strided = {} if self.op == "upsample" else {"stride": self.stride}
        options = {"act": self.act, "padding": self.padding, "groups": self.groups, **strided}
        return options | {"residual_first": self.first, "factor": self.factor}


ROWS = named(
    Row("vqgan", kernel=(3, 3)),
    Row("vqgan bf16", layout="channels_last", dtype=BF16),
    Row("r3gan projection", kernel=(1, 1), padding=0, bias=False, layout="channels_last"),
    Row("biggan factor", factor=HALF, kernel=(1, 1), padding=0),
    Row("edsr", factor=0.1, layout="mixed"),
    Row("resnet", act="relu", first=True, layout="channels_last"),
    Row("resnet bf16", act="relu", first=True, dtype=BF16),
    Row("leaky", act="leaky_relu", alpha=0.2, factor=HALF),
    Row("leaky bf16", act="leaky_relu", alpha=0.2, layout="mixed", dtype=BF16),
    Row("leaky first", act="leaky_relu", alpha=0.2, first=True, factor=HALF, stride=2),
    Row("negative", act="leaky_relu", alpha=0.2, factor=-1.0),
    Row("negative first", act="leaky_relu", alpha=0.2, first=True, factor=-1.0),
    Row("relu fp16", act="relu", dtype=FP16, groups=2),
    Row("tanh", act="tanh", layout="unbatched"),
    Row("tanh first", act="tanh", first=True, factor=HALF),
    Row("silu first", act="silu", first=True, factor=HALF, layout="channels_last"),
    Row("silu bf16", act="silu", dtype=BF16),
    Row("prelu", act="prelu", alpha="tensor"),
    Row("prelu first", act="prelu", alpha="tensor", first=True, factor=-0.5),
    Row("minimal", c_in=32, c_out=32, kernel=(4, 4), stride=2, size=(8, 8), act="relu"),
    Row("hifigan", size=(33,), kernel=(7,), padding=3, act="leaky_relu", alpha=0.1),
    Row("volume", n=1, c_in=3, c_out=4, size=(4, 5, 3), kernel=(3, 3, 3), act="elu", layout="channels_last"),
    Row("fp64", act="gelu", first=True, dtype=FP64),
    Row("transpose", "transpose", kernel=(4, 4), stride=2, act="leaky_relu", alpha=0.2, layout="channels_last"),
    Row("transpose first", "transpose", kernel=(4, 4), stride=2, act="tanh", first=True, factor=HALF),
    Row("transpose few bf16", "transpose", c_out=3, kernel=(4, 4), stride=2, factor=0.5, dtype=BF16),
    Row("transpose minimal", "transpose", c_in=32, c_out=32, kernel=(4, 4), stride=2, size=(4, 4), act="silu"),
    Row("transpose unbatched", "transpose", size=(9,), kernel=(4,), stride=2, act="prelu", alpha="tensor", layout="unbatched"),
    Row("upsample", "upsample", act="relu"),
    Row("upsample first", "upsample", act="leaky_relu", alpha=0.2, first=True, layout="channels_last"),
)


def _z(row, x, weight, bias):
    """Torch's convolution; of a transposed one the formula, as torch's own backward is not safe everywhere."""
    dims = len(row.kernel)
    if row.op == "transpose":
        return reference.conv_transpose(x, weight, bias, [row.stride] * dims, [row.padding] * dims, [0] * dims, [1] * dims, row.groups)
    x = F.interpolate(x, scale_factor=2) if row.op == "upsample" else x
    return (F.conv1d, F.conv2d, F.conv3d)[dims - 1](x, weight, bias, row.stride, row.padding, 1, row.groups)


def inputs(row):
    torch.manual_seed(1)
    per_group = row.c_in // row.groups
    shape = (row.c_in, row.c_out // row.groups) if row.op == "transpose" else (row.c_out, per_group)
    found = {"x": torch.randn(row.n, row.c_in, *row.size), "weight": torch.randn(*shape, *row.kernel) / (per_group * 4) ** 0.5}
    if row.bias:
        found["bias"] = torch.randn(row.c_out)
    if row.alpha == "tensor":
        found["alpha"] = torch.rand(row.c_out) + 0.5
    found["residual"] = torch.randn_like(_z(row, found["x"], found["weight"], None))
    last = torch.channels_last if len(row.size) == 2 else torch.channels_last_3d
    if row.layout in ("channels_last", "mixed"):
        found["x"] = found["x"].contiguous(memory_format=last)
    if row.layout == "channels_last":
        found["residual"] = found["residual"].contiguous(memory_format=last)
    return {name: t.to(row.dtype) for name, t in found.items()}


def _plain(row, x, weight, residual, bias=None, alpha=None, until="y"):
    z = _z(row, x, weight, bias)
    z = z + residual if row.first else z
    number = (row.alpha if isinstance(row.alpha, float) else ACTIVATIONS[row.act].default_alpha) or 0.0
    y = act_fwd(z, row.act, alpha, number)
    return z if until == "z" else (y if row.first else y + residual) * row.factor


def fused(row, backend, x, weight, residual, bias=None, alpha=None, **more):
    alpha = row.alpha if alpha is None else alpha
    if row.layout == "unbatched":
        x, residual = x[0], residual[0]
    y = OPS[row.op](x, weight, bias, alpha=alpha, residual=residual, backend=backend, **row.options, **more)
    return y[None] if row.layout == "unbatched" else y


def leaves_of(tensors, dtype=None):
    return {name: t.detach().to(dtype or t.dtype, copy=True).requires_grad_() for name, t in tensors.items()}


def _all(call, leaves, gy):
    y = call(**leaves)
    return [y, *grad(y, list(leaves.values()), gy.to(y.dtype))]


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(row, backend):
    tensors = inputs(row)
    if row.layout == "unbatched":
        tensors |= {"x": tensors["x"][:1], "residual": tensors["residual"][:1]}
    z = _plain(row, **leaves_of(tensors, FP64), until="z").detach()
    near = z.abs() <= 8 * torch.finfo(row.dtype).eps * z.abs().max()  # of a kink: the side an element falls on is nobody's error
    gy = torch.randn_like(z).masked_fill(near, 0).to(row.dtype)
    with nan_filled():
        got = _all(lambda **t: fused(row, backend, **t), leaves_of(tensors), gy)
    found = [_all(lambda **t: _plain(row, **t), leaves_of(tensors, dtype), gy) for dtype in (None, FP64)]
    assert_close_to_reference(*zip(["y", *tensors], got, *found, strict=True))
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(got[0].dim()) if row.layout in ("channels_last", "mixed") else None
    assert got[0].is_contiguous(memory_format=last or torch.contiguous_format)
    with torch.no_grad():
        assert torch.equal(fused(row, backend, **tensors), got[0]), "without gradients another value"


@pytest.mark.pairs
@pytest.mark.parametrize(("act", "alpha"), [("linear", None), ("relu", None), ("leaky_relu", 0.2), ("tanh", None), ("prelu", "tensor")])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("factor", [1.0, HALF, -0.5])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(backend, op, factor, first, act, alpha):
    row = Row("tiny", op, 1, 2, 2, (3, 3), (2, 2), act=act, alpha=alpha, first=first, factor=factor, dtype=FP64)
    tensors = leaves_of(inputs(row))
    call = lambda *values: fused(row, backend, **dict(zip(tensors, values)))
    with nan_filled():
        assert gradcheck(call, tuple(tensors.values()), fast_mode=True)
        assert gradgradcheck(call, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("name", ["leaky", "leaky first", "silu first", "tanh"])
def test_the_second_order(name, dtype):
    row = next(row for row in ROWS if row.name == name)
    tensors = {name: t.to(dtype) for name, t in inputs(row).items()}
    tensors |= {"x": tensors["x"][:1], "residual": tensors["residual"][:1]}

    def second(call, leaves):
        first = grad(call(**leaves).float().square().sum(), list(leaves.values()), create_graph=True)
        return grad(sum(g.double().square().sum() for g in first), list(leaves.values()))

    got = second(lambda **t: fused(row, None, **t), leaves_of(tensors))
    found = [second(lambda **t: _plain(row, **t), leaves_of(tensors, kind)) for kind in (None, FP64)]
    assert_close_to_reference(*zip(tensors, got, *found, strict=True))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("act", ["linear", "leaky_relu", "silu"])
def test_x_added_to_its_own_convolution(act, first):
    x, weight = torch.randn(2, 3, 4, 4, dtype=FP64, requires_grad=True), torch.randn(3, 3, 1, 1, dtype=FP64, requires_grad=True)
    call = lambda x, weight: conv_act(x, weight, act=act, residual=x, residual_first=first, factor=HALF)
    row = Row("", kernel=(1, 1), padding=0, act=act, first=first, factor=HALF)
    torch.testing.assert_close(call(x, weight), _plain(row, x, weight, x))
    assert gradcheck(call, (x, weight), fast_mode=True) and gradgradcheck(call, (x, weight), fast_mode=True)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"act": "linear"}, []),
        ({"act": "linear", "factor": HALF}, []),
        ({"act": "leaky_relu"}, [torch.bool]),
        ({"act": "silu"}, [torch.float32]),
        ({"act": "relu", "residual_first": True, "factor": HALF}, [torch.float32]),
        ({"act": "relu", "residual_first": True, "open_output": True}, [torch.bool]),
        ({"act": "relu", "factor": -1.0}, [torch.float32]),
    ],
)
@pytest.mark.parametrize("op", [conv_act, conv_transpose_act])
def test_what_is_kept(op, options, kept):
    """Of the output's size, while only the weight learns; nothing for the residual alone."""
    x, weight, residual = torch.randn(2, 3, 5, 5), torch.randn(3, 4, 1, 1, requires_grad=True), torch.randn(2, 4, 5, 5)
    weight = weight if op is conv_transpose_act else weight.detach().transpose(0, 1).contiguous().requires_grad_()
    y = op(x, weight, residual=residual, **options)
    assert [t.dtype for t in y.grad_fn.saved_tensors if t is not None and t.numel() == y.numel()] == kept
    if not options.get("residual_first"):
        y = op(x, weight.detach(), residual=residual.requires_grad_(), **options)
        assert not [t for t in y.grad_fn.saved_tensors if t is not None and t.numel() == y.numel()]


def test_a_gradient_that_nobody_asked_for_costs_no_pass(monkeypatch):
    x, residual, weight = (torch.randn(size, requires_grad=True) for size in ((2, 3, 5, 5), (2, 3, 5, 5), (3, 3, 1, 1)))
    y = conv_act(x * 1, weight, act="relu", residual=residual, factor=0.5)
    for name in ("_before_activation", "weight_grad", "conv_transpose"):
        monkeypatch.setattr(autograd, name, None)
    (got,) = grad(y.sum(), residual)
    assert (got == 0.5).all()


@pytest.mark.parametrize("act", ["relu", "leaky_relu"])
@pytest.mark.parametrize("first", [False, True])
def test_a_penalty_hands_zeros_where_torchs_does(act, first):
    x, before, beside = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(3))
    weight, bias = torch.randn(3, 3, 1, 1), torch.randn(3, requires_grad=True)
    torchs = lambda z: F.relu(z) if act == "relu" else F.leaky_relu(z, 0.01)

    def eager(x, residual):
        z = F.conv2d(x, weight, bias)
        return torchs(z + residual) if first else torchs(z) + residual

    fused = lambda x, residual: conv_act(x, weight, bias, act=act, residual=residual, residual_first=first)
    for top in (lambda y: y, lambda y: conv_act(y, weight, act="relu"), torch.relu):
        found = []
        for layer in (eager, fused):
            y = top(layer(x * before, x.detach() * beside))
            (gx,) = grad(y.sum(), x, create_graph=True)
            found.append([g is not None for g in grad(gx.square().sum(), (before, beside, bias), allow_unused=True)])
        assert found[0] == found[1]


@pytest.mark.parametrize("op", OPS)
def test_autocast_casts_the_residual(op):
    row = Row("", op, act="leaky_relu")
    leaves = leaves_of(inputs(row))
    with torch.autocast("cpu", BF16):
        y = fused(row, None, **leaves)
        (gx,) = grad(y.float().square().sum(), leaves["x"], create_graph=True)
        second = grad(gx.square().sum(), leaves["residual"])[0]
    half = {name: t.detach().to(BF16) for name, t in leaves.items()}
    assert y.dtype == BF16 and gx.dtype == second.dtype == torch.float32
    torch.testing.assert_close(y, fused(row, None, **half), rtol=0.02, atol=0.05)  # the upsampled one's weight is rounded elsewhere


@pytest.mark.parametrize("op", OPS)
def test_an_empty_batch(op):
    row = Row("", op, act="silu")
    leaves = leaves_of(inputs(row))
    x, residual = (leaves[name].detach()[:0].requires_grad_() for name in ("x", "residual"))
    y = fused(row, None, **leaves | {"x": x, "residual": residual})
    found = grad(y.sum(), [x, residual, leaves["weight"]])
    assert y.shape == residual.shape == found[1].shape and not found[2].any()
