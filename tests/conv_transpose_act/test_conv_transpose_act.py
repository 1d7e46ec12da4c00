"""Values and first gradients of every backend a CPU has, against the oracle, fresh memory filled with NaN."""

import functools

import pytest
import torch

import ganfast.functional as GF
from ganfast._activations import ACTIVATIONS
from ganfast.testing import assert_close_to_reference, named, nan_filled
from tests.conv_transpose_act.problems import Row, composite, eager, gradient_for, leaves, ours, with_grad

BACKENDS = ["reference", "torch", "cpu"]
ALL = [*BACKENDS, "auto"]
BF16, FP16, FP64 = torch.bfloat16, torch.float16, torch.float64

ROWS = named(
    Row("dcgan", c_in=16, c_out=9, stride=2, padding=1, act="relu"),
    Row("dcgan_channels_last", c_in=16, c_out=9, stride=2, padding=1, act="relu", layout="channels_last"),
    Row("dcgan_bf16", c_in=16, c_out=9, stride=2, padding=1, act="relu", dtype=BF16),
    Row("dcgan_bf16_channels_last", c_in=16, c_out=9, stride=2, padding=1, act="relu", dtype=BF16, layout="channels_last"),
    Row("rgb", c_in=8, c_out=3, size=(8, 8), stride=2, padding=1, act="tanh"),
    Row("rgb_channels_last", c_in=8, c_out=3, size=(8, 8), stride=2, padding=1, act="tanh", layout="channels_last"),
    Row("rgb_bf16_channels_last", c_in=8, c_out=3, size=(8, 8), stride=2, padding=1, act="tanh", layout="channels_last", dtype=BF16),
    Row("grey", c_in=8, c_out=1, size=(5, 7), stride=2, padding=1, act="sigmoid", bias=False),
    Row("one_pixel", c_in=10, c_out=16, size=(1, 1), act="relu"),
    Row("one_pixel_channels_last", c_in=10, c_out=16, size=(1, 1), act="relu", layout="channels_last"),
    Row("one_pixel_linear", c_in=10, c_out=16, size=(1, 1), bias=False),
    Row("one_pixel_z", c_in=10, c_out=16, size=(1, 1), act="silu"),
    Row("one_pixel_bf16", c_in=10, c_out=16, size=(1, 1), act="leaky_relu", alpha=0.2, dtype=BF16),
    Row("one_pixel_padded", c_in=10, c_out=16, size=(1, 1), padding=1, act="relu"),
    Row("one_pixel_dilated", c_in=10, c_out=16, size=(1, 1), dilation=2, act="relu"),
    Row("one_pixel_appended", c_in=10, c_out=16, size=(1, 1), stride=2, output_padding=1, act="elu"),
    Row("one_pixel_one_tap", c_in=10, c_out=16, size=(1, 1), kernel=(1, 1), act="elu"),
    Row("one_pixel_groups", c_in=10, c_out=6, size=(1, 1), groups=2, act="selu"),
    Row("odd", n=3, c_in=7, c_out=11, size=(5, 3), kernel=(3, 5), stride=(2, 1), padding=(1, 2), output_padding=(1, 0), act="gelu"),
    Row("prime", n=1, c_in=13, c_out=17, size=(7, 11), kernel=(5, 3), stride=(3, 2), padding=(2, 1), output_padding=(2, 1), act="elu"),
    Row("one_channel", c_in=1, c_out=1, stride=2, padding=1, act="selu"),
    Row("one_tap", c_in=6, c_out=10, kernel=(1, 1), act="relu"),
    Row("stride_over_kernel", kernel=(2, 3), stride=(5, 4), act="softplus"),
    Row("stride_over_kernel_no_bias", kernel=(1, 2), stride=(3, 3), output_padding=2, act="sigmoid", bias=False),
    Row("padding_of_kernel", size=(6, 5), stride=2, padding=3, output_padding=1, act="tanh"),
    Row("dilated", kernel=(3, 2), dilation=(2, 3), act="tanh"),
    Row("dilated_gcd_2", size=(5, 4), kernel=(3, 4), stride=(4, 2), dilation=(2, 4), padding=(3, 1), act="tanh"),
    Row("dilated_gcd_3", size=(4, 4), kernel=(4, 2), stride=(3, 6), dilation=(6, 3), padding=(2, 0), output_padding=(5, 1), act="relu"),
    Row("output_padding_past_stride", kernel=(3, 3), stride=1, dilation=3, output_padding=2, padding=2, act="tanh"),
    Row("output_padding_at_stride_2", kernel=(2, 3), stride=2, dilation=5, output_padding=(4, 2), act="silu"),
    Row("groups", c_in=6, c_out=9, groups=3, stride=2, padding=1, act="relu"),
    Row("groups_channels_last", c_in=6, c_out=9, groups=3, stride=2, padding=1, act="relu", layout="channels_last"),
    Row("depthwise", c_in=4, c_out=4, groups=4, size=(6, 6), stride=2, padding=1, act="leaky_relu"),
    Row("depthwise_multiplier", c_in=3, c_out=12, groups=3, size=(5, 5), kernel=(3, 3), act="snake", alpha="tensor"),
    Row("length", size=(9,), kernel=(5,), stride=3, padding=2, output_padding=1, act="snake"),
    Row("length_rgb", c_in=3, c_out=2, size=(40,), kernel=(4,), stride=2, padding=1, act="tanh"),
    Row("length_dilated_groups", c_in=4, c_out=6, size=(7,), kernel=(4,), stride=2, dilation=2, groups=2, act="prelu", alpha="tensor"),
    Row("volume", n=1, c_in=4, c_out=5, size=(2, 3, 4), kernel=(3, 4, 2), stride=(1, 2, 3), padding=(1, 1, 0), act="relu"),
    Row("volume_channels_last", c_in=4, c_out=9, size=(2, 3, 2), kernel=(4, 4, 4), stride=2, padding=1, act="elu", layout="channels_last"),
    Row("volume_one_pixel", c_in=7, c_out=9, size=(1, 1, 1), kernel=(2, 3, 2), act="relu"),
    Row("volume_output_padding", n=1, c_in=3, c_out=4, size=(2, 3, 4), kernel=(3, 3, 3), stride=3, padding=2, output_padding=2, act="tanh"),
    Row("volume_rgb_voxels", n=1, c_in=6, c_out=1, size=(3, 3, 3), kernel=(4, 4, 4), stride=2, padding=1, act="sigmoid"),
    Row("flat_image", size=(1, 9), kernel=(1, 4), stride=(1, 2), padding=(0, 1), act="relu"),
    Row("tall_image", size=(9, 1), kernel=(4, 1), stride=(2, 1), padding=(1, 0), act="relu"),
    Row("sliced", stride=2, padding=1, act="relu", layout="sliced"),
    Row("sliced_silu", stride=2, padding=1, act="silu", layout="sliced", dtype=BF16),
    Row("transposed", size=(5, 4), stride=2, padding=1, act="tanh", layout="transposed"),
    Row("expanded", n=3, stride=2, padding=1, act="relu", layout="expanded"),
    Row("unbatched", stride=2, padding=1, act="relu", layout="unbatched"),
    Row("unbatched_length", size=(6,), kernel=(4,), stride=2, act="snake", alpha="tensor", layout="unbatched"),
    Row("unbatched_volume", size=(2, 2, 3), kernel=(2, 2, 2), stride=2, act="gelu", layout="unbatched"),
    # Columns of more than 1.5 MiB: several bands of output, which share rows of input
    Row("banded", n=2, c_in=3, c_out=48, size=(26, 24), stride=2, padding=1, act="relu"),
    Row("banded_channels_last", n=1, c_in=3, c_out=48, size=(25, 24), kernel=(5, 4), stride=3, act="relu", layout="channels_last"),
    Row("banded_dilated_rows", n=1, c_in=2, c_out=48, size=(30, 20), stride=(1, 2), dilation=(5, 1), act="tanh"),
    Row("banded_groups", n=1, c_in=4, c_out=80, size=(25, 26), groups=2, stride=2, padding=1, act="relu"),
    Row("banded_rgb", n=1, c_in=4, c_out=3, size=(48, 48), kernel=(8, 8), stride=2, padding=3, act="tanh"),
    Row("banded_rgb_z", n=1, c_in=4, c_out=3, size=(48, 48), kernel=(8, 8), stride=3, output_padding=2, act="silu", layout="channels_last"),
    Row("banded_stride_over_kernel", n=1, c_in=3, c_out=48, size=(40, 40), kernel=(2, 3), stride=(7, 4), act="tanh"),
    Row("banded_length", n=1, c_in=3, c_out=64, size=(1500,), kernel=(5,), stride=2, padding=2, act="tanh"),
    Row("banded_length_few", n=2, c_in=3, c_out=8, size=(3300,), kernel=(16,), stride=4, padding=6, act="tanh"),
    Row("banded_volume", n=1, c_in=2, c_out=20, size=(12, 6, 5), kernel=(4, 4, 4), stride=2, padding=1, act="relu"),
    Row("many_images", n=41, c_in=3, c_out=10, size=(4, 4), stride=2, padding=1, act="relu"),
    Row("float64", c_in=16, c_out=9, stride=2, padding=1, act="gelu", dtype=FP64),
    Row("float64_one_pixel", c_in=10, c_out=16, size=(1, 1), act="tanh", dtype=FP64),
    Row("float16", c_in=16, c_out=9, stride=2, padding=1, act="relu", dtype=FP16),
    Row("float16_channels_last", c_in=16, c_out=9, stride=2, padding=1, act="silu", dtype=FP16, layout="channels_last"),
    Row("float16_volume", n=1, c_in=4, c_out=5, size=(2, 3, 4), kernel=(3, 4, 2), stride=(1, 2, 3), act="gelu", dtype=FP16),
    Row("bfloat16_length", size=(9,), kernel=(5,), stride=3, padding=2, output_padding=1, act="snake", dtype=BF16),
    Row("bfloat16_volume", n=1, c_in=4, c_out=5, size=(2, 3, 4), kernel=(3, 4, 2), stride=(1, 2, 3), act="gelu", dtype=BF16),
    Row("bfloat16_groups", c_in=6, c_out=9, groups=3, stride=2, padding=1, act="relu", dtype=BF16),
    Row("deep_bf16", n=4, c_in=192, c_out=24, stride=2, padding=1, act="relu", dtype=BF16, layout="channels_last"),
    *[
        Row(f"{act}_{alpha}_{layout}", c_in=6, c_out=10, stride=2, padding=1, act=act, alpha=alpha, layout=layout)
        for act, entry in ACTIVATIONS.items()
        for alpha in ([None] if entry.default_alpha is None else [None, 0.3, "tensor"])
        for layout in ("contiguous", "channels_last")
    ],
    *[Row(f"{act}_negative", c_out=10, act=act, alpha=-0.5) for act in ("leaky_relu", "prelu", "elu", "snake")],
    *[Row(f"{act}_bf16", act=act, stride=2, alpha="tensor", dtype=BF16) for act in ("prelu", "elu", "softplus", "snake")],
    *[Row(f"{act}_float64", act=act, stride=2, alpha="tensor", dtype=FP64) for act in ("leaky_relu", "snake")],
)


