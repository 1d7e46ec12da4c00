"""What both networks hold learns in both networks' phases, bit for bit as in a loop by hand that freezes nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast.functional as GF
from ganfast.train import Phase, Trainer
from tests.train.test_own_things import config, points


class Half(nn.Module):
    """A network around a layer; used: whether the forward calls it."""

    def __init__(self, layer: nn.Module, used: bool, *rest: nn.Module) -> None:
        super().__init__()
        self.layer, self.used, self.rest = layer, used, nn.Sequential(*rest)

    def forward(self, x):
        return self.rest(F.leaky_relu(self.layer(x)) if self.used else x)


def around_a_layer(used_by: str) -> tuple[nn.Module, nn.Module]:
    """The layer is the second one of either network: its own gradient needs what came before, and theirs its weight."""
    layer = nn.Linear(4, 4)
    g = nn.Sequential(nn.Linear(3, 4), Half(layer, "g" in used_by, nn.Linear(4, 2)))
    return g, nn.Sequential(nn.Linear(2, 4), Half(layer, "d" in used_by, nn.Linear(4, 1)))


def tied() -> tuple[nn.Module, nn.Module]:
    """No module in common: one Parameter under two names."""
    g, d = (nn.Sequential(nn.Linear(n, 2), nn.Tanh(), nn.Linear(2, out)) for n, out in ((3, 2), (2, 1)))
    d[0].weight = g[2].weight
    return g, d


KINDS = {"g": lambda: around_a_layer("g"), "d": lambda: around_a_layer("d"), "gd": lambda: around_a_layer("gd"), "tied": tied}


def networks(kind: str) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KINDS[kind]()


def by_hand(trainer: Trainer, steps: int) -> None:
    g, d, adam = trainer.generator, trainer.discriminator, trainer.optimizers
    for _ in range(steps):
        real, _ = trainer.source.open(trainer.source.next(), trainer.draws)
        latent = trainer.draws.normal(len(real), *trainer.latent_shape)
        adam["discriminator"].zero_grad()
        GF.discriminator_loss(d(real), d(g(latent).detach())).backward()
        adam["discriminator"].step()
        adam["generator"].zero_grad()
        GF.generator_loss(d(g(latent))).backward()
        adam["generator"].step()


@pytest.mark.parametrize("kind", KINDS)
def test_what_both_networks_hold_learns_as_by_hand(kind):
    settings = config(steps=4, decay_from=1.0)
    g, d = networks(kind)
    before = [p.clone() for p in set(g.parameters()) & set(d.parameters())]
    trainer = Trainer(g, d, points(), settings)
    trainer.fit(progress_bar=False)
    hand = Trainer(*networks(kind), points(), settings)
    by_hand(hand, 4)
    for name in ("generator", "discriminator"):
        one, other = (dict(getattr(who, name).named_parameters()) for who in (trainer, hand))
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert before and not any(torch.equal(p, old) for p in set(g.parameters()) & set(d.parameters()) for old in before)
    assert all(p.requires_grad for p in (*g.parameters(), *d.parameters()))


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_it_learns_in_each_networks_phase_alone(network):
    """Several networks in ModuleDicts, one of them in both, under an objective of the user's own."""
    both, g = nn.Linear(2, 2), nn.Linear(3, 2)
    generator, discriminator = nn.ModuleDict({"g": g, "both": both}), nn.ModuleDict({"d": nn.Linear(2, 1), "both": both})

    def objective(phase, generator, discriminator, batch):
        fake = generator["both"](generator["g"](batch.latent))
        real, fake = (discriminator["d"](discriminator["both"](x)) for x in (batch.real, fake))
        loss = (fake - real).mean() * (1 if phase.network == "discriminator" else -1)
        return loss, {"loss": loss}

    before = copy.deepcopy((generator, discriminator))
    trainer = Trainer(generator, discriminator, points(), config(), objective=objective, phases=[Phase("only", network)])
    trainer.step()
    moved = {name for name, p in generator.named_parameters() if not torch.equal(p, before[0].get_parameter(name))}
    moved |= {name for name, p in discriminator.named_parameters() if not torch.equal(p, before[1].get_parameter(name))}
    own = {"g.weight", "g.bias"} if network == "generator" else {"d.weight"}  # a mean difference leaves d's bias alone
    assert moved >= own | {"both.weight"} and not moved & ({"d.weight"} if network == "generator" else {"g.weight"})
