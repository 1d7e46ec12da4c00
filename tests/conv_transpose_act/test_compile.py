"""The registered ops under opcheck, and the public function under torch.compile(fullgraph=True)."""

import pytest
import torch
from torch.library import opcheck

import ganfast.functional as GF
from ganfast import use_backend
from ganfast.testing import named
from tests.conv_transpose_act.problems import Row, lay_out, leaves, ours, with_grad

# Schemas, fakes and shapes are the same code for every backend: two stand for them in `make test`.
BACKENDS = [pytest.param("reference", marks=pytest.mark.prove), pytest.param("torch", marks=pytest.mark.prove), "cpu"]
ALL = [*BACKENDS, "auto"]
GEOMETRY = ([2, 1], [1, 0], [1, 0], [1, 2], 2)  # stride, padding, output_padding, dilation, groups


def tensors(channels_last: bool, dtype):
    """x [2, 4, 3, 3], weight [4, 5, 3, 2], gz [2, 10, 6, 5], detached."""
    layout = "channels_last" if channels_last else "contiguous"
    new = lambda *size: lay_out(torch.randn(*size), layout).to(dtype)
    return new(2, 4, 3, 3), new(4, 5, 3, 2), new(2, 10, 6, 5), torch.rand(10)


@pytest.mark.parametrize(
    ("channels_last", "dtype"), [(False, torch.float32), (True, torch.bfloat16)], ids=["float32", "bfloat16_channels_last"]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend, channels_last, dtype):
    x, weight, gz, vector = tensors(channels_last, dtype)
    stride, padding, output_padding, dilation, groups = GEOMETRY
    ops, last = torch.ops.ganfast, (channels_last,)
    geometry = (stride, padding, dilation, groups)
    for bias, alpha, act, save_z, partials in [
        (None, None, "linear", False, False),
        (vector, None, "relu", False, True),
        (vector, vector, "snake", True, True),
    ]:
        args = (x, weight, bias, alpha, stride, padding, output_padding, dilation, groups, act, 0.0, channels_last, save_z, partials)
        opcheck(ops.conv_transpose_act_fwd.default, (*args, backend))
        conv = (x, lay_out(torch.randn(10, 2, 3, 2), "contiguous").to(dtype), bias, alpha, *geometry, act, 0.0, channels_last, save_z)
        opcheck(ops.conv_transpose_act_conv.default, (*conv, backend))
    opcheck(ops.conv_transpose_act_data_grad.default, (gz, weight, *geometry, [3, 3], *last, backend))
    opcheck(ops.conv_transpose_act_weight_grad.default, (gz, x, weight, *geometry, *last, backend))


COMPILED = named(
    Row("relu", stride=2, padding=1, act="relu"),
    Row("linear_no_bias", stride=2, bias=False),
    Row("silu_channels_last", c_out=10, stride=2, padding=1, act="silu", layout="channels_last"),
    Row("snake_tensor", stride=2, padding=1, act="snake", alpha="tensor"),
    Row("one_pixel", size=(1, 1), act="tanh"),
    Row("bf16", stride=2, act="gelu", dtype=torch.bfloat16),
    Row("unbatched_length", size=(5,), kernel=(4,), stride=2, act="tanh", layout="unbatched"),
    Row("volume", n=1, size=(2, 2, 2), kernel=(2, 2, 2), stride=2, act="elu"),
)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compile(f, **kwargs):
    return torch.compile(f, backend="aot_eager", fullgraph=True, **kwargs)


def values_and_gradients(f, data):
    tensors = with_grad(data)
    y = f(tensors)
    return [y, *torch.autograd.grad((y.float() ** 2).sum(), list(tensors.values()))]