def expected_format(row: Row) -> torch.memory_format:
    if row.layout != "channels_last":
        return torch.contiguous_format
    return torch.channels_last if len(row.kernel) == 2 else torch.channels_last_3d


@functools.cache
def expected(row: Row):
    """(leaves, gy, plain [y, *gradients], exact [y, *gradients]), the same for every backend."""
    torch.manual_seed(1)
    data = leaves(row)
    gy = gradient_for(row, data)
    plain, exact = with_grad(data), with_grad(data, FP64)
    want = composite(row, exact)
    want_grads = torch.autograd.grad(want, list(exact.values()), gy.double())
    plain_grads = torch.autograd.grad(composite(row, plain), list(plain.values()), gy)
    with torch.no_grad():
        plain_y = eager(row, plain)
    return data, gy, [plain_y, *plain_grads], [want, *want_grads]


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(row, backend):
    data, gy, plain, exact = expected(row)
    mine = with_grad(data)
    with nan_filled():
        y = ours(row, mine, backend)
        grads = torch.autograd.grad(y, list(mine.values()), gy)
    assert_close_to_reference(*zip(["y", *(f"g{name}" for name in data)], [y, *grads], plain, exact))
    batched = y[None] if row.layout == "unbatched" else y
    assert batched.is_contiguous(memory_format=expected_format(row)), "output strides depend on the backend"
    with nan_filled(), torch.no_grad():
        assert torch.equal(ours(row, mine, backend), y), "without gradients another value"


