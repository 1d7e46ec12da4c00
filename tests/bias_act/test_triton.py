"""bias_act's Triton kernels, interpreted, against plain torch in float64."""

import pytest
import torch

from ganfast import _activations
from ganfast.ops.bias_act import kernels, reference
from tests.triton_interpreter import (  # noqa: F401
    ACTS,
    ALPHAS,
    activation_input,
    assert_close,
    assert_layout,
    backend,
    in_layout,
    interpreted,
    relative,
)

# elu and selu take exp of large numbers in lanes that tl.where then drops; numpy, which interprets, says so.
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:overflow encountered in exp")]

# name: (shape, channels_last)
TILES = {
    "2d": ((3, 5, 7, 11), False),
    "2d_last": ((3, 5, 7, 11), True),
    "1d": ((2, 3, 700), False),
    "3d_last": ((2, 70, 3, 3, 5), True),
    "rows": ((37, 9), False),
}
SHAPES = pytest.mark.parametrize("shape, channels_last", TILES.values(), ids=TILES)
ALONE = (None, False, 1.0, False)  # no residual, no signs
GAINS = pytest.mark.parametrize("gain, clamp", [(1.0, None), (2**0.5, 1.1), (-0.5, 0.3), (0.0, 0.2)])


@pytest.fixture(params=[False, True], ids=["one_block", "looping"])
def plan(request, monkeypatch):
    """`looping`: several tiles a program, the last program wholly off the end, more partials than the finishing kernel takes at once
    (1d), 64-bit offsets."""
    if request.param:
        from ganfast import _triton

        monkeypatch.setattr(_triton, "tile_shape", lambda rows, c, last: (8, 2))
        monkeypatch.setattr(_triton, "chunks", lambda rows, block, c_blocks: (-(-rows // (8 * 2)) + 1, 2))
        monkeypatch.setattr(_triton, "wide_from", 0)


def make(shape, channels_last, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    x, gy = ((torch.randn(shape, generator=generator) + shift).to(dtype) for shift in (0, 1))
    return (
        in_layout(x, channels_last),
        in_layout(gy, channels_last),
        torch.randn(shape[1], generator=generator),
        torch.rand(shape[1], generator=generator),
    )


def exact(x, gy, bias, alpha, act, value, gain, clamp):
    """y and the gradients of x, bias and alpha in float64."""
    leaves = [None if t is None else t.double().requires_grad_() for t in (x, bias, alpha)]
    y = reference.bias_act(*leaves, act, value, gain, clamp)
    return y.detach(), torch.autograd.grad(y, [t for t in leaves if t is not None], gy.double())


@pytest.mark.pairs
@SHAPES
@GAINS
@pytest.mark.usefixtures("plan")
def test_from_x(shape, channels_last, gain, clamp):
    x, gy, bias, alpha = make(shape, channels_last)
    op = backend("bias_act")
    y, grads = exact(x, gy, bias, alpha, "prelu", 0.0, gain, clamp)
    got, _ = op.bias_act_fwd_triton(x, bias, alpha, "prelu", 0.0, gain, clamp, channels_last, *ALONE)
    assert_close(got, y, "y")
    assert_layout(got, channels_last)
    limit = kernels.limit(clamp, False, x.dtype)
    results = op.bias_act_bwd_triton(gy, x, bias, alpha, "prelu", 0.0, gain, limit, False, channels_last)
    for result, want, what in zip(results, grads, ("gx", "gbias", "galpha"), strict=True):
        assert_close(result, want, what, floor=64.0)
    assert_layout(results[0], channels_last)
    overwritten = x.clone()
    op.bias_act_fwd_triton_(overwritten, bias, alpha, "prelu", 0.0, gain, clamp, channels_last, *ALONE)
    assert torch.equal(overwritten, got)


@pytest.mark.pairs
@SHAPES
@pytest.mark.parametrize("gain, clamp", [(1.0, None), (2**0.5, 1.1)])
@pytest.mark.usefixtures("plan")
def test_from_y(shape, channels_last, gain, clamp):
    x, gy, bias, _ = make(shape, channels_last)
    y, grads = exact(x, gy, bias, None, "elu", 1.3, gain, clamp)
    saved = in_layout(y.float(), channels_last)
    limit = kernels.limit(clamp, True, x.dtype)
    *results, galpha = backend("bias_act").bias_act_bwd_triton(gy, saved, bias, None, "elu", 1.3, gain, limit, True, channels_last)
    for result, want, what in zip(results, grads, ("gx", "gbias"), strict=True):
        assert_close(result, want, what, floor=64.0)
    assert galpha.shape == (0,) and galpha.dtype == torch.float32


@pytest.mark.parametrize("channels_last", [False, True])
def test_fp16(channels_last):
    """y as the kernel rounds it goes back in; a clamp that float16 rounds down is still recognised."""
    x, gy, bias, _ = make((3, 5, 7, 11), channels_last, torch.float16)
    op, clamp = backend("bias_act"), 0.7003
    assert torch.tensor(clamp).half().item() < clamp
    y, grads = exact(x, gy, bias, None, "leaky_relu", 0.2, 1.5, clamp)
    got, _ = op.bias_act_fwd_triton(x, bias, None, "leaky_relu", 0.2, 1.5, clamp, channels_last, *ALONE)
    assert_close(got, y, "y")
    limit = kernels.limit(clamp, True, x.dtype)
    gx, gbias, _ = op.bias_act_bwd_triton(gy, got, None, None, "leaky_relu", 0.2, 1.5, limit, True, channels_last)
    assert_close(gx, grads[0], "gx")
    assert_close(gbias, grads[1], "gbias", floor=64.0)
    assert got.dtype == gx.dtype == torch.float16 and gbias.dtype == torch.float32


@pytest.mark.parametrize("act, tensor_alpha", ACTS)
def test_activation_forward(act, tensor_alpha):
    z, alpha = activation_input(act, tensor_alpha)
    value = ALPHAS.get(act, 0.0)
    y, _ = backend("bias_act").bias_act_fwd_triton(z, None, alpha, act, value, 1.0, None, False, *ALONE)
    want = _activations.act_fwd(z.double(), act, None if alpha is None else alpha.double(), value)
    if act in ("silu", "tanh", "sigmoid", "elu", "selu", "softplus"):
        relative(y, want, act)
    else:
        assert_close(y, want, act, floor=2.0)
    z[0, 0, 0, 0] = float("nan")
    y, _ = backend("bias_act").bias_act_fwd_triton(z, None, alpha, act, value, 1.0, 2.0, False, *ALONE)
    assert y[0, 0, 0, 0].isnan() and not y[0, :, 1:].isnan().any(), f"{act} or its clamp swallowed a NaN"


@pytest.mark.parametrize("act, tensor_alpha", ACTS)
def test_activation_backward(act, tensor_alpha):
    z, alpha = activation_input(act, tensor_alpha)
    value = ALPHAS.get(act, 0.0)
    gy = torch.linspace(-2, 3, z.numel()).view_as(z)
    z64 = z.double().requires_grad_()
    a64 = None if alpha is None else alpha.double().requires_grad_()
    y64 = _activations.act_fwd(z64, act, a64, value)
    gz, *galpha = torch.autograd.grad(y64, (z64,) if a64 is None else (z64, a64), gy.double())
    zero = z64 == 0  # the one-sided kinks, where autograd of the formula and the table may pick different sides
    from_y = _activations.saves_y(act, alpha, value)
    for use_y in {False, from_y}:
        saved = y64.detach().float() if use_y else z
        got, gbias, got_alpha = backend("bias_act").bias_act_bwd_triton(gy, saved, None, alpha, act, value, 1.0, None, use_y, False)
        close = (got.double() - gz).abs() <= 2e-6 * gy.abs() + 3e-6 * gz.abs()
        assert (close | zero).all(), (act, use_y, got, gz)
        assert_close(gbias, got.double().sum((0, 2, 3)), "gbias")
        if alpha is None:
            assert got_alpha.shape == (0,)
        else:
            assert_close(got_alpha, galpha[0], "galpha", floor=32.0)


def test_backward_sums_before_rounding():
    """gbias in fp16: the float32 products are summed, not their rounded values."""
    gy = torch.full((1, 1, 64, 64), 1.0, dtype=torch.float16)
    saved = torch.full_like(gy, -1.0)
    gx, gbias, _ = backend("bias_act").bias_act_bwd_triton(gy, saved, None, None, "leaky_relu", 0.2001, 1.0, None, False, False)
    assert_close(gbias, torch.tensor([0.2001 * 4096], dtype=torch.float64), "gbias", floor=2.0)
    assert gx.dtype == torch.float16


@pytest.mark.pairs
@SHAPES
@pytest.mark.parametrize("act, clamp", [("relu", None), ("leaky_relu", 0.9), ("tanh", 0.7)])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.usefixtures("plan")
def test_a_residual(shape, channels_last, first, act, clamp):
    """With signs where the activation has them, and the backward from those."""
    x, residual, bias, _ = make(shape, channels_last)
    gy = in_layout(torch.randn(shape, generator=torch.Generator().manual_seed(4)), channels_last)
    numbers, op, keeps = (act, 0.2, 2**0.5, clamp), backend("bias_act"), act != "tanh"
    leaves = [t.double().requires_grad_() for t in (x, bias, residual)]
    y = reference.bias_act(leaves[0], leaves[1], None, *numbers, leaves[2], first, 0.7)
    got, signs = op.bias_act_fwd_triton(x, bias, None, *numbers, channels_last, residual, first, 0.7, keeps)
    assert_close(got, y.detach(), "y")
    overwritten = x.clone()
    again = op.bias_act_fwd_triton_(overwritten, bias, None, *numbers, channels_last, residual, first, 0.7, keeps)
    assert torch.equal(overwritten, got) and torch.equal(again, signs)
    if not keeps:
        assert signs.numel() == 0
        return
    u = reference.bias_act(x, bias, None, *numbers, residual if first else None, first, 1.0)
    assert torch.equal(signs, reference.signs(u, act, kernels.limit(clamp, True, x.dtype))) and signs.stride() == got.stride()
    want = torch.autograd.grad(y, leaves[:2], gy.double())
    limit = None if clamp is None else 2.0
    results = op.bias_act_bwd_triton(gy, signs, None, None, act, 0.2, 2**0.5 * 0.7, limit, True, channels_last)
    for result, exact_gradient, what in zip(results, want, ("gx", "gbias"), strict=False):
        assert_close(result, exact_gradient, what, floor=64.0)
