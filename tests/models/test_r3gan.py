"""R3GAN: how its blocks begin, what they compute; accelerated it is the same."""

import copy

import pytest
import torch
import torch.nn.functional as F

import ganfast
from ganfast.models import R3GANDiscriminator, R3GANGenerator
from ganfast.models.r3gan import Basis, Resample, Residual
from ganfast.penalties import r1_penalty

SMALL = {"blocks": 1, "group": 4, "widest": 16}


@pytest.mark.parametrize("size, channels", [(8, 1), (32, 3)])
@pytest.mark.parametrize("given", [{}, {"num_classes": 4}, {"condition_dim": 5}], ids=["alone", "label", "vector"])
def test_shapes(size, channels, given):
    condition = {"num_classes": torch.tensor([0, 3, 1]), "condition_dim": torch.randn(3, 5)}.get(next(iter(given), ""))
    generator = R3GANGenerator(size, 6, 4, channels, **given, **SMALL)
    images = generator(torch.randn(3, 6), condition)
    discriminator = R3GANDiscriminator(size, 4, channels, **given, **SMALL)
    assert images.shape == (3, channels, size, size) and discriminator(images, condition).shape == (3,)
    if condition is not None:
        latent, image = torch.randn(1, 6).expand(2, -1), images[:1].expand(2, -1, -1, -1)
        for network, same in ((generator, latent), (discriminator, image)):
            a, b = network(same, condition[:2])
            assert not torch.allclose(a, b)


def test_a_block_begins_as_the_identity_and_keeps_the_variance_inside():
    torch.manual_seed(0)
    block, x = Residual(16, 2, 8, 1), torch.randn(8, 16, 12, 12)
    assert torch.equal(block(x), x)
    inner = block.act1(block.expand(x))
    assert inner.square().mean().item() == pytest.approx(1, abs=0.25)
    assert block.act2(block.mix(inner))[:, :, 1:-1, 1:-1].square().mean().item() == pytest.approx(1, abs=0.3)
    deep = Residual(16, 2, 8, 16)
    assert deep.expand.weight.std().item() == pytest.approx(block.expand.weight.std().item() / 2, rel=0.15)
    torch.nn.init.normal_(block.project.weight)
    y = F.leaky_relu(F.conv2d(inner, block.mix.weight, padding=1, groups=4) + block.act2.bias, 0.2) * (2 / 1.04) ** 0.5
    torch.testing.assert_close(block(x), x + F.conv2d(y, block.project.weight), rtol=1e-4, atol=1e-4)


def test_resampling_and_the_basis():
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(Resample(4, 4, up=False)(x), F.avg_pool2d(x, 2))
    up = Resample(4, 6, up=True)
    torch.testing.assert_close(up(x), F.conv2d(F.interpolate(x, scale_factor=2, mode="bilinear"), up.linear.weight), rtol=1e-4, atol=1e-5)
    basis = Basis(5, 3)
    z = torch.randn(2, 5)
    assert torch.equal(basis(z)[1, 2], basis.pictures[2] * basis.linear(z)[1, 2])


def test_what_is_refused():
    for build in (R3GANGenerator, R3GANDiscriminator):
        with pytest.raises(ValueError, match="image_size got 24, wants a power of two of at least 8"):
            build(24)
    with pytest.raises(ValueError, match=r"latent got \[2, 5\], wants \[N, 6\]"):
        R3GANGenerator(8, 6, 4, **SMALL)(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"condition got \[2\], wants None"):
        R3GANGenerator(8, 6, 4, **SMALL)(torch.randn(2, 6), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="image got"):
        R3GANDiscriminator(8, 4, **SMALL)(torch.randn(2, 3, 16, 16))


def test_accelerated_it_has_the_same_gradients():
    torch.manual_seed(0)
    plain = R3GANGenerator(16, 6, 4, **SMALL).double(), R3GANDiscriminator(16, 4, **SMALL).double()
    for network in plain:
        for block in (m for m in network.modules() if isinstance(m, Residual)):
            torch.nn.init.normal_(block.project.weight, 0, 0.3)
    fused = tuple(ganfast.accelerate(copy.deepcopy(network)) for network in plain)
    z, real, found = torch.randn(3, 6).double(), torch.randn(3, 3, 16, 16).double(), []
    for generator, discriminator in (plain, fused):
        penalty, logits = r1_penalty(discriminator, real, return_logits=True)
        (F.softplus(discriminator(generator(z)) - logits).mean() + penalty).backward()
        found.append([p.grad for p in (*generator.parameters(), *discriminator.parameters())])
    for got, exact in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-7, atol=1e-9)