SMALL = Row("small", c_in=3, c_out=4, stride=2, padding=1, act="relu")


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("spread", [True, False], ids=["expanded", "sliced"])
def test_a_gradient_in_any_layout(backend, spread):
    data = leaves(SMALL)
    y = ours(SMALL, with_grad(data), backend)
    gy = torch.randn(1, y.shape[1], 1, 1).expand_as(y) if spread else torch.randn(*y.shape, 2)[..., 0].flip(0)
    results = []
    for given in (gy, gy.contiguous()):
        mine = with_grad(data)
        results.append(torch.autograd.grad(ours(SMALL, mine, backend), list(mine.values()), given))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(
    "row",
    named(
        SMALL,
        Row("channels_last", c_in=3, c_out=4, stride=2, act="tanh", layout="channels_last"),
        Row("length", size=(6,), kernel=(3,), act="prelu", alpha="tensor"),
        Row("volume", size=(2, 2, 2), kernel=(3, 3, 3)),
        Row("bf16", act="gelu", dtype=BF16),
    ),
    ids=str,
)
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(backend, row):
    data = leaves(row)
    shape = ours(row, data, backend).shape[1:]
    data["x"] = data["x"][:0]
    mine = with_grad(data)
    y, partials = ours(row, mine, backend, return_partials=True)
    assert y.shape == (0, *shape) and y.dtype == row.dtype and not partials.any() and partials.shape == (1, 3, row.c_out)
    with nan_filled():
        grads = torch.autograd.grad(y.sum(), list(mine.values()))
    assert all(g.shape == t.shape and g.dtype == t.dtype and not g.any() for g, t in zip(grads, mine.values()))
    assert ours(row, data, backend).shape == (0, *shape)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(
    "row",
    named(
        Row("contiguous", n=3, c_in=4, c_out=5, size=(5, 7), stride=2, padding=1, act="relu"),
        Row("channels_last", n=3, c_in=4, c_out=9, size=(5, 7), stride=2, padding=1, act="relu", layout="channels_last"),
        Row("many_blocks_channels_last", n=2, c_in=2, c_out=3, size=(19, 31), stride=2, act="linear", layout="channels_last"),
        Row("one_pixel", n=7, c_in=4, c_out=5, size=(1, 1), act="linear"),
        Row("one_value", n=1, c_in=4, c_out=5, size=(1, 1), kernel=(1, 1)),
        Row("length", n=2, size=(9,), kernel=(4,), stride=2, act="snake"),
        Row("volume_unbatched", size=(2, 3, 2), kernel=(3, 3, 3), layout="unbatched"),
        Row("bf16", n=3, c_in=4, c_out=5, size=(5, 7), stride=2, padding=1, act="relu", dtype=BF16),
        Row("fp16_channels_last", n=3, c_in=4, c_out=5, size=(5, 7), stride=2, act="silu", dtype=FP16, layout="channels_last"),
        Row("float64", n=3, c_in=4, c_out=5, size=(5, 7), stride=2, dtype=FP64),
    ),
    ids=str,
)
def test_partials_are_the_moments_of_the_rounded_output(row, backend):
    data = leaves(row)
    data["bias"] = data["bias"] + 12  # a mean far from 0: sums of squares would cancel
    with nan_filled():
        y, partials = ours(row, with_grad(data), backend, return_partials=True)
    assert torch.equal(y, ours(row, data, backend)), "partials change the output"
    assert not partials.requires_grad and partials.dim() == 3 and partials.shape[1:] == (3, row.c_out)
    acc = torch.promote_types(row.dtype, torch.float32)
    assert partials.dtype == acc
    values = (y[None] if row.layout == "unbatched" else y).detach().transpose(0, 1).flatten(1)
    count, mean, m2 = partials.double().unbind(1)
    n = count.sum(0)
    assert n.tolist() == [values.shape[1]] * row.c_out
    merged = (count * mean).sum(0) / n
    variance = (m2.sum(0) + (count * (mean - merged) ** 2).sum(0)) / n
    plain_var, plain_mean = torch.var_mean(values.to(acc), 1, correction=0)
    exact_var, exact_mean = torch.var_mean(values.double(), 1, correction=0)
    # Judged as batch norm uses them: how far a variance may be off depends on how far the mean is from 0.
    normalise = lambda var, mu, dtype: (values.to(dtype) - mu.to(dtype)[:, None]) * (var.to(dtype) + 1e-5)[:, None].rsqrt()
    assert_close_to_reference(
        ("mean", merged.to(acc), plain_mean, exact_mean),
        ("normalised", normalise(variance, merged, acc), normalise(plain_var, plain_mean, acc), normalise(exact_var, exact_mean, FP64)),
    )


