"""The `cpu` backend's minimal filtering against the float64 reference: where it runs, its tiles, layouts, derivatives, threads."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

import ganfast.functional as GF
from ganfast import _native
from ganfast.ops.conv_transpose_act import kernels, minimal
from ganfast.testing import assert_close_to_reference, named, nan_filled
from tests.conv_transpose_act.problems import Row, arguments, composite, eager, gradient_for, leaves, ours, pre_activation, with_grad

pytestmark = pytest.mark.skipif(_native.reason("cpu") is not None, reason="no compiled extension")
FP64 = torch.float64
K4 = {"c_in": 32, "c_out": 48, "stride": 2, "padding": 1}
ROWS = named(  # an axis is tiles of 2 alone where the images are few, else of 3 and 2
    Row("one_pixel", **K4, size=(1, 1), act="tanh"),
    Row("two_pixels", **K4, size=(2, 2), act="leaky_relu", alpha=0.2),
    Row("one_row", **K4, size=(1, 7), act="relu"),
    Row("one_image", **K4, n=1, size=(4, 4), act="silu"),
    Row("odd_prime", **K4, size=(7, 13), act="tanh", layout="channels_last"),
    Row("output_padding", **K4, size=(5, 3), output_padding=1, act="elu"),
    Row("output_padding_one_axis", **K4, size=(6, 5), output_padding=(0, 1), layout="channels_last"),
    Row("threes", **K4, n=9, size=(8, 11), act="relu"),
    Row("threes_channels_last", **K4, n=7, size=(10, 9), act="prelu", alpha="tensor", layout="channels_last"),
    Row("threes_output_padding", **K4, n=7, size=(8, 8), output_padding=(1, 0), act="softplus", layout="channels_last"),
    Row("deep", c_in=528, c_out=64, stride=2, padding=1, size=(4, 4), bias=False),
    Row("wide", c_in=32, c_out=144, stride=2, padding=1, size=(3, 5), layout="channels_last"),
    Row("z_and_alpha", **K4, size=(3, 4), act="snake", alpha="tensor", layout="channels_last"),
    Row("sliced", **K4, size=(6, 6), act="relu", layout="sliced"),
    Row("transposed", **K4, size=(7, 6), layout="transposed"),
    Row("expanded", **K4, n=3, size=(6, 6), act="tanh", layout="expanded"),
    Row("unbatched", **K4, size=(6, 6), layout="unbatched"),
)  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """Whether each run so far was a transposed convolution."""
    seen, run = [], minimal.run
    monkeypatch.setattr(minimal, "run", lambda *args: seen.append(args[6]) or run(*args))
    return seen


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def away_from_kinks(row, data):
    """gy, zero where 64 eps of z (the transforms add some) could cross an activation's kink."""
    z = pre_activation(row, {name: t.double() for name, t in data.items()})
    z = z[0] if row.layout == "unbatched" else z
    return gradient_for(row, data) * (z.abs() > 64 * torch.finfo(torch.float32).eps * z.abs().max())


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_values_and_gradients(row, count, calls, threads):
    threads(count)
    torch.manual_seed(1)
    data = leaves(row)
    gy = away_from_kinks(row, data)
    found = []
    for tensors in (with_grad(data), with_grad(data, FP64)):
        y = composite(row, tensors)
        found.append([y, *grad(y, list(tensors.values()), gy.to(y.dtype))])
    mine = with_grad(data)
    with nan_filled():
        y = ours(row, mine, "cpu")
        grads = grad(y, list(mine.values()), gy)
    assert calls == [True, False], "the forward or the data gradient took another way"
    assert_close_to_reference(*zip(["y", *(f"g{name}" for name in data)], [y, *grads], *found, strict=True))
    batched = y[None] if row.layout == "unbatched" else y
    assert batched.is_contiguous(memory_format=torch.channels_last if row.layout == "channels_last" else torch.contiguous_format)
    with nan_filled(), torch.no_grad():
        assert torch.equal(ours(row, mine, "cpu"), y), "without gradients another value"


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 8), (17, 13), (2, 9)])
@pytest.mark.parametrize("last", [False, True])
def test_convolution(size, last, calls):
    """`conv_act`: odd sizes leave a last row that one tap reads, and its data gradient an output_padding."""
    torch.manual_seed(2)
    fmt = torch.channels_last if last else torch.contiguous_format
    x, weight = (t.to(memory_format=fmt) for t in (torch.randn(7, 48, *size), torch.randn(32, 48, 4, 4) / 28))
    bias, found = torch.randn(32), []
    for cast in (torch.float32, FP64):
        leaf = [t.detach().to(cast, copy=True).requires_grad_() for t in (x, weight, bias)]
        y = torch.tanh(F.conv2d(F.pad(leaf[0], (1, 1, 1, 1)), *leaf[1:], 2))
        found.append([y, *grad(y.square().sum(), leaf)])
    leaf = [t.detach().requires_grad_() for t in (x, weight, bias)]
    with nan_filled():
        y = GF.conv_act(*leaf, stride=2, padding=1, act="tanh", backend="cpu")
        grads = grad(y.square().sum(), leaf)
    assert calls == [False, True]
    assert y.is_contiguous(memory_format=fmt)
    assert_close_to_reference(*zip(["y", "gx", "gweight", "gbias"], [y, *grads], *found, strict=True))


