"""Derivatives of every order through the public function."""

import itertools

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

import ganfast.functional as GF
from ganfast.testing import assert_close_to_reference, named, nan_filled
from tests.conv_transpose_act.problems import Row, composite, gradient_for, leaves, ours, with_grad
from tests.test_backends import Recorder

BACKENDS = ["reference", "torch", "cpu"]
ALL = [*BACKENDS, "auto"]
FP64, BF16 = torch.float64, torch.bfloat16

TINY = {"n": 1, "c_in": 2, "c_out": 2, "size": (2, 2), "kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "dtype": FP64}
CHECKED = named(
    Row("linear", **TINY),
    Row("linear_no_bias", **TINY, bias=False),
    Row("tanh", **TINY, act="tanh"),
    Row("sigmoid", **TINY, act="sigmoid"),
    Row("relu", **TINY, act="relu"),
    Row("leaky_relu", **TINY, act="leaky_relu", alpha=0.2),
    Row("prelu_tensor", **TINY, act="prelu", alpha="tensor"),
    Row("elu_from_y", **TINY, act="elu", alpha=0.7),
    Row("elu_from_z", **TINY, act="elu", alpha=-0.7),
    Row("elu_tensor", **TINY, act="elu", alpha="tensor"),
    Row("selu", **TINY, act="selu"),
    Row("softplus", **TINY, act="softplus", alpha=2.0),
    Row("softplus_tensor", **TINY, act="softplus", alpha="tensor"),
    Row("silu", **TINY, act="silu"),
    Row("gelu", **TINY, act="gelu"),
    Row("snake", **TINY, act="snake", alpha=0.8),
    Row("snake_tensor", **TINY, act="snake", alpha="tensor"),
    Row("channels_last", **TINY, act="silu", layout="channels_last"),
    Row("unbatched", **TINY, act="tanh", layout="unbatched"),
    Row("one_pixel", **{**TINY, "size": (1, 1), "kernel": (2, 2), "stride": 1, "padding": 0}, act="tanh"),
    Row("groups_dilated", **{**TINY, "groups": 2, "dilation": 2, "output_padding": 1}, act="silu"),
    Row("output_padding_past_stride", **{**TINY, "stride": 1, "dilation": 3, "output_padding": 2, "padding": 2}, act="tanh"),
    Row("length", n=2, c_in=2, c_out=1, size=(3,), kernel=(3,), stride=2, output_padding=1, act="snake", alpha="tensor", dtype=FP64),
    Row("volume", n=1, c_in=1, c_out=2, size=(2, 1, 2), kernel=(2, 2, 1), stride=2, act="tanh", dtype=FP64),
)


def function(row: Row, names, backend):
    return lambda *values: ours(row, dict(zip(names, values)), backend)


@pytest.mark.parametrize("row", CHECKED, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(row, backend):
    data = with_grad(leaves(row))
    f, inputs = function(row, data, backend), tuple(data.values())
    with nan_filled():
        assert gradcheck(f, inputs, fast_mode=backend != "cpu")  # fast: random projections of the Jacobian
        assert gradgradcheck(f, inputs, fast_mode=True)


ORDERS = named(
    Row("tanh", c_in=3, c_out=4, stride=2, padding=1, act="tanh"),
    Row("silu_channels_last", c_in=3, c_out=10, stride=2, padding=1, act="silu", layout="channels_last"),
    Row("snake_tensor", c_in=3, c_out=4, stride=2, padding=1, act="snake", alpha="tensor"),
    Row("softplus_tensor_groups", c_in=4, c_out=6, stride=3, groups=2, act="softplus", alpha="tensor"),
    Row("leaky_relu_length", size=(6,), kernel=(4,), stride=2, act="leaky_relu", alpha=0.2),
    Row("prelu_volume", n=1, size=(2, 2, 3), kernel=(2, 3, 3), stride=2, act="prelu", alpha="tensor"),
    Row("volume_output_padding", n=1, c_in=3, c_out=4, size=(2, 3, 4), kernel=(3, 3, 3), stride=3, padding=2, output_padding=2, act="gelu"),
    Row("one_pixel", c_in=6, c_out=9, size=(1, 1), act="elu", alpha=0.7),
    Row("dilated", kernel=(3, 2), dilation=(2, 4), stride=(4, 2), output_padding=(3, 3), act="sigmoid"),
    Row("sliced", c_in=3, c_out=4, stride=2, padding=1, act="silu", layout="sliced"),
    Row("bf16", c_in=3, c_out=4, stride=2, padding=1, act="tanh", dtype=BF16),
    Row("bf16_channels_last", c_in=8, c_out=12, stride=2, padding=1, act="silu", dtype=BF16, layout="channels_last"),
)


def two_orders(f, row, data, gy, cotangents):
    """Derivatives of <gy, y> + <cotangents, gradients of <gy, y>> in every leaf and in gy: a loss with a penalty, so that y
    is reached both ways."""
    gy = gy.clone().requires_grad_()
    y = f(data)
    first = grad(y, list(data.values()), gy, create_graph=True)
    inner = (gy * y).sum() + sum((u * g).sum() for u, g in zip(cotangents, first))
    wanted = {**data, "gy": gy}
    second = grad(inner, list(wanted.values()), allow_unused=True)
    return {name: torch.zeros_like(t) if g is None else g for (name, t), g in zip(wanted.items(), second)}


@pytest.mark.parametrize("row", ORDERS, ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_the_second_order_is_the_references(row, backend):
    data = leaves(row)
    gy = gradient_for(row, data)
    cotangents = [torch.randn_like(t) for t in data.values()]
    double = lambda ts: [t.double() for t in ts]
    with nan_filled():
        got = two_orders(lambda d: ours(row, d, backend), row, with_grad(data), gy, cotangents)
    plain = two_orders(lambda d: composite(row, d), row, with_grad(data), gy, cotangents)
    exact = two_orders(lambda d: composite(row, d), row, with_grad(data, FP64), gy.double(), double(cotangents))
    assert_close_to_reference(*[(f"second order in {name}", got[name], plain[name], exact[name]) for name in got])


@pytest.mark.parametrize("backend", ALL)
def test_the_third_order_is_the_references(backend):
    row = Row("third", c_in=2, c_out=3, size=(3, 2), stride=2, act="snake", alpha="tensor", dtype=FP64)
    data = leaves(row)

    def third(f):
        tensors = with_grad(data)
        inputs = list(tensors.values())
        value = (f(tensors) ** 2).sum()
        for _ in range(3):
            found = grad(value, inputs, create_graph=True)
            value = sum((g**3).sum() for g in found)
        return found

    torch.testing.assert_close(third(lambda d: ours(row, d, backend)), third(lambda d: composite(row, d)), rtol=1e-10, atol=1e-10)


# An activation of each kind of backward: none, from y, from z, with a learnable alpha.
KINDS = named(
    Row("linear", stride=2, padding=1),
    Row("from_y", stride=2, padding=1, act="tanh"),
    Row("from_z", stride=2, padding=1, act="gelu"),
    Row("alpha", stride=2, padding=1, act="prelu", alpha="tensor"),
)


@pytest.mark.parametrize("row", KINDS, ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_backward_twice_under_retain_graph(row, backend):
    data = with_grad(leaves(row))
    y = ours(row, data, backend)
    gy = torch.randn_like(y)
    first = grad(y, list(data.values()), gy, retain_graph=True)
    created = grad(y, list(data.values()), gy, create_graph=True)
    last = grad(y, list(data.values()), gy)
    assert all(torch.equal(a, b) for a, b in zip(first, last))
    torch.testing.assert_close(created, first, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="second time"):
        grad(y, list(data.values()), gy)


@pytest.mark.parametrize("row", KINDS, ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_any_subset_of_gradients(row, backend):
    data = leaves(row)
    everything = with_grad(data)
    gy = torch.randn_like(ours(row, data, backend))
    whole = dict(zip(everything, grad(ours(row, everything, backend), list(everything.values()), gy)))
    for size in range(1, len(data) + 1):
        for names in itertools.combinations(data, size):
            some = {name: t.clone().requires_grad_(name in names) for name, t in data.items()}
            y = ours(row, some, backend)
            with Recorder() as recorder:
                y.backward(gy)
            assert all(torch.equal(some[name].grad, whole[name]) for name in names)
            assert all(some[name].grad is None for name in data if name not in names)
            ran = {name for name, _ in recorder.calls}
            assert ("conv_transpose_act_data_grad" in ran) == ("x" in names), "work nobody asked for"
            assert ("conv_transpose_act_weight_grad" in ran) == ("weight" in names), "work nobody asked for"


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_graph_without_gradients(backend):
    row = KINDS[2]
    assert ours(row, leaves(row), backend).grad_fn is None
    with torch.no_grad():
        assert ours(row, with_grad(leaves(row)), backend).grad_fn is None
    with torch.inference_mode():
        assert ours(row, leaves(row), backend).is_inference()


@pytest.mark.parametrize("row", [*KINDS, Row("linear_inplace", kernel=(1, 1))], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_writing_into_a_saved_tensor_is_noticed(row, backend):
    data = with_grad(leaves(row))
    y = ours(row, data, backend)
    with torch.no_grad():
        data["weight"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_double_backward_does_not_use_torchs_own_backward(backend):
    """Torch's own backward of a transposed convolution writes out of bounds for some shapes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Transposed(TorchDispatchMode):
        found = False

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default:
                self.found |= args[7]
            return func(*args, **(kwargs or {}))

    row = Row("volume", n=1, c_in=2, c_out=3, size=(2, 2, 2), kernel=(2, 2, 2), stride=2, act="tanh")
    data = with_grad(leaves(row))
    with Transposed() as mode:
        first = grad(ours(row, data, backend).sum(), list(data.values()), create_graph=True)
        second = grad(sum((g**2).sum() for g in first), list(data.values()), create_graph=True)
        grad(sum((g**2).sum() for g in second), list(data.values()))
    assert not mode.found


AUTOCAST = named(
    Row("relu", c_in=16, c_out=9, stride=2, padding=1, act="leaky_relu", alpha=0.2),
    Row("silu", c_in=16, c_out=9, stride=2, padding=1, act="silu", layout="channels_last"),
    Row("snake_tensor", c_in=16, c_out=9, stride=2, padding=1, act="snake", alpha="tensor"),
    Row("rgb", c_in=16, c_out=3, stride=2, padding=1, act="tanh"),
)


@pytest.mark.parametrize("outside", [True, False], ids=["backward_outside", "backward_inside"])
@pytest.mark.parametrize("row", AUTOCAST, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(row, backend, outside):
    data = leaves(row)
    gy = gradient_for(Row(**{**row.__dict__, "dtype": BF16}), data)
    mine, plain, exact = with_grad(data), with_grad(data), with_grad(data, FP64)
    cast = {name: t if name == "alpha" else t.to(BF16) for name, t in plain.items()}
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(row, mine, backend)
        assert y.dtype == BF16
        if not outside:
            grads = grad(y, list(mine.values()), gy)
    if outside:
        grads = grad(y, list(mine.values()), gy)
    plain_y = composite(row, cast)
    want = composite(row, exact)
    plain_grads = grad(plain_y.to(BF16), list(plain.values()), gy)
    want_grads = grad(want, list(exact.values()), gy.double())
    assert all(g.dtype == t.dtype for g, t in zip(grads, data.values()))
    # In float32 leaves only the casts of a bf16 product arrive: judge them as bf16.
    assert_close_to_reference(
        ("y", y, plain_y.to(BF16), want),
        *[(f"g{name}", *(t.to(BF16) for t in pair), exact) for name, pair, exact in zip(data, zip(grads, plain_grads), want_grads)],
    )


@pytest.mark.parametrize("row", AUTOCAST, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_leaves_the_backward_of_a_float32_call_alone(row, backend):
    data = leaves(row)
    cotangents = [torch.randn_like(t) for t in data.values()]

    def both_orders():
        mine = with_grad(data)
        y = ours(row, mine, backend)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            first = grad((y * y).sum(), list(mine.values()), create_graph=True)
            second = grad(sum((u * g).sum() for u, g in zip(cotangents, first)), list(mine.values()))
        return [*first, *second]

    inside = False
    want = both_orders()
    inside = True
    assert all(torch.equal(a, b) for a, b in zip(both_orders(), want))


@pytest.mark.parametrize("row", AUTOCAST, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_double_backward_under_autocast(row, backend):
    """As a gradient penalty in mixed precision does: all inside the region."""
    data = leaves(row)

    def penalty(f, tensors):
        (gx,) = grad(f(tensors).float().sum(), tensors["x"], create_graph=True)
        return grad((gx.double() ** 2).sum(), [tensors["weight"], tensors["x"]], allow_unused=True)

    with torch.autocast("cpu", torch.bfloat16):
        gweight, _ = penalty(lambda d: ours(row, d, backend), with_grad(data))
    want, _ = penalty(lambda d: composite(row, d), with_grad(data, FP64))
    assert gweight.dtype == torch.float32
    assert (gweight - want).norm() < 0.05 * want.norm()


def test_float64_stays_float64_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        y = GF.conv_transpose_act(torch.randn(1, 2, 2, 2, dtype=FP64), torch.randn(2, 2, 2, 2, dtype=FP64))
    assert y.dtype == FP64