@pytest.mark.parametrize("backend", ALL)
def test_nan_goes_in_and_out(backend):
    data = leaves(SMALL)
    data["x"][1, 0, 0, 0] = float("nan")
    y = ours(SMALL, data, backend)
    assert torch.equal(y.isnan(), composite(SMALL, data).isnan()) and y.isnan().any() and not y[0].isnan().any()


@pytest.mark.parametrize("backend", ALL)
def test_the_inputs_are_not_written_and_the_output_is_fresh(backend):
    for row in (SMALL, Row("same", c_in=4, c_out=4, kernel=(1, 1), bias=False), Row("elu", act="elu", layout="channels_last")):
        data = leaves(row)
        before = {name: t.clone() for name, t in data.items()}
        mine = with_grad(data)
        y = ours(row, mine, backend)
        y.sum().backward()
        assert all(torch.equal(mine[name].detach(), t) for name, t in before.items())
        assert all(y.data_ptr() != t.data_ptr() for t in mine.values())


@pytest.mark.parametrize("backend", ALL)
def test_the_same_call_gives_the_same_bits(backend):
    row = Row("threads", n=4, c_in=16, c_out=12, size=(9, 9), stride=2, padding=1, act="snake", alpha="tensor", layout="channels_last")
    data = leaves(row)
    runs = []
    for _ in range(2):
        mine = with_grad(data)
        y, partials = ours(row, mine, backend, return_partials=True)
        runs.append([y, partials, *torch.autograd.grad((y * y).sum(), list(mine.values()))])
    assert all(torch.equal(a, b) for a, b in zip(*runs))


@pytest.mark.parametrize("backend", ALL)
def test_alpha_may_have_one_element_and_parameters_of_another_float_type_follow_x(backend):
    x, weight = torch.randn(2, 3, 3, 3).bfloat16(), torch.randn(3, 4, 2, 2).bfloat16()
    one = torch.tensor([0.2], requires_grad=True)
    y = GF.conv_transpose_act(x, weight, act="prelu", alpha=one, backend=backend)
    torch.testing.assert_close(y, GF.conv_transpose_act(x, weight, act="prelu", alpha=0.2, backend=backend))
    (galpha,) = torch.autograd.grad(y.float().sum(), one)
    scalar = GF.conv_transpose_act(x, weight, act="prelu", alpha=torch.tensor(0.2), backend=backend)
    assert torch.equal(scalar, y) and galpha.shape == (1,) and galpha.dtype == torch.float32 and galpha.item() != 0
