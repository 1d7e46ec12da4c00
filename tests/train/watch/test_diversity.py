"""How diverse a batch of fakes is: copies, few modes, scales, types, what is refused."""

import math

import pytest
import torch

from ganfast.train.watch.diversity import spread

SHAPES = [(64, 1, 32, 32), (64, 3, 64, 64), (64, 3, 8, 8), (64, 1, 28, 28), (64, 2), (64, 30), (64, 3, 40)]


def batches(shape):
    """(fake, real) of one distribution, smooth images as real ones are."""
    two = torch.randn(2, *shape)
    return torch.nn.functional.avg_pool2d(two.flatten(0, 1), 5, 1, 2).view(two.shape) if len(shape) == 4 else two


@pytest.mark.parametrize("shape", SHAPES)
def test_spread_is_one_for_as_diverse_and_zero_for_all_the_same(shape):
    fake, real = batches(shape)
    value = spread(fake, real)
    assert value.dim() == 0 and value.dtype == torch.float32 and 0.8 < value < 1.1
    assert spread(real, real) == 1 and spread(fake[:1].expand_as(fake), real) == 0
    collapsed = fake[:1] + 0.01 * fake
    assert spread(collapsed, real) < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_spread_scales_with_the_fakes(shape):
    fake, real = batches(shape)
    assert spread(0.5 * fake, real).item() == pytest.approx(0.5 * spread(fake, real).item(), rel=1e-4)
    assert spread(fake + 3, real).item() == pytest.approx(spread(fake, real).item(), rel=1e-3), "where they lie is nothing to it"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("modes", [1, 2, 4, 16])
def test_duplicates_show_though_far_modes_remain(shape, modes):
    fake, real = batches(shape)
    far = 10 * fake[:modes].repeat(64 // modes, *[1] * (len(shape) - 1))
    assert spread(far, real) < 1e-3
    half = torch.cat([fake[:32], fake[:1].expand(32, *shape[1:])])
    assert spread(half, real) < 0.85


def test_lost_modes_of_a_ring_show():
    """One mode of eight, as wide as a real one: its samples are no copies, and far from as diverse."""
    angle = torch.arange(8) * (math.pi / 4)
    centres = torch.stack([angle.cos(), angle.sin()], 1)
    draw = lambda modes, n=64: centres[torch.randint(modes, (n,))] + 0.01 * torch.randn(n, 2)
    assert spread(draw(1), draw(8)) < 0.05 and spread(draw(8), draw(8)) > 0.6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_spread_of_other_dtypes(dtype):
    fake, real = batches((32, 3, 16, 16))
    value = spread(fake.to(dtype), real.to(dtype))
    assert value.dtype == torch.float32 and value.item() == pytest.approx(spread(fake, real).item(), rel=0.02)
    assert spread(fake[:1].expand_as(fake).to(dtype), real) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert spread(fake, real).item() == pytest.approx(spread(real, real).item(), rel=0.2)


def test_spread_of_few():
    fake, real = batches((16, 1, 8, 8))
    for few in (spread(fake[:1], real), spread(fake, real[:1]), spread(fake[:0], real), spread(fake, real[:1].expand_as(real))):
        assert few == 1, "nothing to miss"
    assert spread(fake, real[:5]) == spread(fake[:5], real[:5]), "as many of each"
    assert spread(fake[:2], real[:2]) > 0


def test_spread_leaves_its_inputs_alone():
    fake, real = batches((16, 1, 8, 8))
    fake.requires_grad_()
    before = fake.detach().clone(), real.clone()
    value = spread(fake, real)
    assert not value.requires_grad and torch.equal(fake, before[0]) and torch.equal(real, before[1])
    assert spread(torch.full_like(fake, math.nan), real).isnan(), "not hidden"


@pytest.mark.parametrize(
    ("fake", "real", "error", "words"),
    [
        (torch.zeros(4, 3, 8, 8), torch.zeros(4, 1, 8, 8), ValueError, r"fake has shape \(4, 3, 8, 8\), real \(4, 1, 8, 8\)"),
        (torch.zeros(4), torch.zeros(4), ValueError, r"fake has shape \(4,\)"),
        (torch.zeros(4, 2), [0.0], TypeError, "real is a builtins.list"),
        (torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(4, 2), TypeError, "fake has dtype torch.uint8"),
    ],
)
def test_spread_of_bad_input(fake, real, error, words):
    with pytest.raises(error, match="spread: " + words):
        spread(fake, real)
