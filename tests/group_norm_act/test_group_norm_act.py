"""group_norm_act and layer_norm_act: values and first gradients of every CPU backend against the oracle; layouts, regimes, edges."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from ganfast._activations import act_fwd
from ganfast.functional import group_norm_act, layer_norm_act
from ganfast.testing import Case, assert_close_to_reference, named, nan_filled
from tests.affine_from_outside import FORMATS, NOTHING, Outside, formula, laid_out

BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])


@dataclass(frozen=True)
class Row(Case):
    shape: tuple[int, ...]
    groups: int
    act: str = "silu"
    alpha: float | str | None = None  # "learned": a [C] tensor
    channels_last: bool = False
    affine: bool = True
    far: float = 0.0  # each group's mean is another multiple of it
    outside: Outside = NOTHING


ROWS = named(
    Row("few groups", (2, 12, 5, 7), 3),
    Row("few groups channels_last", (2, 12, 5, 7), 3, channels_last=True),
    Row("a task a group", (4, 16, 9, 5), 8),
    Row("a task a group, learned", (4, 16, 9, 5), 8, "snake", "learned"),
    Row("instance norm", (3, 6, 4, 4), 6, "tanh"),
    Row("one group", (2, 8, 6, 6), 1, "relu"),
    Row("one group channels_last", (2, 8, 6, 6), 1, "relu", channels_last=True),
    Row("one group, one image", (1, 8, 33, 17), 1, "leaky_relu", 0.2),
    Row("groups that differ", (4, 16, 6, 7), 4, far=300.0),
    Row("groups that differ, channels_last", (4, 16, 6, 7), 4, far=300.0, channels_last=True),
    Row("rows", (37, 24), 1, "gelu"),
    Row("rows in groups", (37, 24), 4, "silu", far=100.0),
    Row("rows, learned", (5, 24), 3, "prelu", "learned"),
    Row("one pixel channels_last", (6, 24, 1, 1), 3, channels_last=True),
    Row("sequences", (8, 6, 37), 3, "elu", 0.7),
    Row("voxels", (2, 6, 3, 4, 5), 2, "softplus", "learned"),
    Row("voxels channels_last", (2, 6, 3, 4, 5), 2, "sigmoid", channels_last=True),
    Row("several blocks an image", (2, 70, 19, 17), 7, "selu", channels_last=True),
    Row("no affine", (4, 16, 5, 5), 8, "linear", affine=False),
    Row("two values", (16, 4, 1, 1), 2, "silu"),
    Row("time embedding", (4, 16, 6, 5), 4, outside=Outside("vectors")),
    Row("time embedding channels_last", (4, 16, 6, 5), 4, channels_last=True, outside=Outside("vectors")),
    Row("time embedding, one image a group", (2, 6, 6, 5), 2, outside=Outside("vectors", "last", 0.5)),
    Row("maps", (3, 8, 5, 6), 4, "leaky_relu", 0.2, outside=Outside("maps")),
    Row("maps and a residual first, channels_last", (3, 8, 5, 6), 4, channels_last=True, outside=Outside("maps", "first", 2**-0.5)),
    Row("a residual", (3, 8, 5, 6), 4, "relu", outside=Outside("", "last")),
    Row("rows, vectors", (9, 12), 4, "relu", outside=Outside("vectors", "first")),
)  # fmt: skip


def inputs(row: Row, dtype: torch.dtype):
    n, c = row.shape[:2]
    of_group = torch.arange(n * row.groups).repeat_interleave(c // row.groups).view(n, c, *[1] * (len(row.shape) - 2))
    x = laid_out((torch.randn(row.shape) * 2 + row.far * of_group).to(dtype), row.channels_last)
    vector = torch.promote_types(dtype, torch.float32)
    weight, bias = (torch.rand(c).to(vector) + 0.5, torch.randn(c).to(vector)) if row.affine else (None, None)
    alpha = torch.rand(c).to(vector) + 0.5 if row.alpha == "learned" else row.alpha
    return [x, weight, bias, alpha, *row.outside.tensors(x, vector)], torch.randn(row.shape).to(dtype)


def run(call, tensors, gy, cast=None):
    """(y, gradients) with leaves cast to `cast`."""
    leaves = [v.detach().to(cast or v.dtype).requires_grad_() if isinstance(v, torch.Tensor) else v for v in tensors]
    y = call(*leaves)
    return [y, *torch.autograd.grad(y, [v for v in leaves if isinstance(v, torch.Tensor)], gy.to(y.dtype))]


def plain(row: Row):
    def call(x, weight, bias, alpha, scale, shift, residual):
        cast = [None if v is None else v.to(x.dtype) for v in (weight, bias)]
        return formula(F.group_norm(x, row.groups, *cast), row.act, alpha, scale, shift, residual, row.outside)

    return call


def fused(row: Row, backend: str):
    def call(x, weight, bias, alpha, scale, shift, residual):
        return group_norm_act(
            x, row.groups, weight, bias, act=row.act, alpha=alpha, scale=scale, shift=shift, residual=residual, backend=backend,
            **row.outside.options(),
        )  # fmt: skip

    return call


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@BACKENDS
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_the_oracle(row, backend, dtype):
    tensors, gy = inputs(row, dtype)
    with nan_filled():
        got = run(fused(row, backend), tensors, gy)
    like, exact = run(plain(row), tensors, gy), run(plain(row), tensors, gy, cast=torch.float64)
    if dtype == torch.float64:  # the oracle's budget is plain torch's error against float64, here none
        torch.testing.assert_close(got, like, rtol=1e-8, atol=1e-8)
    else:
        names = [f"result {i}" for i in range(len(got))]
        assert_close_to_reference(*zip(names, got, like, exact, strict=True))
    if row.channels_last:
        assert got[0].is_contiguous(memory_format=FORMATS[got[0].dim()]) and got[1].is_contiguous(memory_format=FORMATS[got[0].dim()])
    else:
        assert got[0].is_contiguous() and got[1].is_contiguous()


@BACKENDS
@pytest.mark.parametrize("shape, over", [((7, 5, 12), (12,)), ((3, 4, 6), (4, 6)), ((5,), (5,))])
def test_layer_norm(backend, shape, over):
    x, weight, bias, gy = torch.randn(shape) + 3, torch.rand(over), torch.randn(over), torch.randn(shape)
    got = run(lambda x, w, b: layer_norm_act(x, over, w, b, act="silu", backend=backend), (x, weight, bias), gy)
    torch.testing.assert_close(got, run(lambda x, w, b: F.silu(F.layer_norm(x, over, w, b)), (x, weight, bias), gy))


@pytest.mark.parametrize("act", ["linear", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_long_rows(act, dtype):
    """As critics with a layer norm over all of an image have them."""
    x, weight, bias, gy = ((torch.randn(size) + 1).to(dtype) for size in ((3, 20_000), 20_000, 20_000, (3, 20_000)))
    plain = lambda x, w, b: act_fwd(F.layer_norm(x, w.shape, w, b), act)
    got = run(lambda x, w, b: layer_norm_act(x, 20_000, w, b, act=act, backend="cpu"), (x, weight, bias), gy)
    like, exact = (run(plain, (x, weight, bias), gy, cast) for cast in (None, torch.float64))
    assert_close_to_reference(*zip(("y", "gx", "gweight", "gbias"), got, like, exact, strict=True))


def test_channels_of_each_pixel():
    """A layer norm over the channels of channels_last images copies nothing."""
    x = laid_out(torch.randn(2, 8, 5, 5), True)
    with torch.profiler.profile() as profile:
        y = layer_norm_act(x.permute(0, 2, 3, 1), 8, backend="cpu").permute(0, 3, 1, 2)
    assert not [e for e in profile.events() if e.name in ("aten::copy_", "aten::clone")]
    torch.testing.assert_close(y, F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2))
    assert y.stride() == x.stride()


def test_channels_last_is_not_copied():
    x = laid_out(torch.randn(2, 8, 9, 9), True)
    with torch.profiler.profile(record_shapes=True) as profile:
        y = group_norm_act(x, 4, act="silu", backend="cpu")
    assert not [e for e in profile.events() if e.name in ("aten::copy_", "aten::clone") and list(x.shape) in e.input_shapes]
    assert y.stride() == x.stride()


@pytest.mark.parametrize("channels_last", [False, True])
def test_threads_do_not_show(channels_last):
    x = laid_out(torch.randn(4, 32, 40, 40), channels_last).requires_grad_()
    weight, results = torch.rand(32, requires_grad=True), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            y = group_norm_act(x, 8, weight, act="silu", backend="cpu")
            results.append([y, *torch.autograd.grad(y.square().sum(), (x, weight))])
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape, groups", [((1, 4, 200, 200), 1), ((2, 32, 24, 24), 16), ((1, 2, 400, 400), 1)])
def test_large_and_small_groups(shape, groups, channels_last):
    """Both ways of the CPU, one task a group and blocks, at sizes that take them."""
    x = laid_out(torch.randn(shape) + 50, channels_last)
    weight, gy = torch.rand(shape[1]), torch.randn(shape)
    got = run(lambda x, w: group_norm_act(x, groups, w, act="silu", backend="cpu"), (x, weight), gy)
    like = run(lambda x, w: F.silu(F.group_norm(x, groups, w)), (x, weight), gy)
    exact = run(lambda x, w: F.silu(F.group_norm(x, groups, w)), (x, weight), gy, cast=torch.float64)
    assert_close_to_reference(*zip(("y", "gx", "gweight"), got, like, exact, strict=True))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("act", ["silu", "relu"])
def test_what_is_not_finite_stays_in_its_group(act, value):
    x, gy = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    gy[1, 5, 2, 2] = value
    for backend in ("cpu", "reference"):
        leaf = x.clone().requires_grad_()
        group_norm_act(leaf, 4, act=act, backend=backend).backward(gy)
        broken = ~leaf.grad.isfinite()
        assert not broken[0].any() and not broken[1, :4].any() and not broken[1, 6:].any()
        if act == "silu":
            assert broken[1, 4:6].any()


def test_one_value_a_group_gives_the_bias():
    """As torch's, which refuses it of one image alone."""
    x, weight, bias = torch.randn(3, 8, 1, 1), torch.rand(8), torch.randn(8)
    for backend in ("reference", "cpu"):
        got = group_norm_act(x, 8, weight, bias, act="silu", backend=backend)
        torch.testing.assert_close(got, F.silu(F.group_norm(x, 8, weight, bias)))


