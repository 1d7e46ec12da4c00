"""instance_norm_act: values and first gradients of every CPU backend against the oracle; layouts, edges, bad input."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from ganfast.functional import instance_norm_act
from ganfast.ops.batch_norm_act import reference
from ganfast.testing import Case, assert_close_to_reference, named, nan_filled

BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])


@dataclass(frozen=True)
class Row(Case):
    shape: tuple[int, ...]
    act: str = "relu"
    alpha: float | str | None = None  # "learned": a [C] tensor
    channels_last: bool = False
    affine: bool = True
    shift: float = 0.0


ROWS = named(
    Row("pix2pix", (3, 16, 8, 8)),
    Row("pix2pix channels_last", (3, 16, 8, 8), channels_last=True),
    Row("one image", (1, 8, 12, 12), "leaky_relu", 0.2),
    Row("one image channels_last", (1, 8, 12, 12), channels_last=True),
    Row("several blocks an image", (2, 5, 17, 19), "tanh", channels_last=True),
    Row("images that differ", (4, 3, 9, 7), shift=300.0),
    Row("images that differ, channels_last", (4, 3, 9, 7), shift=300.0, channels_last=True),
    Row("short planes", (16, 37, 2, 2), shift=50.0),
    Row("short planes channels_last", (16, 37, 2, 2), shift=50.0, channels_last=True),
    Row("two values", (3, 5, 1, 2), "silu"),
    Row("31 values", (2, 70, 31), "snake", "learned"),
    Row("sequences", (4, 6, 37), "prelu", "learned"),
    Row("unbatched", (6, 37), "elu", 0.7),
    Row("odd and prime", (3, 7, 5, 11), "softplus", "learned"),
    Row("learned channels_last", (3, 7, 5, 11), "prelu", "learned", channels_last=True),
    Row("voxels", (2, 5, 3, 4, 5), "gelu"),
    Row("voxels channels_last", (2, 5, 3, 4, 5), "sigmoid", channels_last=True),
    Row("no affine", (6, 4, 5, 5), "selu", affine=False),
    Row("no affine channels_last", (6, 4, 5, 5), "linear", affine=False, channels_last=True),
    Row("wide", (2, 700, 3, 3), channels_last=True),
)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _inputs(row: Row, dtype: torch.dtype):
    """`shift` moves each image's mean by another multiple of it: 0, 1, 2, ... deviations stay at 2."""
    images = torch.arange(row.shape[0]).view(-1, *[1] * (len(row.shape) - 1))
    x = (torch.randn(row.shape) * 2 + row.shift * images).to(dtype)
    if row.channels_last:
        x = x.contiguous(memory_format=_FORMATS[x.dim()])
    c, vector = row.shape[0 if len(row.shape) == 2 else 1], torch.promote_types(dtype, torch.float32)
    weight, bias = (torch.rand(c).to(vector) + 0.5, torch.randn(c).to(vector)) if row.affine else (None, None)
    alpha = torch.rand(c).to(vector) + 0.5 if row.alpha == "learned" else row.alpha
    return x, weight, bias, alpha, torch.randn(row.shape).to(dtype)


def _run(call, x, weight, bias, alpha, gy, cast=None):
    """(y, gradients) with leaves cast to `cast`."""
    leaves = [v.detach().to(cast or v.dtype).requires_grad_() if isinstance(v, torch.Tensor) else v for v in (x, weight, bias, alpha)]
    y = call(*leaves)
    return [y, *torch.autograd.grad(y, [v for v in leaves if isinstance(v, torch.Tensor)], gy.to(y.dtype))]


def _plain(row: Row):
    def call(x, weight, bias, alpha):
        z = F.instance_norm(x[None] if x.dim() == 2 else x, None, None, weight, bias)
        tensor = alpha if isinstance(alpha, torch.Tensor) else None
        y = reference.act_fwd(z, row.act, tensor, 0.0 if alpha is None or tensor is not None else alpha)
        return y[0] if x.dim() == 2 else y

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@BACKENDS
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_the_oracle(row, backend, dtype):
    inputs = _inputs(row, dtype)
    with nan_filled():
        got = _run(lambda x, w, b, a: instance_norm_act(x, w, b, act=row.act, alpha=a, backend=backend), *inputs)
    plain, exact = _run(_plain(row), *inputs), _run(_plain(row), *inputs, cast=torch.float64)
    if dtype == torch.float64:  # the oracle's budget is plain torch's error against float64, here none
        torch.testing.assert_close(got, plain, rtol=1e-9, atol=1e-9)
    else:
        names = ["y", "gx", *(["gweight", "gbias"] if row.affine else []), "galpha"]
        assert_close_to_reference(*zip(names, got, plain, exact, strict=False))
    fmt = _FORMATS[got[0].dim()] if row.channels_last else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=fmt) and got[1].is_contiguous(memory_format=fmt)


