"""group_norm_act's Triton kernels, interpreted, through the public function: against torch's group norm in float64."""

import pytest
import torch

from ganfast._activations import act_fwd
from ganfast.functional import group_norm_act
from ganfast.ops.group_norm_act import kernels
from tests.triton_interpreter import ALPHAS, assert_close, assert_layout, backend, in_layout, interpreted  # noqa: F401

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:overflow encountered in exp")]

# name: (shape, groups, channels_last)
CASES = {
    "odd": ((3, 6, 5, 3), 2, False),
    "odd_last": ((3, 6, 5, 3), 2, True),
    "rows": ((13, 20), 1, False),
    "rows_in_groups": ((7, 12), 4, False),
    "one_pixel_last": ((5, 6, 1, 1), 2, True),
    "3d_last": ((2, 15, 3, 2, 2), 3, True),
    "instance": ((2, 3, 37), 3, False),
    "layer_last": ((3, 10, 2, 3), 1, True),
}
# "looping": two images a program's step, several steps, the last program's wholly off the end; 64-bit offsets.
WAYS = ["block", "looping", "chunks"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(kernels, "regime", lambda *args: "chunks" if request.param == "chunks" else "block")
    if request.param == "looping":
        from ganfast import _triton

        op = backend("group_norm_act")
        plain = op._tiles
        monkeypatch.setattr(op, "_tiles", lambda *args: (2, plain(*args)[1] | {"BLOCK_G": 2}))
        monkeypatch.setattr(op, "chunks", lambda n, block, groups: (-(-n // (block * 2)) + 1, 2))
        monkeypatch.setattr(_triton, "wide_from", 0)
    return request.param


def results(name, dtype, act="prelu", learned=True, modulated=False):
    """[(what, ganfast's, float64's)] of y and all gradients, the images' means apart."""
    shape, groups, channels_last = CASES[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    random = lambda *size: torch.randn(size, generator=generator)
    c, place = shape[1], [-1] + [1] * (len(shape) - 1)
    x, gy = (in_layout(v.to(dtype), channels_last) for v in (random(*shape) * 2 + 3 * torch.arange(shape[0]).view(place), random(*shape)))
    tensors = [x, random(c) / 4 + 1, random(c)]
    tensors += [random(c).abs() / 4 + 0.5] if learned else []
    tensors += [random(shape[0], c).to(dtype), random(shape[0], c).to(dtype)] if modulated else []  # which x of one pixel rounds
    found = []
    for cast in (None, torch.float64):
        leaves = [t.detach().to(cast or t.dtype).requires_grad_() for t in tensors]
        alpha = leaves[3] if learned else None
        scale, shift = leaves[-2:] if modulated else (None, None)
        if cast is None:
            options = {"act": act, "alpha": alpha if learned else ALPHAS.get(act), "scale": scale, "shift": shift, "backend": "triton"}
            y = group_norm_act(leaves[0], groups, *leaves[1:3], **options)
            assert_layout(y, channels_last)
        else:
            z = torch.nn.functional.group_norm(leaves[0], groups, *leaves[1:3])
            if modulated:
                z = z * scale.view(*scale.shape, *place[2:]) + shift.view(*scale.shape, *place[2:])
            y = act_fwd(z, act, alpha, ALPHAS.get(act, 0.0))
        found.append([y.detach(), *torch.autograd.grad(y, leaves, gy.to(y.dtype))])
    names = ["y", "gx", "gweight", "gbias"] + ["galpha"] * learned + ["gscale", "gshift"] * modulated
    return list(zip(names, *found, strict=True))


@pytest.mark.pairs
@pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("way")
def test_group_norm(name, dtype, modulated):
    for what, got, want in results(name, dtype, modulated=modulated):
        assert_close(got, want, what, floor=256.0)


@pytest.mark.parametrize("act", ["linear", "relu", "softplus", "silu", "snake"])
def test_activations(act, monkeypatch):
    monkeypatch.setattr(kernels, "regime", lambda *args: "block")
    for what, got, want in results("odd", torch.float32, act, learned=act in ("softplus", "snake")):
        assert_close(got, want, what, floor=256.0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_statistics_of_a_large_mean(channels_last, way):
    """Mean 4096, deviation 1, channels of one group apart: E[x^2] - E[x]^2 keeps no digit of the variance. y of a block knows the mean
    better than a float32 holds it."""
    x = in_layout(torch.randn(2, 6, 9, 5) + torch.arange(6).view(1, -1, 1, 1) + 4096, channels_last)
    y, mean, invstd, _ = kernels.fwd(x, None, None, None, None, None, 2, 0.0, "linear", 0.0, channels_last, False, "triton")
    of = x.double().unflatten(1, (2, 3)).flatten(2)
    assert_close(mean, of.mean(2).flatten(), "mean")
    assert_close(invstd, of.var(2, correction=0).rsqrt().flatten(), "invstd", floor=4096.0)  # a lane's mean rounds by 2e-4
    if way != "chunks":
        exact = (of - of.mean(2, keepdim=True)) * of.var(2, correction=0, keepdim=True).rsqrt()
        assert_close(y, exact.unflatten(2, (3, 9, 5)).flatten(1, 2), "y", floor=64.0)


def test_the_statistics_of_many_tiles_are_merged(monkeypatch):
    """More partials of a group than a program takes at once."""
    passes = backend("batch_norm_act")
    monkeypatch.setattr(passes, "tile_shape", lambda rows, c, last: (8, 16))
    monkeypatch.setattr(passes, "chunks", lambda rows, block, c_blocks: (-(-rows // 8) + 1, 1))
    x = torch.randn(2, 36, 520) * 3 + 50
    mean, invstd, *columns = kernels.stats(x, 2, 1e-5, False, "triton")
    of = x.double().unflatten(1, (2, 18)).flatten(2)
    assert_close(mean, of.mean(2).flatten(), "mean")
    assert_close(invstd, (of.var(2, correction=0) + 1e-5).rsqrt().flatten(), "invstd", floor=64.0)
    assert all(torch.equal(v.repeat_interleave(18), spread) for v, spread in zip((mean, invstd), columns, strict=True))
