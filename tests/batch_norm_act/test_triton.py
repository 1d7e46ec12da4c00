"""batch_norm_act's Triton kernels, interpreted, against plain torch in float64."""

import pytest
import torch

from ganfast import _activations
from tests.triton_interpreter import assert_close, assert_layout, backend, in_layout, interpreted  # noqa: F401

# elu and selu take exp of large numbers in lanes that tl.where then drops; numpy, which interprets, says so.
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:overflow encountered in exp")]

# name: (shape, channels_last)
CASES = {
    "odd": ((3, 5, 7, 11), False),
    "odd_last": ((3, 5, 7, 11), True),
    "one_pixel": ((6, 9, 1, 1), False),
    "one_pixel_last": ((6, 9, 1, 1), True),
    "one_channel": ((5, 1, 13, 3), False),
    "long_rows": ((2, 3, 1300), False),
    "3d": ((2, 6, 3, 5, 2), False),
    "3d_last": ((2, 70, 3, 3, 5), True),
}
ROWS = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=[False, True], ids=["one_block", "looping"])
def plan(request, monkeypatch):
    """`looping`: small tiles, several a program, the last program wholly off the end, more partials than the merging kernel takes
    at once (long_rows), and 64-bit offsets."""
    if request.param:
        from ganfast import _triton

        op = backend("batch_norm_act")
        monkeypatch.setattr(op, "tile_shape", lambda rows, c, last: (16, 4))
        monkeypatch.setattr(op, "chunks", lambda rows, block, c_blocks: (-(-rows // (16 * 2)) + 1, 2))
        monkeypatch.setattr(_triton, "wide_from", 0)


def make(name, dtype=torch.float32):
    shape, channels_last = CASES[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    c = shape[1]
    x = in_layout((torch.randn(shape, generator=generator) * 2 + 3).to(dtype), channels_last)
    gy = in_layout((torch.randn(shape, generator=generator) + 0.5).to(dtype), channels_last)
    weight, bias, alpha = (torch.rand(c, generator=generator) + 0.5 for _ in range(3))
    return x, gy, weight, bias, alpha, channels_last


def moments(x):
    values = x.double().movedim(1, 0).flatten(1)
    return values.mean(1), values.var(1, correction=0)


def column(v, x):
    return v.double().view(1, -1, *[1] * (x.dim() - 2))


@ROWS
@pytest.mark.usefixtures("plan")
def test_statistics(name):
    x, *_, channels_last = make(name)
    mean, var = backend("batch_norm_act").batch_norm_act_stats_triton(x, False, channels_last)
    want_mean, want_var = moments(x)
    assert_close(mean, want_mean, "mean")
    assert_close(var, want_var, "variance")


@pytest.mark.parametrize("name", ["odd", "odd_last"])
@pytest.mark.usefixtures("plan")
def test_statistics_of_a_large_mean(name):
    """Mean 4096, deviation 1: E[x^2] - E[x]^2 keeps no digit of the variance in float32."""
    x, *_, channels_last = make(name)
    x = (x - 3) / 2 + 4096
    mean, var = backend("batch_norm_act").batch_norm_act_stats_triton(x, False, channels_last)
    assert_close(mean, moments(x)[0], "mean")
    assert_close(var, moments(x)[1], "variance", floor=1024.0)  # a lane's mean rounds by 2e-4


def test_statistics_fp16():
    x, *_ = make("odd", torch.float16)
    mean, var = backend("batch_norm_act").batch_norm_act_stats_triton(x, False, False)
    assert mean.dtype == var.dtype == torch.float32
    assert_close(mean, moments(x)[0], "mean")
    assert_close(var, moments(x)[1], "variance")


ALPHAS = {"leaky_relu": 0.2, "prelu": 0.3, "elu": 1.3, "softplus": 1.5, "snake": 0.7}


def formula(x, mean, invstd, weight, bias, alpha, act, value):
    z = (x - column(mean, x)) * column(invstd, x)
    z = z if weight is None else z * column(weight, x)
    return _activations.act_fwd(z if bias is None else z + column(bias, x), act, alpha, value)


@ROWS
@pytest.mark.usefixtures("plan")
def test_forward(name):
    x, _, weight, bias, _, channels_last = make(name)
    mean, var = moments(x)
    mean, invstd = mean.float(), (var + 1e-5).rsqrt().float()
    op = backend("batch_norm_act")
    y = op.batch_norm_act_fwd_triton(x, mean, invstd, weight, bias, None, "relu", 0.0, channels_last)
    assert_close(y, formula(x.double(), mean, invstd, weight, bias, None, "relu", 0.0), "y")
    assert_layout(y, channels_last)
    y = op.batch_norm_act_fwd_triton(x, mean, invstd, None, None, None, "linear", 0.0, channels_last)
    assert_close(y, formula(x.double(), mean, invstd, None, None, None, "linear", 0.0), "y, no affine")


def reference_backward(x, gy, weight, bias, alpha, act, value, training):
    """Autograd in float64, the statistics part of the graph in training only: (mean, invstd), (gx, gweight, gbias, galpha)."""
    x64 = x.double().requires_grad_()
    leaves = [x64] + [t.double().requires_grad_() for t in (weight, bias, alpha) if t is not None]
    over = [d for d in range(x.dim()) if d != 1]
    mean, var = (x64.mean(over), x64.var(over, correction=0)) if training else (x64.detach().mean(over) + 0.1, x64.detach().var(over) * 1.1)
    invstd = (var + 1e-5).rsqrt()
    y = formula(x64, mean, invstd, *leaves[1:3], leaves[3] if alpha is not None else None, act, value)
    grads = torch.autograd.grad(y, leaves, gy.double())
    return (mean.detach().float(), invstd.detach().float()), grads


@pytest.mark.pairs
@ROWS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.usefixtures("plan")
def test_backward(name, training):
    x, gy, weight, bias, alpha, channels_last = make(name)
    statistics, want = reference_backward(x, gy, weight, bias, alpha, "prelu", 0.0, training)
    op = backend("batch_norm_act")
    got = op.batch_norm_act_bwd_triton(gy, x, *statistics, weight, bias, alpha, "prelu", 0.0, training, channels_last)
    for g, w, what in zip(got, want, ("gx", "gweight", "gbias", "galpha")):
        assert_close(g, w, what, floor=64.0)
    assert_layout(got[0], channels_last)


@pytest.mark.parametrize("act", list(_activations.ACTIVATIONS))
def test_activations(act):
    """Forward and backward of every activation, alpha a float, the parameters' gradients always returned."""
    x, gy, weight, bias, _, _ = make("odd")
    value = ALPHAS.get(act, 0.0)
    (mean, invstd), want = reference_backward(x, gy, weight, bias, None, act, value, True)
    op = backend("batch_norm_act")
    y = op.batch_norm_act_fwd_triton(x, mean, invstd, weight, bias, None, act, value, False)
    assert_close(y, formula(x.double(), mean, invstd, weight, bias, None, act, value), "y")
    *got, galpha = op.batch_norm_act_bwd_triton(gy, x, mean, invstd, weight, bias, None, act, value, True, False)
    for g, w, what in zip(got, want, ("gx", "gweight", "gbias")):
        assert_close(g, w, what, floor=64.0)
    assert galpha.shape == (0,) and galpha.dtype == torch.float32


@pytest.mark.parametrize("act", ["elu", "softplus", "snake"])
def test_alpha_gradient(act):
    x, gy, weight, bias, alpha, _ = make("odd")
    statistics, want = reference_backward(x, gy, weight, bias, alpha, act, 0.0, True)
    got = backend("batch_norm_act").batch_norm_act_bwd_triton(gy, x, *statistics, weight, bias, alpha, act, 0.0, True, False)
    assert_close(got[3], want[3], "galpha", floor=64.0)
    assert_close(got[0], want[0], "gx", floor=64.0)


def test_fp16():
    x, gy, weight, bias, _, channels_last = make("odd_last", torch.float16)
    (mean, invstd), want = reference_backward(x, gy, weight, bias, None, "leaky_relu", 0.2, True)
    op = backend("batch_norm_act")
    y = op.batch_norm_act_fwd_triton(x, mean, invstd, weight, bias, None, "leaky_relu", 0.2, channels_last)
    assert y.dtype == torch.float16
    assert_close(y, formula(x.double(), mean, invstd, weight, bias, None, "leaky_relu", 0.2), "y")
    gx, gweight, gbias, _ = op.batch_norm_act_bwd_triton(gy, x, mean, invstd, weight, bias, None, "leaky_relu", 0.2, True, channels_last)
    assert gx.dtype == torch.float16 and gweight.dtype == gbias.dtype == torch.float32
    assert_close(gx, want[0], "gx")
    assert_close(gweight, want[1], "gweight", floor=64.0)
    assert_close(gbias, want[2], "gbias", floor=64.0)


# name: (shape, channels_last): every image's statistics its own. Columns of several images in one tile wherever C is no power of two.
IMAGES = {
    "odd": ((3, 5, 7, 11), False),
    "odd_last": ((3, 5, 7, 11), True),
    "2x2": ((4, 9, 2, 2), False),
    "2x2_last": ((4, 9, 2, 2), True),
    "wide_last": ((2, 70, 3, 3, 5), True),
    "sequences": ((2, 3, 130), False),
}


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.usefixtures("plan")
def test_instance_norm(name, dtype, monkeypatch):
    """Through the public function: y and all gradients, the images' means far apart."""
    from ganfast.functional import instance_norm_act

    monkeypatch.setitem(CASES, name, IMAGES[name])
    x, gy, weight, bias, alpha, channels_last = make(name, dtype)
    x = x + 20 * torch.arange(len(x)).view(-1, *[1] * (x.dim() - 1)).to(dtype)
    results = []
    for cast in (None, torch.float64):
        leaves = [t.detach().to(cast or t.dtype).requires_grad_() for t in (x, weight, bias, alpha)]
        if cast is None:
            y = instance_norm_act(*leaves[:3], act="prelu", alpha=leaves[3], backend="triton")
            assert_layout(y, channels_last)
        else:
            z = torch.nn.functional.instance_norm(leaves[0], None, None, *leaves[1:3])
            y = torch.where(z > 0, z, z * leaves[3].view(1, -1, *[1] * (z.dim() - 2)))
        results.append([y.detach(), *torch.autograd.grad(y, leaves, gy.to(y.dtype))])
    for got, want, what in zip(*results, ("y", "gx", "gweight", "gbias", "galpha"), strict=True):
        assert_close(got, want, what, floor=128.0)


def test_more_channels_than_one_axis_of_the_grid(monkeypatch):
    """65535 blocks of channels are the most that an axis takes; images times channels are more."""
    op = backend("batch_norm_act")
    rows, inner, columns, image = op.plan_of(torch.empty(400_000, 3, 1, 2, device="meta"), True, False)[0]
    grid = op.plan_of(torch.empty(400_000, 3, 1, 600, device="meta"), True, False)[1]
    assert (rows, inner, columns, image) == (2, 2, 1_200_000, None) and max(grid) <= 65535 and grid[0] * grid[1] * 4 >= 1_200_000
    monkeypatch.setattr(op, "tile_shape", lambda rows, c, last: (16, 4))
    monkeypatch.setattr(op, "MOST_BLOCKS", 2)  # three rows of blocks, the last one half off the end
    x = torch.randn(4, 5, 3, 3)
    mean, var = op.batch_norm_act_stats_triton(x, True, False)
    assert_close(mean, x.double().mean((2, 3)).flatten(), "mean")
    assert_close(var, x.double().var((2, 3), correction=0).flatten(), "variance")
