"""`conv_act` against torch's own convolution: values, gradients to second order, layouts, bad input."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from ganfast._checks import int_list
from ganfast._tune import choose
from ganfast.functional import conv_act
from ganfast.ops.conv_act.op import _check_padding
from ganfast.ops.conv_transpose_act import choice, kernels
from ganfast.ops.conv_transpose_act.reference import CONV
from ganfast.testing import assert_close_to_reference, named, nan_filled
from tests.conv_transpose_act import problems
from tests.conv_transpose_act.problems import arguments, with_grad

BACKENDS = ["reference", "torch", "cpu"]
ALL = [*BACKENDS, "auto"]
BF16, FP16, FP64 = torch.bfloat16, torch.float16, torch.float64


class Row(problems.Row):
    """One call; weight [c_out, c_in / groups, *kernel], size that of x."""


ROWS = named(
    Row("dcgan", c_in=9, c_out=16, size=(8, 8), stride=2, padding=1, act="leaky_relu", alpha=0.2),
    Row("dcgan_last", c_in=24, c_out=1, size=(4, 4), act="linear"),
    Row("dcgan_last_channels_last", c_in=24, c_out=1, size=(4, 4), act="sigmoid", layout="channels_last"),
    Row("dcgan_last_bf16", c_in=24, c_out=1, size=(4, 4), dtype=BF16),
    Row("rgb", c_in=3, c_out=16, size=(8, 8), stride=2, padding=1, act="leaky_relu", alpha=0.2),
    Row("rgb_bf16_channels_last", c_in=3, c_out=16, size=(8, 8), stride=2, padding=1, act="relu", layout="channels_last", dtype=BF16),
    Row("channels_last", c_in=9, c_out=16, size=(8, 8), stride=2, padding=1, act="relu", layout="channels_last"),
    Row("bf16", c_in=9, c_out=16, size=(8, 8), stride=2, padding=1, act="leaky_relu", alpha=0.2, dtype=BF16),
    Row("same_3x3", c_in=6, c_out=5, size=(7, 5), kernel=(3, 3), padding=1, act="silu"),
    Row("odd", n=3, c_in=7, c_out=11, size=(9, 8), kernel=(3, 5), stride=(2, 1), padding=(1, 2), act="gelu"),
    Row("prime", n=1, c_in=13, c_out=17, size=(19, 23), kernel=(5, 3), stride=(3, 2), padding=(2, 1), act="elu"),
    Row("left_over", size=(10, 12), kernel=(3, 2), stride=(4, 5), act="tanh"),
    Row("stride_over_kernel", size=(13, 14), kernel=(2, 3), stride=(5, 7), act="softplus"),
    Row("stride_over_kernel_padded", size=(13, 14), kernel=(1, 2), stride=(3, 5), padding=(0, 1), act="tanh", bias=False),
    Row("padding_of_kernel", size=(6, 5), stride=2, padding=3, act="tanh"),
    Row("padding_past_kernel", size=(6, 5), kernel=(3, 2), stride=2, padding=(5, 3), act="tanh"),
    Row("padding_past_one_tap", size=(6, 5), kernel=(1, 1), stride=(1, 2), padding=(1, 2), act="relu"),
    Row("dilated", size=(11, 12), kernel=(3, 2), dilation=(2, 3), act="tanh"),
    Row("dilated_left_over", size=(12, 13), kernel=(3, 2), stride=(4, 3), dilation=(2, 6), padding=(3, 1), act="tanh"),
    Row("groups", c_in=6, c_out=9, size=(7, 6), groups=3, stride=2, padding=1, act="relu"),
    Row("groups_channels_last", c_in=6, c_out=9, size=(7, 6), groups=3, stride=2, padding=1, act="relu", layout="channels_last"),
    Row("depthwise", c_in=4, c_out=4, groups=4, size=(6, 6), kernel=(3, 3), padding=1, act="leaky_relu"),
    Row("one_channel", c_in=1, c_out=1, size=(6, 6), stride=2, padding=1, act="selu"),
    Row("one_pixel", c_in=10, c_out=16, size=(1, 1), kernel=(1, 1), act="relu"),
    Row("one_tap_strided", c_in=6, c_out=10, size=(5, 7), kernel=(1, 1), stride=2, act="relu"),
    Row("length", size=(19,), kernel=(5,), stride=3, padding=2, act="snake", alpha="tensor"),
    Row("length_groups", c_in=8, c_out=6, size=(40,), kernel=(11,), stride=4, padding=5, groups=2, act="leaky_relu", alpha=0.1),
    Row("volume", n=1, c_in=4, c_out=5, size=(5, 6, 7), kernel=(3, 4, 2), stride=(1, 2, 3), padding=(1, 1, 0), act="relu"),
    Row("volume_channels_last", c_in=3, c_out=9, size=(6, 4, 6), stride=2, padding=1, kernel=(4, 4, 4), act="elu", layout="channels_last"),
    Row("volume_padding_near_kernel", n=1, c_in=17, c_out=8, size=(4, 9, 5), kernel=(5, 5, 4), stride=3, padding=(4, 0, 3), act="tanh"),
    Row("sliced", size=(6, 6), stride=2, padding=1, act="relu", layout="sliced"),
    Row("transposed", size=(7, 6), stride=2, padding=1, act="tanh", layout="transposed"),
    Row("expanded", n=3, size=(6, 6), stride=2, padding=1, act="relu", layout="expanded"),
    Row("unbatched", size=(6, 6), stride=2, padding=1, act="relu", layout="unbatched"),
    Row("unbatched_length", size=(9,), kernel=(4,), stride=2, act="prelu", alpha="tensor", layout="unbatched"),
    Row("float16", c_in=9, c_out=16, size=(8, 8), stride=2, padding=1, act="silu", dtype=FP16),
    Row("float64", c_in=9, c_out=16, size=(8, 8), stride=2, padding=1, act="gelu", dtype=FP64),
    Row("snake_bf16", size=(6, 6), stride=2, padding=1, act="snake", alpha="tensor", dtype=BF16),
    Row("prelu_channels_last", size=(6, 6), stride=2, padding=1, act="prelu", alpha="tensor", layout="channels_last"),
    Row("leaky_relu_negative", size=(6, 6), act="leaky_relu", alpha=-0.5),
)


def geometry(row):
    return {name: getattr(row, name) for name in ("stride", "padding", "dilation", "groups")}


def leaves(row):
    """x, weight, bias, alpha; the weight keeps the variance of x."""
    found = problems.leaves(row)
    weight = torch.randn(row.c_out, row.c_in // row.groups, *row.kernel) / (row.c_in / row.groups * found["weight"][0, 0].numel()) ** 0.5
    return found | {"weight": weight.to(row.dtype)}


def ours(row, tensors, backend=None):
    x, weight, bias, alpha = arguments(row, tensors)
    return conv_act(x, weight, bias, **geometry(row), act=row.act, alpha=alpha, backend=backend)


def pre_activation(row, tensors):
    """Torch's convolution, its padding spelt out: the CPU's own backward is not safe for every padding. Batched."""
    x, weight, bias, _ = arguments(row, tensors)
    x = x[None] if row.layout == "unbatched" else x
    stride, padding, dilation = (
        int_list("row", name, getattr(row, name), len(row.kernel), 0) for name in ("stride", "padding", "dilation")
    )
    x = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
    return CONV[len(row.kernel)](x, weight, bias, stride, 0, dilation, row.groups)


def composite(row, tensors):
    y = problems._activate(pre_activation(row, tensors), row, arguments(row, tensors)[3])
    return y[0] if row.layout == "unbatched" else y


def gradient_for(row, tensors):
    """gy, zero wherever rounding could put z on the other side of a kink."""
    z = pre_activation(row, {name: t.detach().double() for name, t in tensors.items()})
    z = z[0] if row.layout == "unbatched" else z
    near = z.abs() <= 4 * torch.finfo(row.dtype).eps * z.abs().max()
    return torch.where(near, torch.zeros_like(z), torch.randn_like(z)).to(row.dtype)


@functools.cache
def expected(row):
    """(leaves, gy, plain [y, *gradients], exact [y, *gradients])"""
    torch.manual_seed(1)
    data = leaves(row)
    gy, found = gradient_for(row, data), []
    for tensors in (with_grad(data), with_grad(data, FP64)):
        y = composite(row, tensors)
        found.append([y, *grad(y, list(tensors.values()), gy.to(y.dtype))])
    return data, gy, *found


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_values_and_gradients(row, backend):
    data, gy, plain, exact = expected(row)
    mine = with_grad(data)
    with nan_filled():
        y = ours(row, mine, backend)
        grads = grad(y, list(mine.values()), gy)
    assert_close_to_reference(*zip(["y", *(f"g{name}" for name in data)], [y, *grads], plain, exact, strict=True))
    batched = y[None] if row.layout == "unbatched" else y
    fmt = {4: torch.channels_last, 5: torch.channels_last_3d}.get(batched.dim()) if row.layout == "channels_last" else None
    assert batched.is_contiguous(memory_format=fmt or torch.contiguous_format), "output strides depend on the backend"
    with nan_filled(), torch.no_grad():
        assert torch.equal(ours(row, mine, backend), y), "without gradients another value"


@pytest.mark.triton
@pytest.mark.parametrize("name", ["dcgan", "left_over", "groups_channels_last"])
def test_the_data_gradient_by_triton(name):
    row = next(row for row in ROWS if row.name == name)
    data, gy, plain, exact = expected(row)
    mine = with_grad(data)
    y = ours(row, mine, "triton")
    assert_close_to_reference(*zip(["y", *data], [y, *grad(y, list(mine.values()), gy)], plain, exact, strict=True))


SAME = [(kernel, dilation) for kernel in (1, 2, 3, 4) for dilation in (1, 2, 3)]


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize(("kernel", "dilation"), SAME)
def test_padding_by_name(kernel, dilation):
    x, weight = torch.randn(2, 3, 11, 10, requires_grad=True), torch.randn(4, 3, kernel, 2)
    for name in ("same", "valid"):
        got, want = (f(x, weight, padding=name, dilation=(dilation, 1)) for f in (conv_act, F.conv2d))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(*(grad(y.square().sum(), x)[0] for y in (got, want)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_empty_batch(backend, dims):
    row = Row("empty", size=(6, 5, 7)[:dims], kernel=(3, 2, 2)[:dims], stride=2, act="silu")
    data = with_grad(leaves(row) | {"x": torch.empty(0, row.c_in, *row.size)})
    y = ours(row, data, backend)
    assert y.shape == (0, row.c_out, *[(s - k) // 2 + 1 for s, k in zip(row.size, row.kernel)])
    assert all(g.shape == t.shape and not g.any() for g, t in zip(grad(y.sum(), list(data.values())), data.values()))


@pytest.mark.parametrize("which", ["x", "weight", "both"])
@pytest.mark.parametrize("backend", ALL)
def test_channels_last_where_torch_has_it(backend, which):
    x, weight = torch.randn(2, 5, 6, 6), torch.randn(7, 5, 3, 3)
    x = x.contiguous(memory_format=torch.channels_last) if which != "weight" else x
    weight = weight.contiguous(memory_format=torch.channels_last) if which != "x" else weight
    y = conv_act(x, weight, padding=1, act="relu", backend=backend)
    assert y.stride() == F.conv2d(x, weight, padding=1).stride() != y.contiguous().stride()


TINY = {"n": 1, "c_in": 2, "c_out": 2, "size": (5, 4), "kernel": (3, 2), "stride": (2, 3), "padding": (1, 0), "dtype": FP64}
CHECKED = named(
    *[Row(f"{act}_{alpha}", **TINY, act=act, alpha=alpha)
      for act, alpha in [("linear", None), ("relu", None), ("leaky_relu", 0.2), ("tanh", None), ("sigmoid", None), ("elu", 0.7),
                         ("silu", None), ("gelu", None), ("snake", "tensor"), ("prelu", "tensor")]],
    Row("channels_last", **TINY, act="silu", layout="channels_last"),
    Row("unbatched", **TINY, act="tanh", layout="unbatched"),
    Row("groups_dilated", **TINY | {"size": (8, 6), "groups": 2, "dilation": 2}, act="silu"),
    Row("padding_past_kernel", **TINY | {"padding": (4, 2)}, act="tanh"),
    Row("one_pixel_out", **TINY | {"size": (3, 2), "padding": 0}, act="tanh"),
    Row("length", n=2, c_in=2, c_out=1, size=(6,), kernel=(3,), stride=2, act="snake", alpha="tensor", dtype=FP64),
    Row("volume", n=1, c_in=1, c_out=2, size=(4, 3, 2), kernel=(2, 2, 1), stride=2, act="tanh", dtype=FP64),
)  # fmt: skip


@pytest.mark.parametrize("row", CHECKED, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(row, backend):
    data = with_grad(leaves(row))
    f, inputs = lambda *values: ours(row, dict(zip(data, values)), backend), tuple(data.values())
    with nan_filled():
        assert gradcheck(f, inputs, fast_mode=backend != "cpu")
        assert gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("backend", ALL)
def test_the_second_order_and_the_third(backend, layout, dtype):
    row = Row("penalty", c_in=3, c_out=8, size=(8, 9), stride=2, padding=1, act="tanh", layout=layout, dtype=dtype)
    data = leaves(row)

    def third(f, tensors):
        value, inputs, found = (f(row, tensors).float() ** 2).sum(), list(tensors.values()), []
        for order in range(3 if dtype == torch.float32 else 2):
            found = grad(value, inputs, create_graph=order < 2)
            value = sum((g.double() ** 2).sum() for g in found)
        return found

    got = third(lambda r, t: ours(r, t, backend), with_grad(data))
    plain, exact = third(composite, with_grad(data)), third(composite, with_grad(data, FP64))
    assert_close_to_reference(*zip(data, got, plain, exact, strict=True))


@pytest.mark.parametrize("backend", ALL)
def test_autocast(backend):
    row = Row("autocast", c_in=8, c_out=16, size=(8, 8), stride=2, padding=1, act="leaky_relu", alpha=0.2)
    data = with_grad(leaves(row))
    with torch.autocast("cpu", BF16):
        y = ours(row, data, backend)
        (gx,) = grad(y.float().sum(), data["x"], create_graph=True)
        second = grad(gx.square().sum(), data["weight"])
    first = grad(ours(row, data, backend).sum(), list(data.values()))
    assert y.dtype == BF16 and gx.dtype == second[0].dtype == torch.float32
    with torch.autocast("cpu", BF16):
        y = ours(row, data, backend)
    for name, got, want in zip(data, grad(y.float().sum(), list(data.values())), first):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.1, atol=0.05 * want.abs().max().item(), msg=name)
    half = conv_act(torch.randn(1, 2, 4, 4, dtype=FP64), torch.randn(2, 2, 2, 2, dtype=FP64))
    assert half.dtype == FP64


@pytest.mark.parametrize("frozen", ["weight", "x"])
def test_only_what_a_gradient_needs_is_kept(frozen):
    """A frozen discriminator keeps no images; a learned slope keeps the pre-activation."""
    x, weight = torch.randn(2, 3, 6, 6, requires_grad=frozen != "x"), torch.randn(4, 3, 3, 3, requires_grad=frozen != "weight")
    y = conv_act(x, weight, act="relu")
    kept = [t.shape for t in y.grad_fn.saved_tensors if t is not None and t.numel()]
    assert kept == [*([] if frozen == "weight" else [x.shape]), weight.shape, y.shape]


@pytest.mark.parametrize("backend", ["cpu"])
def test_the_data_gradients_backend_is_a_question_of_its_own(monkeypatch, backend):
    """With that backend at hand; without, there is nothing to ask."""
    asked = []
    monkeypatch.setattr(
        choice._tune, "choose", lambda question, candidates, *rest: asked.append(question) or choose(question, candidates, *rest)
    )
    x, weight = torch.randn(2, 3, 6, 7, requires_grad=True), torch.randn(4, 3, 4, 4, requires_grad=True)
    for _ in range(2):
        conv_act(x, weight, stride=2, padding=1, act="relu").sum().backward()
    assert [question.split(" x ")[0] for question in asked] == ["conv_act", "conv_transpose_act", "weight gradient of conv_transpose_act"]
    assert "o(0, 1)" in asked[1], "the row that no window reached"


def test_padding_past_the_kernels_reach_is_made_of_zeros_first():
    """No kernel of a gradient is asked for what only some of them take."""
    assert _check_padding((1, 2), (3, 2), (1, 1), (1, 2)) == ((1, 2), None)
    assert _check_padding((3, 2), (3, 2), (1, 1), (1, 1)) == ((0, 0), [2, 2, 3, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("act", ["linear", "leaky_relu", "prelu", "silu"])
def test_bias_and_activation_as_one_pass(monkeypatch, act, channels_last, dtype):
    """What runs on a GPU, by the CPU's kernel: the convolution without its bias, then bias_act in place."""
    used = []
    monkeypatch.setattr(kernels, "_epilogue", lambda x: used.append(x) or "cpu")
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(5, 7, 3, 2, 1).to(dtype)
    x = torch.randn(2, 5, 9, 8, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    alpha = {"leaky_relu": 0.2, "prelu": torch.rand(7)}.get(act)
    run = lambda backend: conv_act(x, conv.weight, conv.bias, stride=2, padding=1, act=act, alpha=alpha, backend=backend)
    leaves = [conv.weight, conv.bias]
    got = run("torch")
    assert len(used) == (act in ("linear", "leaky_relu"))  # the others keep the pre-activation, bias included
    exact = run("reference")
    torch.testing.assert_close(got, exact, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    for a, b in zip(*(torch.autograd.grad(y.float().square().sum(), leaves) for y in (got, exact))):
        torch.testing.assert_close(a, b, rtol=5e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-1 if dtype == torch.bfloat16 else 1e-4)
