"""StyleGAN2: what each part computes, against the same written otherwise; styles mixed and truncated; a whole step accelerated."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import ganfast
import ganfast.functional as GF
from ganfast.models import StyleGAN2Discriminator, StyleGAN2Generator
from ganfast.models.equalised import Blur, EqualConv2d, EqualLinear, Upsample
from ganfast.models.sizes import widths_of
from ganfast.models.stylegan2 import Mapping, ModulatedConv2d
from ganfast.models.stylegan2_discriminator import ResidualDown, minibatch_deviation
from ganfast.penalties import path_length_penalty, r1_penalty

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def small(size=16, **given):
    return StyleGAN2Generator(size, 6, 4, 3, mapping_layers=2, widest=8, **given)


@pytest.mark.parametrize("size, channels", [(8, 1), (32, 3), (64, 1)])
@pytest.mark.parametrize("given", [{}, {"num_classes": 4}, {"condition_dim": 5}], ids=["alone", "label", "vector"])
def test_shapes(size, channels, given):
    condition = {"num_classes": torch.tensor([0, 3, 1]), "condition_dim": torch.randn(3, 5)}.get(next(iter(given), ""))
    generator = StyleGAN2Generator(size, 6, 2, channels, mapping_layers=1, widest=4, **given)
    images = generator(torch.randn(3, 6), condition)
    assert images.shape == (3, channels, size, size)
    assert StyleGAN2Discriminator(size, 2, channels, mapping_layers=1, widest=4, **given)(images, condition).shape == (3,)
    if condition is not None:
        fixed = torch.randn(1, 6).expand(2, -1)
        a, b = generator.eval()(fixed, condition[:2])
        assert not torch.allclose(a, b)


def test_widths():
    assert widths_of(256, 64, 512) == [512, 512, 512, 512, 256, 128, 64]
    made = StyleGAN2Generator(32, 4, 8, widest=32).synthesis
    assert [m.conv.weight.shape[0] for m in (made.first, *made.ups, *made.convs)] == [32, 32, 16, 8, 32, 16, 8]
    assert [m.conv.weight.shape[:2] for m in made.to_image] == [(3, 32), (3, 32), (3, 16), (3, 8)] and made.layers == 8


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [False, True])
def test_a_modulated_convolution_is_one_for_each_image(demodulate, up):
    torch.manual_seed(0)
    conv = ModulatedConv2d(5, 4, 3, 6, demodulate=demodulate, up=up).double()
    x, w = torch.randn(3, 5, 6, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    found = []
    for image, own in zip(x, conv.style(w)):
        weight = conv.weight / math.sqrt(5 * 9) * own[None, :, None, None]
        if demodulate:
            weight = weight / weight.square().sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()
        if up:  # zeros between, a convolution, the filter: each along the definition
            wide = image.new_zeros(1, 5, 15, 15)
            wide[:, :, 2:13:2, 2:13:2] = image
            y = F.conv2d(wide, weight.flip(2, 3))
            y = F.conv2d(F.pad(y, (1, 1, 1, 1)), (4 * torch.outer(TAPS, TAPS)).expand(4, 1, 4, 4), groups=4)
        else:
            y = F.conv2d(image[None], weight, padding=1)
        found.append(y)
    torch.testing.assert_close(conv(x, w), torch.cat(found))


def test_filters_are_the_published_ones():
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(Upsample()(x), GF.upsample(x, TAPS.float()))
    torch.testing.assert_close(Blur((2, 1))(x), GF.upfirdn(x, TAPS.float(), padding=[2, 1, 2, 1]))
    block = ResidualDown(3, 4)
    conv, act = block.conv2[1:]
    y = GF.modulated_conv(x, conv.weight * conv.scale, torch.ones(2, 3), demodulate=False, down=2, filter=TAPS.float(), padding=1)
    torch.testing.assert_close(block.conv2(x), act(y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.skip(x), F.conv2d(GF.downsample(x, TAPS.float()), block.skip[1].weight * block.skip[1].scale))
    assert block(x).shape == (2, 4, 4, 3)


def test_equalised_layers_keep_the_variance_and_learn_by_their_rate():
    torch.manual_seed(0)
    x = torch.randn(4000, 64)
    slow = EqualLinear(64, 64, rate=0.01, bias=1.0)
    assert slow(x).std().item() == pytest.approx(1, abs=0.1) and slow(0 * x)[0, 0].item() == pytest.approx(1)
    assert slow.weight.std().item() == pytest.approx(100, rel=0.1)
    y = EqualLinear(64, 64, act=True)(x)
    assert y.square().mean().item() == pytest.approx(1, abs=0.1)
    assert EqualConv2d(16, 16, 3, padding=1)(torch.randn(8, 16, 16, 16)).std().item() == pytest.approx(1, abs=0.1)


def test_the_spread_of_a_batch():
    x = torch.randn(1, 3, 4, 4).repeat(8, 1, 1, 1)
    assert minibatch_deviation(x)[:, 3].abs().max() < 1e-3  # all alike
    x[::4] += 2  # one of four differs in each group
    torch.testing.assert_close(minibatch_deviation(x)[:, 3], torch.full((8, 4, 4), 2 * math.sqrt(3 / 16)), atol=1e-3, rtol=0)
    labels = torch.tensor([1, 0, 0, 0, 1, 0, 1, 1])  # those of label 1 are images 0, 4, 6, 7, of which two differ from two
    for condition in (labels, torch.randn(2, 5)[labels]):
        of_label = torch.where(labels == 1, 1.0, 1e-4)[:, None, None].expand(8, 4, 4)
        torch.testing.assert_close(minibatch_deviation(x, 4, condition)[:, 3], of_label, atol=1e-3, rtol=0)
    assert minibatch_deviation(x[:7]).shape == (7, 4, 4, 4)  # groups of 1
    assert minibatch_deviation(x[:6], 4).shape == (6, 4, 4, 4)  # groups of 3


def test_truncation_draws_styles_to_their_mean():
    torch.manual_seed(0)
    generator = small().eval()
    generator.mapping.mean.normal_()
    z = torch.randn(5, 6)
    w, mean = generator.mapping(z), generator.mapping.mean
    assert torch.equal(generator.styles(z)[:, 0], w) and generator.styles(z).shape == (5, generator.synthesis.layers, 6)
    torch.testing.assert_close(generator.styles(z, truncation=0.3)[:, 2], mean + 0.3 * (w - mean))
    assert generator(z, truncation=0.0).std(0).max() < 1e-5 and generator(z).std(0).max() > 1e-2


def test_the_mean_of_styles_follows_in_training_alone():
    torch.manual_seed(0)
    mapping = Mapping(6, 4, 2)
    seen = torch.zeros(4)
    for _ in range(3):
        z = torch.randn(9, 6)
        seen = 0.995 * seen + 0.005 * mapping(z).mean(0)
    torch.testing.assert_close(mapping.mean, seen.detach())
    before = mapping.eval().mean.clone()
    mapping(z)
    assert torch.equal(mapping.mean, before)


def test_two_styles_in_one_image():
    torch.manual_seed(0)
    z = torch.randn(400, 6)
    generator = small(style_mixing=0.75)
    styles = generator.styles(z)
    own = (styles == generator.mapping(z)[:, None]).all(2)
    assert own[:, 0].all()
    first = (~own).int().argmax(1)
    mixed = ~own.all(1)
    assert mixed.float().mean().item() == pytest.approx(0.75, abs=0.08)
    assert set(first[mixed].tolist()) == set(range(1, generator.synthesis.layers))
    assert all((~row[cut:]).all() for row, cut, both in zip(own, first.tolist(), mixed.tolist()) if both)
    assert torch.equal(generator.eval().styles(z)[:, 0], generator.styles(z)[:, -1])


def test_noise():
    torch.manual_seed(0)
    generator = small()
    for name, p in generator.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(p, 0.5)
    w = torch.randn(2, 6)
    of = lambda noise, model=generator: model.synthesis(w, noise)
    assert not torch.equal(of("random"), of("random"))
    assert torch.equal(of("const"), of("const")) and not torch.equal(of("const"), of("none"))
    assert not torch.equal(of(None), of(None))
    generator.eval()
    assert torch.equal(of(None), of("const"))


def test_what_is_refused():
    for build in (StyleGAN2Generator, StyleGAN2Discriminator):
        for size in (48, 4, 0, 16.0):
            with pytest.raises(ValueError, match=r"image_size got .*power of two of at least 8"):
                build(size)
    generator = small(num_classes=3).eval()
    z = torch.randn(2, 6)
    with pytest.raises(ValueError, match=r"truncation got 1.5, wants a number in \[0, 1\]"):
        generator(z, torch.tensor([0, 1]), truncation=1.5)
    with pytest.raises(ValueError, match=r"latent got \[2, 5\], wants \[N, 6\]"):
        generator(z[:, :5], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="noise"):
        generator.synthesis(z, "rando")
    with pytest.raises(ValueError, match=r"w got \[2, 3, 6\], wants \[N, 6\] or \[N, 6, 6\]"):
        generator.synthesis(torch.randn(2, 3, 6))
    with pytest.raises(ValueError, match="labels has values from 3 to 3, wants 0 to 2"):
        generator(z, torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="style_mixing"):
        small(style_mixing=1.5)
    with pytest.raises(ValueError, match=r"condition got \[2\], wants None"):
        small()(z, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"condition got \[2, 3\], wants \[2, 5\]"):
        small(condition_dim=5)(z, torch.randn(2, 3))
    with pytest.raises(ValueError, match="image got"):
        StyleGAN2Discriminator(16, 2, widest=4)(torch.randn(2, 3, 8, 8))


def test_a_whole_step_accelerated_has_the_gradients_of_a_plain_one():
    """Losses, R1 and path lengths, in float64: all that differs is the order of sums."""
    torch.manual_seed(0)
    plain = small(num_classes=3).double(), StyleGAN2Discriminator(16, 4, widest=8, num_classes=3, mapping_layers=1).double()
    for name, p in plain[0].named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(p, 0.3)
    fused = tuple(ganfast.accelerate(copy.deepcopy(network)) for network in plain)
    real, z, labels = torch.randn(4, 3, 16, 16).double(), torch.randn(4, 6).double(), torch.tensor([0, 1, 2, 0])
    found = []
    for generator, discriminator in (plain, fused):
        generator.mapping.mean.zero_()
        torch.manual_seed(1)
        fake = generator(z, labels)
        penalty, logits = r1_penalty(discriminator, real, labels, return_logits=True)
        (F.softplus(-logits).mean() + F.softplus(discriminator(fake.detach(), labels)).mean() + 5 * penalty).backward()
        of_d = [p.grad for p in discriminator.parameters()]
        lengths, _ = path_length_penalty(generator.synthesis, generator.styles(z, labels), torch.zeros((), dtype=torch.float64))
        discriminator.requires_grad_(False)
        (F.softplus(-discriminator(fake, labels)).mean() + 2 * lengths).backward()
        found.append([fake.detach(), *of_d, *(p.grad for p in generator.parameters()), generator.mapping.mean])
    for got, exact in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-7, atol=1e-9)
    report = str(ganfast.explain(fused[0]))
    assert report.count("modulated_conv") >= 8 and "upfirdn" in report