@BACKENDS
def test_one_alpha_for_all_channels(backend):
    x, one = torch.randn(3, 5, 4, 4), torch.full((1,), 0.3, requires_grad=True)
    each = torch.full((5,), 0.3, requires_grad=True)
    for alpha in (one, each):
        instance_norm_act(x, act="prelu", alpha=alpha, backend=backend).square().sum().backward()
    torch.testing.assert_close(one.grad, each.grad.sum(0, keepdim=True))


def test_channels_last_is_not_copied():
    """Eager copies it to contiguous memory and leaves it there."""
    x = torch.randn(3, 8, 9, 9).contiguous(memory_format=torch.channels_last)
    with torch.profiler.profile() as profile:
        y = instance_norm_act(x, act="relu", backend="cpu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not {event.key for event in profile.key_averages()} & {"aten::copy_", "aten::clone", "aten::contiguous"}


@BACKENDS
def test_layouts_that_are_not_dense(backend):
    base = torch.randn(4, 6, 10, 10)
    for x in (base[:, ::2, 1:-1:2], base[:, :1].expand(-1, 3, -1, -1), base.transpose(2, 3), base[:1].expand(3, -1, -1, -1)):
        want = F.relu(F.instance_norm(x))
        torch.testing.assert_close(instance_norm_act(x, act="relu", backend=backend), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_do_not_depend_on_the_number_of_threads_or_on_the_other_images(channels_last):
    x, gy = torch.randn(5, 24, 20, 20), torch.randn(5, 24, 20, 20)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    results, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y = instance_norm_act(leaf, act="tanh", backend="cpu")
        results.append((y.detach(), *torch.autograd.grad(y, leaf, gy)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    if channels_last:  # contiguous channels are dealt to blocks whole, but in another split
        assert torch.equal(results[0][0][3:4], instance_norm_act(x[3:4], act="tanh", backend="cpu"))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (3, 0)])
def test_empty_keeps_gradients(shape):
    weight, x = torch.ones(3, requires_grad=True), torch.empty(shape, requires_grad=True)
    y = instance_norm_act(x, weight, act="prelu", alpha=torch.ones(1))
    y.sum().backward()
    assert y.shape == x.grad.shape == shape and weight.grad.tolist() == [0, 0, 0]


X = torch.randn(4, 3, 5, 5)
BAD = {
    "integers": (lambda: instance_norm_act(X.int()), TypeError, "x has dtype torch.int32, wants float32"),
    "rank": (lambda: instance_norm_act(torch.randn(3)), ValueError, r"x has 1 dimensions, wants 3 to 5: \[N, C, \*spatial\], or 2"),
    "weight length": (lambda: instance_norm_act(X, torch.ones(2)), ValueError, r"weight has shape \(2,\), wants \(3,\)"),
    "unbatched image": (lambda: instance_norm_act(X[0], torch.ones(3)), ValueError, r"wants \(5,\).*image alone wants x.unsqueeze\(0\)"),
    "bias rank": (lambda: instance_norm_act(X, None, torch.ones(3, 1)), ValueError, r"bias has shape \(3, 1\), wants \(3,\)"),
    "one value": (lambda: instance_norm_act(X[:, :, :1, :1]), ValueError, r"one value per image and channel \(shape \(4, 3, 1, 1\)\)"),
    "one value, unbatched": (lambda: instance_norm_act(torch.randn(3, 1)), ValueError, "one value per image and channel"),
    "eps": (lambda: instance_norm_act(X, eps=-1.0), ValueError, "eps is -1.0"),
    "act": (lambda: instance_norm_act(X, act="rleu"), ValueError, "act='rleu' is unknown.*Did you mean 'relu'"),
    "alpha without": (lambda: instance_norm_act(X, act="relu", alpha=0.1), ValueError, "act='relu' has no parameter"),
    "alpha length": (lambda: instance_norm_act(X, act="prelu", alpha=torch.ones(5)), ValueError, r"alpha has shape \(5,\)"),
    "backend elsewhere": (lambda: instance_norm_act(X, backend="cuda"), RuntimeError, "backend 'cuda' cannot run: x is on cpu"),
}  # fmt: skip


@pytest.mark.parametrize("row", BAD)
def test_one_error(row):
    call, error, message = BAD[row]
    for _ in range(2):  # no refusal may be remembered as a plan
        with pytest.raises(error, match=message) as caught:
            call()
        assert str(caught.value).startswith("instance_norm_act: ")
