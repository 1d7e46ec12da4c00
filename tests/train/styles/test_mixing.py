"""Samples of a generator with styles: truncated, mixed, between two."""

import pytest
import torch

from ganfast.models import DCGANGenerator, StyleGAN2Generator
from ganfast.train.sampling import Sampler
from ganfast.train.styles import mixing
from ganfast.train.watch import grids


@pytest.fixture
def sampler():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(16, 6, 4, 1, num_classes=3, mapping_layers=2, widest=8)
    generator.mapping.mean.normal_()
    return Sampler(generator, (6,), "a fake", classes=["a", "b", "c"], conditioner=lambda labels: labels)


def test_seeds():
    assert mixing.seeds_of("3,5") == [3, 5] and mixing.seeds_of(" 7, 0,12 ") == [7, 0, 12]
    for text in ("3", "", "3,", "a,b", "3;5", "-1,2", "1.5,2", "²,3"):
        with pytest.raises(ValueError, match=r"mix got .*, wants two seeds or more"):
            mixing.seeds_of(text)


def test_which_layers_are_coarse():
    assert [mixing.coarse_layers(8, size) for size in (4, 8, 16)] == [2, 4, 6]
    for size in (32, 5, 0):
        with pytest.raises(ValueError, match=f"coarse got {size}, wants one of 4, 8, 16"):
            mixing.coarse_layers(8, size)


def test_the_table(sampler):
    sheet = mixing.mixed(sampler, [3, 5], 4, label=1)
    size, gap = 16, 2
    cell = lambda row, column: sheet[:, gap + row * 18 :, gap + column * 18 :][:, :size, :size]
    assert sheet.shape == (1, 3 * 18 + 2, 3 * 18 + 2) and (cell(0, 0) == -1).all()
    of = lambda seed: sampler.styles(sampler.latents(1, seed), torch.tensor([1]))
    three, five = of(3), of(5)
    expected = {(0, 1): three, (0, 2): five, (1, 0): three, (2, 0): five, (1, 1): three, (2, 2): five}
    expected[1, 2] = torch.cat([three[:, :2], five[:, 2:]], 1)  # the row's coarse styles, the column's fine ones
    expected[2, 1] = torch.cat([five[:, :2], three[:, 2:]], 1)
    for place, styles in expected.items():
        torch.testing.assert_close(cell(*place), sampler.synthesised(styles)[0], msg=str(place), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(cell(1, 2), cell(2, 1))


def test_truncation_is_a_sampler_s(sampler):
    z, labels = sampler.latents(4), torch.tensor([0, 1, 2, 0])
    short = Sampler(sampler.generator, (6,), "", classes=sampler.classes, conditioner=sampler.conditioner, truncation=0.5)
    mean = sampler.generator.mapping.mean
    torch.testing.assert_close(short.styles(z, labels), mean + 0.5 * (sampler.styles(z, labels) - mean))
    torch.testing.assert_close(short.generate(z, labels), short.synthesised(short.styles(z, labels)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(short.generate(z, labels), sampler.generate(z, labels))
    assert torch.equal(short.sample(4, seed=2), short.sample(4, seed=2))
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"truncation got .*, wants a number in \[0, 1\]"):
            Sampler(sampler.generator, (6,), "", truncation=bad)
    with pytest.raises(ValueError, match="truncation wants a generator with styles, got DCGANGenerator"):
        Sampler(DCGANGenerator(16, 6, 4), (6,), "", truncation=0.5)
    with pytest.raises(ValueError, match="styles wants a generator with styles"):
        mixing.mixed(Sampler(DCGANGenerator(16, 6, 4), (6,), ""), [1, 2])


def test_a_clip_walks_through_styles(sampler, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(type(sampler), "synthesised", lambda self, styles: seen.append(styles) or torch.zeros(len(styles), 1, 16, 16))
    grids.interpolation(tmp_path / "clip.gif", sampler, 0, columns=2, stops=2, frames=2)
    assert len(seen) == 4 and (tmp_path / "clip.gif").stat().st_size > 100
    torch.testing.assert_close(seen[1], (seen[0] + seen[2]) / 2)
    assert torch.allclose(seen[1], seen[3]) and not torch.allclose(seen[0], seen[2])
