"""Class labels: conditional batch norm by its formula, the projection, accelerated networks, and bad labels."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.models import DCGANDiscriminator, DCGANGenerator
from ganfast.models.conditional import ConditionalBatchNorm2d
from ganfast.step import capture
from tests.step.common import adam
from tests.step.recorded import RecordedGraphs

LABELS = torch.tensor([2, 0, 1, 2, 2, 0])


def away_from_the_start(network: nn.Module) -> nn.Module:
    """Tables that differ from class to class, and weights of some size, as after training."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, module.weight.mean().item(), 0.5)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.2)
    return network


@pytest.mark.parametrize("training", [True, False])
def test_the_layer_is_its_formula(training):
    layer = away_from_the_start(ConditionalBatchNorm2d(4, 3)).train(training)
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(6, 4, 5, 3) * 2 + 1
    mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if training else (layer.norm.running_mean, layer.norm.running_var)
    mean, var = mean.clone(), var.clone()
    got = layer(x, LABELS)
    for i, label in enumerate(LABELS.tolist()):
        normal = (x[i] - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        wanted = layer.gamma.weight[label][:, None, None] * normal + layer.beta.weight[label][:, None, None]
        torch.testing.assert_close(got[i], wanted, rtol=1e-4, atol=1e-5)


def test_it_begins_as_a_plain_norm_and_counts_as_one():
    layer, plain = ConditionalBatchNorm2d(4, 3), nn.BatchNorm2d(4)
    x = torch.randn(6, 4, 5, 3) * 2 + 1
    torch.testing.assert_close(layer(x, LABELS), plain(x))
    torch.testing.assert_close(layer.norm.running_var, plain.running_var)
    assert [name for name, _ in layer.named_parameters()] == ["gamma.weight", "beta.weight"]


def test_the_layer_has_gradients_to_second_order():
    layer = away_from_the_start(ConditionalBatchNorm2d(2, 3)).double()
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    labels, tables = torch.tensor([0, 2, 2, 1]), (layer.gamma.weight, layer.beta.weight)

    def call(x, *tables):
        return torch.func.functional_call(layer, {"gamma.weight": tables[0], "beta.weight": tables[1]}, (x, labels))

    assert torch.autograd.gradcheck(call, (x, *tables)) and torch.autograd.gradgradcheck(call, (x, *tables))


def test_a_layer_keeps_dtype_and_layout():
    layer = ConditionalBatchNorm2d(4, 3)
    x = torch.randn(6, 4, 5, 3).to(memory_format=torch.channels_last)
    assert layer(x, LABELS).is_contiguous(memory_format=torch.channels_last)
    assert layer(x.bfloat16(), LABELS).dtype == torch.bfloat16


def networks() -> tuple[nn.Module, nn.Module]:
    found = DCGANGenerator(16, 7, 4, 3, num_classes=3), DCGANDiscriminator(16, 4, 3, num_classes=3)
    return tuple(away_from_the_start(network) for network in found)


@pytest.mark.parametrize("training", [True, False])
def test_accelerated_networks_are_the_same_networks(training):
    for plain, x in zip(networks(), (torch.randn(6, 7), torch.randn(6, 3, 16, 16)), strict=True):
        fast = ganfast.accelerate(copy.deepcopy(plain.train(training)))
        assert plain.state_dict().keys() == fast.state_dict().keys()
        results = []
        for network in (plain, fast):
            y = network(x, LABELS)
            gradients = torch.autograd.grad(y.square().sum(), list(network.parameters()))
            results.append([y.detach(), *gradients, *(b.clone() for b in network.buffers())])
        for expected, got in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)


def test_every_image_has_its_own_label():
    for network, x in zip(networks(), (torch.randn(6, 7), torch.randn(6, 3, 16, 16)), strict=True):
        together = network.eval()(x, LABELS)
        for i in range(6):
            torch.testing.assert_close(together[i : i + 1], network(x[i : i + 1], LABELS[i : i + 1]), rtol=1e-4, atol=1e-5)
            other = network(x[i : i + 1], (LABELS[i : i + 1] + 1) % 3)
            assert not torch.allclose(together[i : i + 1], other, rtol=1e-3)


def test_a_fresh_generator_tells_the_classes_apart():
    """The norms begin alike for all classes; the joined embedding does not."""
    generator = DCGANGenerator(16, 7, 4, 3, num_classes=3).eval()
    latent = torch.randn(1, 7)
    images = [generator(latent, torch.tensor([label])) for label in range(3)]
    assert all((a - b).abs().max() > 1e-3 * a.abs().max() for a, b in itertools.combinations(images, 2))