SECOND = named(
    Row("nchw", **K4, size=(4, 5), act="tanh"),
    Row("nhwc", **K4, n=8, size=(8, 8), act="silu", layout="channels_last"),
)


@pytest.mark.parametrize("row", SECOND, ids=str)
def test_second_order(row, calls):
    torch.manual_seed(3)
    data, found = leaves(row), []
    for tensors, forward in ((with_grad(data), composite), (with_grad(data, FP64), composite), (with_grad(data), ours)):
        y = forward(row, tensors, "cpu") if forward is ours else forward(row, tensors)
        gx = grad(y.square().sum(), tensors["x"], create_graph=True)[0]
        found.append(grad(gx.square().sum(), list(tensors.values())))
    assert calls.count(True) == 2 and calls.count(False) == 2, calls
    assert_close_to_reference(*zip([f"gg{name}" for name in data], found[2], found[0], found[1], strict=True))


def test_many_tiles(threads):
    """More tiles than a thread transforms at a time, of every size."""
    row = Row("large", **K4, n=1, size=(131, 133), act="relu", layout="channels_last")
    torch.manual_seed(4)
    data = leaves(row)
    results = []
    for count in (1, 2):
        threads(count)
        with nan_filled():
            results.append(ours(row, data, "cpu"))
    assert torch.equal(*results), "the number of threads shows in the bits"
    assert_close_to_reference(("y", results[0], eager(row, data), eager(row, {name: t.double() for name, t in data.items()})))


def test_not_finite():
    """inf and NaN reach what they reach in a convolution, as NaN, and no pixel outside the tiles that hold them."""
    x = torch.randn(8, 32, 9, 9)
    x[0, 3, 4, 4] = float("inf")
    x[1, 5, 0, 8] = float("nan")
    weight = torch.randn(32, 32, 4, 4)
    y = GF.conv_transpose_act(x, weight, stride=2, padding=1, backend="cpu")
    exact = F.conv_transpose2d(x, weight, stride=2, padding=1)
    assert not y[~exact.isfinite()].isfinite().any()
    assert y[2:].isfinite().all() and y[0, :, :4].isfinite().all() and y[0, :, 16:].isfinite().all() and y[1, :, 8:].isfinite().all()


OTHERS = [
    {"c_in": 33}, {"c_out": 16}, {"kernel": (4, 3)}, {"padding": 0}, {"groups": 2}, {"dilation": 2},
    {"dtype": torch.bfloat16}, {"dtype": FP64},
]  # fmt: skip


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_elsewhere_columns(change, calls):
    row = Row("other", **{**K4, "size": (5, 6), "groups": 1, **change})
    torch.manual_seed(5)
    data = leaves(row)
    x, weight, *_ = arguments(row, data)
    stride, padding, _, dilation = row.lists()
    assert "wants" in minimal.refusal(x, weight, stride, padding, dilation, row.groups)
    exact = composite(row, {name: t.double() for name, t in data.items()})
    assert_close_to_reference(("y", ours(row, data, "cpu"), composite(row, data), exact))
    assert not calls


def test_epilogue_at_the_kernel(calls):
    """z beside y, partials, and a weight whose strides are neither layout's, as a cotangent's may be."""
    torch.manual_seed(6)
    x, weight = torch.randn(3, 32, 4, 5), torch.randn(32, 32, 4, 4)
    bias, geometry = torch.randn(32), ([2, 2], [1, 1], [0, 0], [1, 1], 1)
    for w in (weight, weight.transpose(2, 3), weight[:1].expand(32, 32, 4, 4)):
        y, z, partials = kernels.fwd(x, w, bias, None, *geometry, "relu", 0.0, False, True, True, "cpu")
        exact = F.conv_transpose2d(x.double(), w.double(), bias.double(), 2, 1)
        assert_close_to_reference(("z", z, F.conv_transpose2d(x, w, bias, 2, 1), exact))
        assert torch.equal(y, z.relu())
        torch.testing.assert_close(partials[0, 1], y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert calls == [True] * 3