@pytest.mark.parametrize("row", COMPILED, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_forward_and_backward_are_the_uncompiled(row, backend):
    data = leaves(row)
    f = lambda tensors: ours(row, tensors, backend)
    compiled, direct = values_and_gradients(compile(f), data), values_and_gradients(f, data)
    assert torch.equal(compiled[0], direct[0])
    # A compiled backward passes zeros for z's own gradient, and so sums the bias gradient from gz, after its rounding.
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if row.dtype == torch.float32 else {}
    torch.testing.assert_close(compiled, direct, check_stride=True, **tolerance)


@pytest.mark.parametrize("op", ["conv_transpose_act", "conv_act"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_by_auto(op, dtype):
    """Whatever asks what the processor can do is not traced."""
    f = lambda x, weight: getattr(GF, op)(x, weight, padding=1, act="silu")
    x, weight = torch.randn(2, 4, 6, 6).to(dtype).requires_grad_(), torch.randn(4, 4, 3, 3).to(dtype).requires_grad_()
    found = [torch.autograd.grad(call(x, weight).float().square().sum(), (x, weight)) for call in (compile(f), f)]
    for got, want in zip(*found):
        assert torch.nn.functional.cosine_similarity(got.double().flatten(), want.double().flatten(), 0) > 0.999


@pytest.mark.parametrize("backend", ALL)
def test_other_batches_and_images_do_not_recompile(backend):
    direct = lambda *tensors: GF.conv_transpose_act(*tensors, stride=2, padding=1, act="tanh", backend=backend)
    f = compile(direct, dynamic=True)
    for first, n, size in [(True, 8, (7, 9)), (False, 11, (7, 9)), (False, 3, (10, 12))]:  # equal sizes in the first would be tied
        inputs = list(with_grad(leaves(Row("size", n=n, c_in=3, size=size))).values())
        with torch._dynamo.config.patch(error_on_recompile=not first):
            got, want = f(*inputs), direct(*inputs)
        assert torch.equal(got, want)
        assert all(torch.equal(*pair) for pair in zip(*(torch.autograd.grad(y.sum(), inputs) for y in (got, want))))


@pytest.mark.parametrize("act", ["leaky_relu", "silu"])
@pytest.mark.parametrize("backend", ALL)
def test_an_ordinary_convolution(backend, act):
    tensors = {"x": torch.randn(2, 4, 7, 6), "weight": torch.randn(6, 4, 4, 4) / 8, "bias": torch.randn(6)}
    f = lambda t: GF.conv_act(*t.values(), stride=2, padding=1, act=act, backend=backend)
    compiled, direct = values_and_gradients(compile(f), tensors), values_and_gradients(f, tensors)
    torch.testing.assert_close(compiled, direct, check_stride=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ALL)
def test_an_ordinary_convolution_of_other_batches_and_images_does_not_recompile(backend):
    direct = lambda *tensors: GF.conv_act(*tensors, stride=2, padding=1, act="tanh", backend=backend)
    f = compile(direct, dynamic=True)
    weight = torch.randn(6, 3, 4, 4, requires_grad=True)
    for first, n, size in [(True, 8, (10, 14)), (False, 11, (10, 14)), (False, 3, (12, 18))]:
        inputs = [torch.randn(n, 3, *size, requires_grad=True), weight]
        with torch._dynamo.config.patch(error_on_recompile=not first):
            got, want = f(*inputs), direct(*inputs)
        assert torch.equal(got, want)
        assert all(torch.equal(*pair) for pair in zip(*(torch.autograd.grad(y.sum(), inputs) for y in (got, want))))


@pytest.mark.parametrize("backend", BACKENDS)
def test_use_backend_around_a_compiled_call(backend):
    row = COMPILED[0]
    data = leaves(row)
    f = compile(lambda tensors: ours(row, tensors, None))
    with use_backend(backend):
        assert torch.equal(f(data), ours(row, data, backend))


@pytest.mark.parametrize("backend", ALL)
def test_partials_compile(backend):
    row = COMPILED[0]
    data = leaves(row)
    f = lambda tensors: ours(row, tensors, backend, return_partials=True)
    for a, b in zip(compile(f)(data), f(data)):
        assert torch.equal(a, b) and a.shape == b.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_penalty_through_a_compiled_region_is_refused_by_torch(backend):
    """Not silently wrong: the second order wants an uncompiled network."""
    row = COMPILED[0]
    data = with_grad(leaves(row))
    y = compile(lambda tensors: ours(row, tensors, backend))(data)
    (gx,) = torch.autograd.grad((y**2).sum(), data["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(gx.sum(), data["weight"])


def test_a_wrong_argument_raises_while_compiling():
    with pytest.raises(Exception, match="weight expects Cin=4, x has 3 channels"):
        compile(GF.conv_transpose_act)(torch.randn(1, 3, 2, 2), torch.randn(4, 3, 2, 2))