def test_empty():
    x = torch.empty(0, 8, 4, 4, requires_grad=True)
    weight = torch.rand(8, requires_grad=True)
    y = group_norm_act(x, 4, weight, act="silu")
    assert y.shape == x.shape
    assert [g.shape for g in torch.autograd.grad(y.sum(), (x, weight))] == [x.shape, weight.shape]


@pytest.mark.parametrize(
    ("act", "dtype", "kept"),
    [("silu", torch.bfloat16, 2), ("relu", torch.bfloat16, 1), ("linear", torch.float16, 1), ("silu", torch.float32, 1)],
)
def test_what_the_cpu_keeps(act, dtype, kept):
    """Of half types the slope, where an exponential leads to it; nothing of x's size beside x elsewhere."""
    x, sizes = torch.randn(2, 8, 6, 6, dtype=dtype, requires_grad=True), []

    def pack(t):
        sizes.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        group_norm_act(x, 4, torch.rand(8), act=act, backend="cpu")
    assert sizes.count(x.numel()) == kept


def test_layer_norm_of_what_is_no_tensor_and_of_a_list_of_sizes():
    """Its answers are remembered; what has no hash is looked at each time."""
    x = torch.randn(3, 4)
    for _ in range(2):
        torch.testing.assert_close(layer_norm_act(x, [4]), F.layer_norm(x, [4]))
        with pytest.raises(TypeError, match=r"x is a builtins.list, wants a torch.Tensor"):
            layer_norm_act([1.0, 2.0], 2)
        with pytest.raises(ValueError, match="wants it to end in normalized_shape"):
            layer_norm_act(x, 3)
