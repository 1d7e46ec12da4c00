"""A picture's styles: found again for an image of the generator's own, and what is refused."""

import pytest
import torch

from ganfast.models import StyleGAN2Generator
from ganfast.train.sampling import Sampler
from ganfast.train.styles.projection import project, structure


@pytest.fixture
def sampler():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(16, 6, 8, 1, mapping_layers=2, widest=16)
    for name, p in generator.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(p, 0.1)
    return Sampler(generator, (6,), "a fake")


def test_an_image_of_the_generator_s_own_is_found(sampler):
    true = sampler.sample(1, seed=5)[0]
    before = {name: t.clone() for name, t in sampler.generator.state_dict().items()}
    mean = sampler.synthesised(sampler.styles(sampler.latents(256)).mean(0, keepdim=True))[0]
    found = project(sampler, true, steps=120)
    assert len(found.losses) == 120 and min(found.losses) < 0.25 * found.losses[0]
    assert (found.image - true).square().mean() < 0.1 * (mean - true).square().mean()
    assert found.styles.shape == (1, sampler.generator.synthesis.layers, 6) and torch.equal(found.styles[:, 0], found.styles[:, -1])
    assert all(torch.equal(t, before[name]) for name, t in sampler.generator.state_dict().items())  # noise maps too
    assert all(p.requires_grad for p in sampler.generator.parameters())
    assert len(found.noises) == 5 and all(noise.std().item() == pytest.approx(1, abs=0.1) for noise in found.noises[2:])


def test_styles_of_their_own_come_nearer(sampler):
    true = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    one, each = (project(sampler, true, steps=60, each_layer=layers, noise_weight=0) for layers in (False, True))
    assert min(each.losses) < 0.95 * min(one.losses) and not torch.equal(each.styles[:, 0], each.styles[:, -1])
    assert project(sampler, true, steps=3, seed=1).losses == project(sampler, true, steps=3, seed=1).losses


def test_structure_of_noise():
    torch.manual_seed(0)
    noise, smooth = torch.randn(1, 1, 32, 32), torch.linspace(-1.7, 1.7, 32).expand(1, 1, 32, 32)
    assert structure([noise]) < 0.1 and structure([smooth]) > 1


def test_what_is_refused(sampler):
    with pytest.raises(ValueError, match=r"the picture is \[1, 32, 32\], the generator makes \[1, 16, 16\]"):
        project(sampler, torch.zeros(1, 32, 32), steps=2)
    with pytest.raises(ValueError, match="steps got 0"):
        project(sampler, torch.zeros(1, 16, 16), steps=0)
