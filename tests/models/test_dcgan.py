"""DCGAN: its canonical layers, how both networks see the condition, their names in checkpoints; accelerated they are the same."""

import copy

import pytest
import torch
from torch import nn

from ganfast import accelerate
from ganfast.models import DCGANDiscriminator, DCGANGenerator


def convolutions(network: nn.Module, kind: type) -> list[tuple]:
    found = [m for m in network.modules() if isinstance(m, kind)]
    return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0]) for m in found]


def test_the_canonical_generator():
    generator = DCGANGenerator()
    assert convolutions(generator, nn.ConvTranspose2d) == [
        (100, 512, 4, 1, 0),
        (512, 256, 4, 2, 1),
        (256, 128, 4, 2, 1),
        (128, 64, 4, 2, 1),
        (64, 3, 4, 2, 1),
    ]
    assert [m.num_features for m in generator.modules() if isinstance(m, nn.BatchNorm2d)] == [512, 256, 128, 64]


def test_a_critic_without_norm():
    plain = DCGANDiscriminator(16, 4, norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert all(m.bias is not None for m in plain.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(accelerate(copy.deepcopy(plain))(x), plain(x), rtol=1e-5, atol=1e-6)


def test_the_canonical_discriminator():
    discriminator = DCGANDiscriminator()
    assert convolutions(discriminator, nn.Conv2d) == [
        (3, 64, 4, 2, 1),
        (64, 128, 4, 2, 1),
        (128, 256, 4, 2, 1),
        (256, 512, 4, 2, 1),
        (512, 1, 4, 1, 0),
    ]
    assert [m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)] == [0.2] * 4
    assert not any(isinstance(m, nn.Sigmoid) for m in discriminator.modules())


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("condition_dim", [None, 5])
def test_shapes(size, condition_dim):
    condition = None if condition_dim is None else torch.randn(3, condition_dim)
    images = DCGANGenerator(size, 7, 2, 3, condition_dim)(torch.randn(3, 7), condition)
    assert images.shape == (3, 3, size, size) and images.abs().max() <= 1
    assert DCGANDiscriminator(size, 2, 3, condition_dim)(images, condition).shape == (3,)


@torch.no_grad()
def test_standard_initialisation():
    for network in (DCGANGenerator(), DCGANDiscriminator()):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert module.weight.std() == pytest.approx(0.02, rel=0.05) and module.weight.mean().abs() < 0.002
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean() == pytest.approx(1, abs=0.02) and module.weight.std() > 0.01 and not module.bias.any()


def test_both_networks_see_the_condition():
    generator, discriminator = DCGANGenerator(16, 7, 4, 1, 5).eval(), DCGANDiscriminator(16, 4, 1, 5).eval()
    latent, one, other = torch.randn(2, 7), torch.randn(2, 5), torch.randn(2, 5)
    assert not torch.allclose(generator(latent, one), generator(latent, other))
    images = torch.randn(2, 1, 16, 16)
    logits = discriminator(images, one), discriminator(images, other)
    assert not torch.allclose(*logits)
    # the logit is linear in the condition, given the image: a projection
    torch.testing.assert_close(discriminator(images, (one + other) / 2), sum(logits) / 2)


def test_each_image_has_its_own_condition():
    generator = DCGANGenerator(16, 7, 4, 1, 5).eval()
    latent, condition = torch.randn(4, 7), torch.randn(4, 5)
    together = generator(latent, condition)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], generator(latent[i : i + 1], condition[i : i + 1]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("condition_dim", [None, 5])
def test_accelerated_networks_are_the_same_networks(training, condition_dim):
    condition = None if condition_dim is None else torch.randn(6, condition_dim)
    pairs = [
        (DCGANGenerator(16, 7, 4, 3, condition_dim), torch.randn(6, 7)),
        (DCGANDiscriminator(16, 4, 3, condition_dim), torch.randn(6, 3, 16, 16)),
    ]
    for plain, x in pairs:
        fast = accelerate(copy.deepcopy(plain.train(training)))
        assert plain.state_dict().keys() == fast.state_dict().keys()
        results = []
        for network in (plain, fast):
            y = network(x, condition)
            gradients = torch.autograd.grad(y.square().sum(), list(network.parameters()))
            results.append([y.detach(), *gradients, *(b.clone() for b in network.buffers())])
        for expected, got in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)


def test_checkpoints_of_every_version_fit():
    """The names that files on users' disks have."""
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    block = lambda i: [f"blocks.{i}.conv.weight", *(f"blocks.{i}.norm.{name}" for name in norm)]
    assert list(DCGANGenerator(16, 7, 4).state_dict()) == [*block(0), *block(1), "to_image.conv.weight", "to_image.conv.bias"]
    first = ["blocks.0.conv.weight", "blocks.0.conv.bias"]
    assert list(DCGANDiscriminator(16, 4).state_dict()) == [*first, *block(1), "head.weight", "head.bias"]
    tables = ["gamma.weight", "beta.weight"]
    block = lambda i: [f"blocks.{i}.conv.weight", *(f"blocks.{i}.norm.{name}" for name in (*(f"norm.{n}" for n in norm[2:]), *tables))]
    names = ["embedding.weight", *block(0), *block(1), "to_image.conv.weight", "to_image.conv.bias"]
    assert list(DCGANGenerator(16, 7, 4, num_classes=3).state_dict()) == names


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DCGANGenerator(48), "image_size got 48, wants a power of two"),
        (lambda: DCGANDiscriminator(8), "image_size got 8, wants a power of two of at least 16"),
        (lambda: DCGANGenerator(16, 7, 2)(torch.randn(2, 8)), r"latent got \[2, 8\], wants \[N, 7\]"),
        (lambda: DCGANGenerator(16, 7, 2, 1, 5)(torch.randn(2, 7)), r"condition got None, wants \[2, 5\]"),
        (lambda: DCGANGenerator(16, 7, 2, 1, 5)(torch.randn(2, 7), torch.randn(1, 5)), r"condition got \[1, 5\], wants \[2, 5\]"),
        (lambda: DCGANGenerator(16, 7, 2)(torch.randn(2, 7), torch.randn(2, 5)), "condition got a tensor, wants None"),
        (lambda: DCGANDiscriminator(16, 2, 1, 5)(torch.randn(2, 1, 16, 16), torch.randn(2, 4)), r"condition got \[2, 4\]"),
        (lambda: DCGANDiscriminator(16, 2)(torch.randn(2, 3, 32, 32)), r"image got \[2, 3, 32, 32\], wants \[N, 3, 16, 16\]"),
    ],
)
def test_wrong_shapes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
