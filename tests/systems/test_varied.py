"""What the generators of augmentation can do to an image, and classical augmentation."""

import math
import types

import pytest
import torch

from ganfast.systems import augmentation, classical
from ganfast.systems.varied import Difference, FlatWarp, Warp
from ganfast.train.data import to_float
from tests.systems.bars import CLASSES, bars


def test_a_generator_that_bends_nothing_copies():
    network, given, latent = Warp(16, 1, 4, 4).eval(), to_float(bars(6, 1)[0]), torch.randn(6, 4)
    last = network.joined.layers[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    assert torch.allclose(network(latent, given), given, atol=1e-4)
    last.bias.data[2] = math.atanh(2 / 16 / network.turn)  # all places of a row lie one pixel further
    assert torch.allclose(network(latent, given)[..., :-1], given[..., 1:], atol=1e-3)
    last.bias.data[2] = 0
    last.bias.data[6:22] = math.atanh(2 / 16 / network.bend)  # the same by the field
    assert torch.allclose(network(latent, given)[..., :-1], given[..., 1:], atol=1e-3)
    last.bias.data[6:22] = 0
    last.bias.data[-1] = 1.0
    wider = network(latent, given)
    assert (wider >= given).all() and wider.mean() > given.mean() + 0.02


def test_where_nobody_knows_the_neighbours_the_latent_says_how_much_of_each_map():
    network, given = FlatWarp((1, 4, 4), 2, times=1), torch.rand(3, 1, 4, 4) - 1
    assert network(torch.zeros(3, 2), given).allclose(given, atol=1e-6)
    torch.nn.init.zeros_(network.maps.weight)
    torch.nn.init.zeros_(network.maps.bias)
    network.maps.weight.data[16 + 5, 3] = 0.5  # the second map: half of the fourth pixel's brightness to the sixth
    made = network(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), given).flatten(1)
    more = (given.flatten(1)[:, 3] + 1) / 2
    changed = given.flatten(1) + torch.tensor([0.0, 1.0, -1.0])[:, None] * more[:, None] * (torch.arange(16) == 5)
    assert made.allclose(changed.clamp(-1, 1), atol=1e-6)


def test_linear_maps_of_too_many_pixels_are_refused():
    words = "8 linear maps of 3 x 64 x 64 permuted pixels have 1208 million weights; wants at most 100 million: take a smaller image_size"
    with pytest.raises(ValueError, match=words):
        FlatWarp((3, 64, 64), 8)


def test_the_code_of_a_difference_is_as_a_latent_and_makes_the_other_image():
    network = Difference((1, 4, 4), 3, 8)
    code = network(10 * torch.rand(200, 1, 4, 4), 10 * torch.rand(200, 1, 4, 4))
    assert code.mean(0).abs().max() < 1e-4 and code.std(0).sub(1).abs().max() < 0.05
    given, other = torch.rand(2, 5, 1, 4, 4)
    told = types.SimpleNamespace(encoder=lambda one, two: (one, two), generator=lambda code, one: code[1] - code[0] + one + 0.5)
    batch = types.SimpleNamespace(data={"given": given}, real=other)
    assert augmentation.again(told, batch).item() == pytest.approx(0.25)


def test_classical_augmentation():
    draw = lambda: torch.Generator().manual_seed(0)
    images, labels = bars(300, 2)
    images, answers = to_float(images), torch.nn.functional.one_hot(labels, CLASSES).float()
    same, _ = classical.augmented(images, answers, "", 0.5, draw())
    assert same.equal(images)
    shifted, kept = classical.augmented(images, answers, "shift", 0.5, draw())
    padded, places = torch.nn.functional.pad(images, (1,) * 4, value=-1.0), set()
    for one, image in zip(shifted, padded):
        away = {(i, j): (image[:, i : i + 16, j : j + 16] - one)[:, 1:-1, 1:-1].abs().max() for i in range(3) for j in range(3)}
        assert min(away.values()) < 1e-3
        places.add(min(away, key=away.get))
    assert len(places) == 9 and kept.equal(answers)
    turned, _ = classical.augmented(images, answers, "affine", 0.5, draw())
    assert 0.05 < (turned - images).abs().mean() < 0.5 and turned.mean() == pytest.approx(images.mean().item(), abs=0.02)
    noisy, _ = classical.augmented(images, answers, "noise", 0.5, draw())
    deviation = (noisy - images).std((1, 2, 3))
    assert deviation.max() <= 1.1 * 0.5 and 0.2 < deviation.mean() < 0.3
    mixed, shares = classical.augmented(images, answers, " mixup , noise", 0.5, draw())
    assert shares.sum(1).allclose(torch.ones(300)) and ((shares > 0).sum(1) == 2).float().mean() > 0.7 and mixed.shape == images.shape
    two = torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)]).repeat(50, 1, 1, 1)
    mixed, shares = classical.augmented(two, torch.eye(2).repeat(50, 1), "mixup", 0.5, draw())
    assert mixed.mean((1, 2, 3)).allclose(shares[:, 0]) and 10 < ((shares[:, 0] > 0.2) & (shares[:, 0] < 0.8)).sum() < 60