def test_the_logit_is_a_projection():
    discriminator = networks()[1].eval()
    image = torch.randn(6, 3, 16, 16)
    features = discriminator.blocks(image)
    plain = F.conv2d(features, discriminator.head.weight, discriminator.head.bias).flatten()
    wanted = plain + torch.einsum("nd,nd->n", features.flatten(1), discriminator.embedding.weight[LABELS])
    torch.testing.assert_close(discriminator(image, LABELS), wanted)
    assert DCGANDiscriminator(16, 4, 3, num_classes=3).embedding.weight.detach().std() == pytest.approx(0.02, rel=0.1)


def test_vectors_and_no_condition_are_as_they_were():
    for condition_dim in (None, 5):
        generator = DCGANGenerator(16, 7, 4, 1, condition_dim)
        assert not any(isinstance(m, nn.Embedding) for m in generator.modules())
        assert "embedding.weight" not in DCGANDiscriminator(16, 4, 1, condition_dim).state_dict()


def test_a_step_with_labels_can_be_captured(monkeypatch):
    monkeypatch.setattr(capture, "graphs_for", lambda reached, leaves: RecordedGraphs())
    batches = [(torch.randn(4, 7), torch.randn(4, 3, 16, 16), torch.randint(3, (4,))) for _ in range(3)]
    results = []
    for captured in (False, True):
        torch.manual_seed(0)
        generator, discriminator = networks()
        optimizers = adam(generator), adam(discriminator)

        def step(latent, real, labels, g=generator, d=discriminator, optimizers=optimizers):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = (F.softplus(d(g(latent, labels), labels)) + F.softplus(-d(real, labels))).mean()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            return loss.detach()

        run = ganfast.capture(step, *batches[0]) if captured else step
        losses = [run(*batch).clone() for batch in batches]
        results.append([*losses, *(p.detach() for network in (generator, discriminator) for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_both_can_learn_to_tell_the_classes():
    """A few steps towards images that depend on the label alone: both networks must use it."""
    generator, discriminator = DCGANGenerator(16, 7, 4, 1, num_classes=2), DCGANDiscriminator(16, 4, 1, num_classes=2)
    labels = torch.arange(8) % 2
    target = (labels.float() * 1.6 - 0.8)[:, None, None, None].expand(8, 1, 16, 16)
    optimizer = torch.optim.Adam([*generator.parameters(), *discriminator.parameters()], 5e-3)
    image = torch.randn(8, 1, 16, 16)  # the same for both classes: only the label tells
    for _ in range(60):
        optimizer.zero_grad()
        fit = (generator(torch.randn(8, 7), labels) - target).square().mean()
        told = F.binary_cross_entropy_with_logits(discriminator(image[:4].repeat_interleave(2, 0), labels), labels.float())
        (fit + told).backward()
        optimizer.step()
    assert fit < 0.1 and told < 0.2


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (None, TypeError, "labels is a builtins.NoneType, wants a torch.Tensor"),
        (LABELS.float(), TypeError, "labels has dtype torch.float32, wants int64.*condition_dim"),
        (LABELS.int(), TypeError, r"labels has dtype torch.int32, wants int64.*labels.long\(\)"),
        (LABELS[:4], ValueError, r"labels has shape \[4\], wants \[6\].*One label for each image"),
        (LABELS[:, None], ValueError, r"labels has shape \[6, 1\], wants \[6\]"),
        (F.one_hot(LABELS), ValueError, r"labels has shape \[6, 3\], wants \[6\].*argmax"),
        (LABELS + 1, ValueError, "labels has values from 1 to 3, wants 0 to 2.*count from 0"),
        (LABELS - 1, ValueError, "labels has values from -1 to 1, wants 0 to 2.*no classes"),
    ],
)
def test_bad_labels_are_refused(labels, error, words):
    for network, x in zip(networks(), (torch.randn(6, 7), torch.randn(6, 3, 16, 16)), strict=True):
        with pytest.raises(error, match=words) as found:
            network(x, labels)
        assert "\n" not in str(found.value)


def test_bad_settings_are_refused():
    for build, wrong in itertools.product((DCGANGenerator, DCGANDiscriminator), (0, -3, True, 2.0)):
        with pytest.raises(ValueError, match=f"num_classes got {wrong!r}, wants a positive int or None"):
            build(16, num_classes=wrong)
    for build in (DCGANGenerator, DCGANDiscriminator):
        with pytest.raises(ValueError, match="num_classes=3 and condition_dim=5 were given, wants one of them"):
            build(16, condition_dim=5, num_classes=3)
