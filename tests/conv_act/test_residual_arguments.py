"""The convolutions with a residual: bad input, plans, tracing."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from ganfast import _backends
from ganfast.functional import conv_act, conv_transpose_act, upsample_conv_act
from tests.conv_act.test_residual import BF16, HALF, OPS, Row, fused, inputs, leaves_of

X, W, R = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 1, 1), torch.randn(2, 3, 4, 4)
BAD = {
    "shape": (lambda op: op(X, W, residual=R[:, :, :3]), ValueError, r"residual has shape \(2, 3, 3, 4\), y has .*projection"),
    "broadcast": (lambda op: op(X, W, residual=R[:1, :1, :1, :1]), ValueError, "residual has shape .*Nothing is broadcast: expand it"),
    "unbatched": (lambda op: op(X, W, residual=R[0]), ValueError, r"residual has shape \(3, 4, 4\), y has"),
    "dtype": (lambda op: op(X, W, residual=R.double()), TypeError, "residual has dtype torch.float64, y has torch.float32.*autocast"),
    "device": (lambda op: op(X, W, residual=R.to("meta")), ValueError, "residual is on meta, y on cpu"),
    "type": (lambda op: op(X, W, residual=1.0), TypeError, "residual is a builtins.float, wants a torch.Tensor"),
    "first": (lambda op: op(X, W, residual_first=True), ValueError, "residual_first is True, but there is no residual"),
    "factor": (lambda op: op(X, W, factor=2.0), ValueError, "factor is 2.0, but there is no residual.*bias_act has a gain"),
    "factor nan": (lambda op: op(X, W, residual=R, factor=float("nan")), ValueError, "factor is nan, wants a finite number"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("op", OPS)
def test_one_error(op, name):
    call, error, message = BAD[name]
    more = {"padding": 0} if op == "upsample" else {}
    if name in ("device", "dtype") and op == "upsample":
        return  # of another size already
    for _ in range(2):
        with pytest.raises(error, match="(?s)" + message) as caught:
            call(lambda *args, **options: OPS[op](*args, **options, **more))
        assert str(caught.value).startswith(f"{OPS[op].__name__}: ")


def test_integers_under_autocast_and_partials():
    with torch.autocast("cpu", BF16), pytest.raises(TypeError, match="residual has dtype"):
        conv_act(X, W, residual=R.long())
    for op in (conv_transpose_act, upsample_conv_act):
        residual = R if op is conv_transpose_act else torch.randn(2, 3, 8, 8)
        with pytest.raises(ValueError, match="return_partials with a residual is not supported"):
            op(X, W, padding=0, residual=residual, return_partials=True)


def test_a_plan_tells_residuals_apart():
    """The same call with and without one, in another layout, with another factor."""
    want = F.conv2d(X, W)
    for residual in (None, R, None, R.contiguous(memory_format=torch.channels_last), R.transpose(2, 3).contiguous().transpose(2, 3)):
        for factor in (1.0, HALF) if residual is not None else (1.0,):
            got = conv_act(X, W, residual=residual, factor=factor)
            torch.testing.assert_close(got, want if residual is None else (want + residual) * factor)
            assert got.is_contiguous() and _backends.ran["conv_act"]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("act, first", [("leaky_relu", False), ("relu", True), ("silu", True), ("linear", False)])
@pytest.mark.thinned(3)
def test_fullgraph_compile(op, act, first):
    torch.compiler.reset()
    row = Row("", op, act=act, first=first, factor=HALF)
    leaves = leaves_of(inputs(row))
    call = lambda **t: fused(row, None, **t)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found = [[y := f(**leaves), *grad(y.square().sum(), list(leaves.values()))] for f in (compiled, call)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_opcheck(backend):
    ops, residual = torch.ops.ganfast, torch.randn(2, 3, 4, 4)
    for act, first, save_z, keep_signs in (("relu", False, False, True), ("silu", True, True, False), ("linear", False, False, False)):
        added = (residual, first, HALF, keep_signs)
        args = (X, W, None, None, [1, 1], [0, 0], [1, 1], 1, act, 0.0, False, save_z, backend, *added)
        torch.library.opcheck(ops.conv_transpose_act_conv.default, args)
        args = (X, W, None, None, [1, 1], [0, 0], [0, 0], [1, 1], 1, act, 0.0, False, save_z, False, backend, *added)
        torch.library.opcheck(ops.conv_transpose_act_fwd.default, args)
