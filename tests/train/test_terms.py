"""Adversarial terms between named networks: pools, mismatched conditions, pairs of images that are augmented together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfast.augment import diff_augment
from ganfast.train import Batch, ImagePool, Phase, TrainConfig, Trainer, adversarial
from ganfast.train.networks import Networks
from ganfast.train.phases import Draws


class Told(nn.Module):
    """Points and their condition to a logit."""

    def __init__(self, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.two = nn.Linear(width, 8), nn.Linear(8, 1)

    def forward(self, x, condition):
        return self.two(torch.tanh(self.one(torch.cat([x, condition], 1))))


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, latent, condition):
        return self.layer(torch.cat([latent, condition], 1))


def batch(n: int = 6, **fields) -> Batch:
    torch.manual_seed(2)
    draws = Draws(torch.Generator().manual_seed(1))
    return Batch(torch.randn(n, 2), torch.randn(n, 2), torch.randn(n, 2), {}, draws, **fields)


@pytest.mark.parametrize("kind", ["nonsaturating", "hinge", "relativistic"])
def test_mismatched_conditions_are_a_further_fake_of_half_the_weight(kind):
    g, d, b = Maker(), Told(), batch()
    networks, phase = Networks(generator=g, discriminator=d), Phase("d", "discriminator", ("adversarial",))
    c = TrainConfig(loss=kind)
    loss, numbers = adversarial(c, mismatched=True).part(phase, networks, b)
    real, fake = d(b.real, b.condition), d(g(b.latent, b.condition), b.condition)
    wrong = d(b.real, b.condition.roll(1, 0))
    against = {
        "nonsaturating": lambda f: F.softplus(-real).mean() + F.softplus(f).mean(),
        "hinge": lambda f: F.relu(1 - real).mean() + F.relu(1 + f).mean(),
        "relativistic": lambda f: F.softplus(f - real).mean(),
    }[kind]
    torch.testing.assert_close(loss, (against(fake) + against(wrong)) / 2)
    torch.testing.assert_close(numbers["mismatched_accuracy"], (wrong <= 0).float().mean())
    other = lambda batch: batch.condition * 0
    loss, _ = adversarial(c, mismatched=other).part(phase, networks, b)
    torch.testing.assert_close(loss, (against(fake) + against(d(b.real, b.condition * 0))) / 2)


def test_mismatched_conditions_teach_a_discriminator_to_look_at_them():
    """Without them it learns nothing of a condition that the fakes carry rightly."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    x = F.one_hot(labels, 2).float() * 4 - 2 + torch.randn(200, 2) * 0.1
    copy = nn.Linear(2, 2)  # the perfect generator: the condition says where
    nn.init.eye_(copy.weight)
    nn.init.zeros_(copy.bias)

    class Perfect(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = copy

        def forward(self, latent, condition):
            return self.layer(condition) + 0.1 * latent

    told = {}
    for mismatched in (False, True):
        c = TrainConfig(steps=150, batch_size=32, latent_dim=2, learning_rate=1e-2, precision="fp32", log_every=50, fused=False)
        term = {"gan": (adversarial(c, mismatched=mismatched), 1)}
        critic = Told()
        Trainer(Perfect(), critic, (x, x.round()), c, phases=[Phase("d", "discriminator", term)], condition=True).fit(progress_bar=False)
        with torch.no_grad():
            told[mismatched] = (critic(x, x.round()) - critic(x, -x.round())).mean()
    assert told[True] > 3 and told[True] > 3 * told[False].abs()


def test_a_pool_shows_half_new_and_half_old_and_keeps_what_it_replaced():
    pool, uniform = ImagePool(20), lambda *shape: torch.rand(*shape, generator=generator)
    generator = torch.Generator().manual_seed(0)
    count, shown, old = 0, [], 0
    for step in range(200):
        new = torch.arange(step * 8, step * 8 + 8.0)[:, None]
        given = pool(new, uniform)
        assert given.shape == new.shape
        same = (given == new)[:, 0]
        if step < 2:  # it fills first, and shows what comes
            assert same.all()
        elif step == 2:
            assert same[:4].all()
        kept, earlier = set(pool.images[: pool.count, 0].tolist()), [v for v, s in zip(given[:, 0].tolist(), same) if not s]
        assert all(v < step * 8 and v not in kept for v in earlier), "an old one is shown once, and has left"
        assert all(n.item() in kept for n, s in zip(new[:, 0], same) if not s), "what was not shown is kept"
        shown += given[:, 0].tolist()
        old, count = old + len(earlier), count + 8
    assert max(map(shown.count, shown[:40])) == 2 and len(shown) - len(set(shown)) <= 20, "those it was filled with are shown once more"
    assert pool.count == 20
    assert 0.45 < old / (count - 20) < 0.55
    with pytest.raises(ValueError, match="a batch has 21 images, the pool 20"):
        pool(torch.zeros(21, 1), uniform)
    with pytest.raises(ValueError, match="both must be the same"):
        pool(torch.zeros(8, 2), uniform)
    assert torch.equal(ImagePool(0)(new, uniform), new)


def test_the_discriminator_learns_on_the_pool_and_the_generator_on_its_own():
    g, d, pool = Maker(), Told(), ImagePool(6)
    term, networks = adversarial(TrainConfig(), fake=pool), Networks(generator=g, discriminator=d)
    pool.begin((2,), torch.device("cpu"))
    pool.images.fill_(9)
    pool.count.fill_(6)
    seen = []
    d.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    b = batch()
    loss, _ = term.part(Phase("d", "discriminator"), networks, b)
    assert (seen[1] == 9).all(1).any() and not (seen[1] == 9).all()
    loss, _ = term.part(Phase("g", "generator"), networks, b)
    assert torch.equal(seen[2], g(b.latent, b.condition)) and loss.requires_grad


def test_a_function_gives_the_fakes_of_both_parts():
    g, d, seen = Maker(), Told(), []
    d.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    half = lambda networks, batch: torch.cat([batch.real[:, :1], batch.fake(networks.generator)[:, 1:]], 1)
    term, networks, b = adversarial(TrainConfig(), fake=half), Networks(generator=g, discriminator=d), batch()
    term.part(Phase("d", "discriminator"), networks, b)
    term.part(Phase("g", "generator"), networks, b)
    expected = torch.cat([b.real[:, :1], g(b.latent, b.condition)[:, 1:]], 1)
    assert torch.equal(seen[1], expected) and torch.equal(seen[2], expected)


@pytest.mark.parametrize("policy", ["translation", "cutout", "color,translation,cutout"])
def test_images_that_belong_together_are_moved_together(policy):
    torch.manual_seed(0)
    x = torch.randn(5, 3, 16, 16)
    b = Batch(x, None, None, {}, Draws(torch.Generator().manual_seed(4)), augment=policy, noise=0.1)
    seen, along, label = b.view(x, x[:, :1], torch.arange(5))
    geometric = policy.replace("color,", "")
    u = torch.rand(5, 7, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(along, diff_augment(x[:, :1], geometric, uniform=lambda *_: u))
    assert torch.equal((seen == 0).all(1), torch.zeros(5, 16, 16, dtype=torch.bool)), "noise falls on the samples"
    assert torch.equal(label, torch.arange(5)) and not torch.equal(along, x[:, :1])
    quiet = Batch(x, None, None, {}, Draws(torch.Generator().manual_seed(4)), augment="color")
    assert torch.equal(quiet.view(x, x)[1], x) and not torch.equal(quiet.view(x), x)
    with pytest.raises(ValueError, match=r"moves the samples, and the images .* have \[8, 8\] pixels, the samples \[16, 16\]"):
        b.view(x, x[:, :, :8, :8])


def test_a_discriminator_sees_condition_images_moved_with_the_samples():
    class See(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.pairs = nn.Conv2d(2, 1, 3), []

        def forward(self, x, condition):
            self.pairs.append((x.detach(), condition))
            return self.layer(torch.cat([x, condition], 1)).mean((1, 2, 3))

    class Copy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)

        def forward(self, condition):
            return condition + 0 * self.layer(condition)

    torch.manual_seed(0)
    x, d = torch.rand(12, 1, 8, 8) * 2 - 1, See()
    c = TrainConfig(steps=1, batch_size=6, latent_dim=0, augment="translation,cutout", precision="fp32", fused=False, r1=1.0)
    Trainer(Copy(), d, (x, x), c, condition=True).step()
    assert len(d.pairs) == 3 and all(torch.equal(sample, condition) for sample, condition in d.pairs)
    assert not any(any(torch.equal(sample, image) for image in x) for sample in d.pairs[0][0])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"mismatched": True, "fake": ImagePool(4)}, "mismatched was given with a pool"),
        ({"terms": ("r3",)}, "a term='r3' is unknown"),
    ],
)
def test_terms_that_cannot_serve(how, words):
    with pytest.raises(ValueError, match=words):
        adversarial(TrainConfig(), **how)


def test_a_term_wants_one_of_its_networks_in_the_phase_and_conditions_for_mismatched():
    nets = {"generator": nn.Linear(2, 2), "discriminator": nn.Linear(2, 1)}
    c = TrainConfig(batch_size=4, latent_dim=2, precision="fp32")
    both = [Phase("p", ("generator", "discriminator"), {"a": (adversarial(c), 1)})]
    with pytest.raises(ValueError, match="an adversarial term wants one of 'generator' and 'discriminator' in it"):
        Trainer(networks=nets, data=torch.randn(8, 2), config=c, phases=both).step()
    alone = [Phase("d", "discriminator", {"a": (adversarial(c, mismatched=True), 1)}), Phase("g", "generator", {"a": (adversarial(c), 1)})]
    with pytest.raises(ValueError, match="mismatched wants conditions"):
        Trainer(networks=nets, data=torch.randn(8, 2), config=c, phases=alone).step()
    missing = [Phase("d", "discriminator", {"a": (adversarial(c, generator="gen"), 1)})]
    with pytest.raises(ValueError, match="a network of an adversarial term='gen' is unknown"):
        Trainer(*nets.values(), torch.randn(8, 2), c, phases=missing)
