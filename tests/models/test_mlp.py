"""The networks for vectors: their shape, how both see the condition, that samples do not mix."""

import pytest
import torch
from torch import nn

from ganfast.models import MLPDiscriminator, MLPGenerator


def test_the_layers_asked_for():
    for network, ends in ((MLPGenerator(5, 2, 16, 4), (5, 2)), (MLPDiscriminator(2, 16, 4), (2, 1))):
        linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
        assert linear == [(ends[0], 16), (16, 16), (16, 16), (16, 16), (16, ends[1])]
        kinds = [type(m) for m in network.layers]
        assert kinds == [nn.Linear, nn.ReLU] * 4 + [nn.Linear]  # nothing bounds the result, no norm mixes the samples


@pytest.mark.parametrize("condition_dim", [None, 3])
def test_shapes_and_each_sample_by_itself(condition_dim):
    condition = None if condition_dim is None else torch.randn(6, condition_dim)
    generator, discriminator = MLPGenerator(4, 2, 8, 2, condition_dim), MLPDiscriminator(2, 8, 2, condition_dim)
    latent = torch.randn(6, 4)
    points = generator(latent, condition)
    logits = discriminator(points, condition)
    assert points.shape == (6, 2) and logits.shape == (6,)
    one = None if condition is None else condition[2:3]
    torch.testing.assert_close(generator(latent[2:3], one), points[2:3])
    torch.testing.assert_close(discriminator(points[2:3], one), logits[2:3])


def test_both_see_the_condition():
    generator, discriminator = MLPGenerator(4, 2, 8, 2, 3), MLPDiscriminator(2, 8, 2, 3)
    latent, points, one, other = torch.randn(5, 4), torch.randn(5, 2), torch.randn(5, 3), torch.randn(5, 3)
    assert not torch.allclose(generator(latent, one), generator(latent, other))
    logits = discriminator(points, one), discriminator(points, other)
    assert not torch.allclose(*logits)
    torch.testing.assert_close(discriminator(points, (one + other) / 2), sum(logits) / 2)  # a projection


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MLPGenerator(4, 2, depth=0), "depth got 0"),
        (lambda: MLPGenerator(4, 2)(torch.randn(3, 5)), r"latent got \[3, 5\], wants \[N, 4\]"),
        (lambda: MLPDiscriminator(2)(torch.randn(3, 2, 1)), r"x got \[3, 2, 1\], wants \[N, 2\]"),
        (lambda: MLPDiscriminator(2)(torch.randn(3, 2), torch.randn(3, 4)), r"condition got \[3, 4\], wants None"),
        (lambda: MLPGenerator(4, 2, condition_dim=3)(torch.randn(3, 4)), r"condition got None, wants \[3, 3\]"),
        (lambda: MLPGenerator(4, 2, condition_dim=3)(torch.randn(3, 4), torch.randn(2, 3)), r"condition got \[2, 3\], wants \[3, 3\]"),
    ],
)
def test_wrong_shapes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
