"""Values, running statistics and first gradients of every CPU backend against the oracle; torch's own options."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from ganfast.functional import batch_norm_act, conv_transpose_act
from ganfast.ops.batch_norm_act import reference
from ganfast.testing import Case, assert_close_to_reference, named, nan_filled


@dataclass(frozen=True)
class Row(Case):
    shape: tuple[int, ...]
    act: str = "relu"
    alpha: float | str | None = None  # "learned": a [C] tensor
    channels_last: bool = False
    affine: bool = True
    shift: float = 0.0


ROWS = named(
    Row("dcgan", (8, 16, 8, 8)),
    Row("dcgan channels_last", (8, 16, 8, 8), channels_last=True),
    Row("far from zero", (16, 5, 9, 7), shift=300.0),
    Row("far from zero, channels_last", (16, 5, 9, 7), shift=300.0, channels_last=True),
    Row("odd and prime", (3, 7, 5, 11), "leaky_relu", 0.2),
    Row("many rows a channel", (4, 3, 30, 11), "tanh", channels_last=True),
    Row("vectors", (33, 6), "gelu"),
    Row("sequences", (4, 6, 31), "snake", "learned"),
    Row("voxels", (2, 5, 3, 4, 5), "prelu", "learned"),
    Row("voxels channels_last", (2, 5, 3, 4, 5), "silu", channels_last=True),
    Row("no affine", (6, 4, 5, 5), "elu", 0.7, affine=False),
    Row("softplus learned", (6, 4, 5, 5), "softplus", "learned"),
    Row("sigmoid", (6, 4, 5, 5), "sigmoid"),
    Row("selu", (6, 4, 5, 5), "selu"),
    Row("linear", (6, 4, 5, 5), "linear"),
    Row("planes learned", (3, 4, 7, 9), "prelu", "learned"),
    Row("short planes, several blocks", (70, 300, 4, 4)),
    Row("short planes far from zero", (16, 5, 3, 7), shift=300.0),
    Row("wide", (2, 700, 3, 3), channels_last=True),
)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _inputs(row: Row, dtype: torch.dtype):
    x = (torch.randn(row.shape) * 2 + row.shift).to(dtype)
    if row.channels_last:
        x = x.contiguous(memory_format=_FORMATS[x.dim()])
    c, vector = row.shape[1], torch.promote_types(dtype, torch.float32)
    weight, bias = (torch.rand(c).to(vector) + 0.5, torch.randn(c).to(vector)) if row.affine else (None, None)
    alpha = torch.rand(c).to(vector) + 0.5 if row.alpha == "learned" else row.alpha
    return x, weight, bias, alpha, torch.randn(row.shape).to(dtype)


def _run(call, x, weight, bias, alpha, gy, cast=None):
    """(y, running statistics, gradients) with leaves cast to `cast`."""
    leaves = [x, weight, bias, alpha]
    leaves = [v.detach().to(cast or v.dtype).requires_grad_() if isinstance(v, torch.Tensor) else v for v in leaves]
    vector = cast or torch.promote_types(x.dtype, torch.float32)
    running = torch.zeros(x.shape[1], dtype=vector), torch.ones(x.shape[1], dtype=vector)
    y = call(*leaves, *running)
    wanted = [v for v in leaves if isinstance(v, torch.Tensor)]
    return [y, *running, *torch.autograd.grad(y, wanted, gy.to(y.dtype))]


def _plain(row: Row, training: bool):
    def call(x, weight, bias, alpha, mean, var):
        z = F.batch_norm(x, mean, var, weight, bias, training=training, momentum=0.3)
        tensor = alpha if isinstance(alpha, torch.Tensor) else None
        default = {"leaky_relu": 0.01, "elu": 1.0}.get(row.act, 0.0)
        return reference.act_fwd(z, row.act, tensor, default if alpha is None or tensor is not None else alpha)

    return call


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_the_oracle(row, backend, dtype, training):
    inputs = _inputs(row, dtype)
    fused = lambda x, w, b, a, m, v: batch_norm_act(x, m, v, w, b, training=training, momentum=0.3, act=row.act, alpha=a, backend=backend)
    with nan_filled():
        got = _run(fused, *inputs)
    plain = _run(_plain(row, training), *inputs)
    exact = _run(_plain(row, training), *inputs, cast=torch.float64)
    names = ["y", "running_mean", "running_var", "gx", "gweight", "gbias", "galpha"]
    if dtype == torch.float64:  # the oracle's budget is plain torch's error against float64, here none
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-10)
    else:
        assert_close_to_reference(*zip(names, got, plain, exact, strict=False))
    if row.channels_last:
        assert got[0].is_contiguous(memory_format=_FORMATS[got[0].dim()])


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_partials_of_the_convolution_replace_a_pass(backend, channels_last):
    x, weight = torch.randn(6, 8, 5, 5), torch.randn(8, 12, 4, 4)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    z, partials = conv_transpose_act(x, weight, stride=2, padding=1, return_partials=True, backend=backend)
    running = [torch.zeros(12), torch.ones(12)]
    own = [v.clone() for v in running]
    with_partials = batch_norm_act(z, *running, training=True, partials=partials, backend=backend)
    without = batch_norm_act(z, *own, training=True, backend=backend)
    torch.testing.assert_close(with_partials, without, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(running, own, rtol=1e-5, atol=1e-6)
    scaled = partials.clone()
    scaled[:, 2] *= 1.1  # they are used, not recomputed
    assert not torch.allclose(batch_norm_act(z, None, None, training=True, partials=scaled, backend=backend), without, rtol=1e-4)
    split = torch.cat([_moments(z[:2]), _moments(z[2:])])  # tiles merge to the whole
    torch.testing.assert_close(batch_norm_act(z, None, None, training=True, partials=split, backend=backend), without, rtol=1e-5, atol=1e-5)


def _moments(z):
    flat = z.transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    return torch.stack([torch.full_like(mean, flat.shape[1]), mean, (flat - mean[:, None]).square().sum(1)])[None]


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_layouts_that_are_not_dense(backend):
    base = torch.randn(4, 6, 10, 10)
    for x in (base[:, ::2, 1:-1:2], base[:, :1].expand(-1, 3, -1, -1), base.transpose(2, 3)):
        want = F.relu(F.batch_norm(x, None, None, training=True))
        torch.testing.assert_close(batch_norm_act(x, None, None, training=True, act="relu", backend=backend), want, rtol=1e-5, atol=1e-5)


def test_sums_do_not_depend_on_the_number_of_threads():
    x, gy = torch.randn(16, 24, 20, 20).contiguous(memory_format=torch.channels_last), torch.randn(16, 24, 20, 20)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y = batch_norm_act(leaf, None, None, training=True, act="tanh", backend="cpu")
        results.append((y.detach(), *torch.autograd.grad(y, leaf, gy)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_empty_batch_keeps_gradients_and_statistics():
    weight, running = torch.ones(3, requires_grad=True), [torch.zeros(3), torch.ones(3)]
    y = batch_norm_act(torch.empty(0, 3, 4, 4), *running, weight, training=True)
    y.sum().backward()
    assert y.shape == (0, 3, 4, 4) and weight.grad.tolist() == [0, 0, 0] and running[1].tolist() == [1, 1, 1]
