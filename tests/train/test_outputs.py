"""Generators that give tuples, dicts and classes of these: which part is sampled, what is detached."""

from collections import OrderedDict, UserDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfast.train import Network, Phase, Trainer, parts, trees
from tests.train.test_trees import config


def test_a_generator_may_give_a_tuple_of_which_a_part_is_sampled():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, latent):
            return {"code": latent * 2, "points": self.layer(latent)}

    code = lambda networks, batch: F.mse_loss(batch.fake(networks.generator)["code"], batch.latent * 2)
    detached = []

    def look(networks, batch):
        detached.append([leaf.requires_grad for leaf in trees.leaves(batch.fake(networks.generator))])
        return networks.discriminator(batch.real).mean() * 0

    phases = [
        Phase("d", "discriminator", {"adversarial": 1, "look": (look, 1)}),
        Phase("g", "generator", {"adversarial": 1, "code": (code, 1)}, average=True),
    ]
    generator = Network(Two(), output="points")
    trainer = Trainer(generator, nn.Linear(2, 1), torch.randn(12, 2), config(latent_dim=2), phases=phases)
    trainer.step()
    assert detached == [[False, False]]
    latents = torch.randn(4, 2)
    with torch.no_grad():
        assert torch.equal(trainer.sample(4, latents=latents), trainer.ema(latents)["points"])
    with pytest.raises(ValueError, match=r"latents got \[3, 2\], wants a tensor \[4, 2\]"):
        trainer.sample(4, latents=latents[:3])
    Kind = namedtuple("Kind", "codes image")
    named = Network(Two(), output="image")
    named.module.forward = lambda z: Kind(z, 2 * z)
    trainer = Trainer(named, nn.Linear(2, 1), torch.randn(12, 2), config(latent_dim=2))
    assert torch.equal(trainer.sample(4), 2 * trainer.sampler().latents(4))
    with pytest.raises(TypeError, match="gives a object, wants a tensor"):
        parts.samples(object(), "image", "the generator")
    with pytest.raises(ValueError, match="output='point' is unknown"):
        Trainer(Network(Two(), output="point"), nn.Linear(2, 1), torch.randn(12, 2), config(latent_dim=2)).step()


def test_named_tuples_keep_their_class_and_structures_tell_forms_apart():
    kind = namedtuple("kind", "a b")
    tree = {"x": kind(1, [2, 3]), "y": 4}
    assert trees.leaves(tree) == [1, 2, 3, 4] and trees.mapped(lambda n: n + 1, tree) == {"x": kind(2, (3, 4)), "y": 5}
    assert trees.structure([1, 2]) == trees.structure((3, 4)) != trees.structure({"a": 1, "b": 2}) != trees.structure({"b": 1, "a": 2})
    assert trees.names(trees.structure((1, {"m": 2}, [3, 4]))) == [
        "the first item", "the second item, 'm'", "the third item, the first item", "the third item, the second item",
    ]  # fmt: skip
    assert parts.told((1, 2)) == 2 and parts.told(1) is None and parts.told((1, 2, 3)) == (1, 2, 3)
    assert parts.told((1, 2), 1) == (1, 2) == parts.whole(2, (1, 2)) and parts.whole(1, 2) == (1, 2)


class Output(dict):
    """As libraries of models give it: a dict whose parts are its fields too."""

    def __init__(self, **parts):
        super().__init__(parts)
        self.__dict__.update(parts)


class Inside(UserDict):
    """Keeps its parts in a dict of its own."""


@pytest.mark.parametrize("kind", [Output, Inside, OrderedDict, dict])
def test_a_model_output_keeps_its_class_when_it_is_detached_and_itself(kind):
    class Gives(nn.Linear):
        def forward(self, z):
            return {"made": kind(sample=super().forward(z), codes=(z,))}

    seen = []

    def judge(networks, batch):
        seen.append(batch.fake(networks.generator)["made"])
        return networks.discriminator(seen[-1].sample if kind is Output else seen[-1]["sample"]).mean()

    phases = [Phase("d", "discriminator", {"l": (judge, 1)}), Phase("g", "generator", {"l": (judge, 1)})]
    generator = Network(Gives(2, 2), sampled=False, average=False)
    Trainer(generator, nn.Linear(2, 1), torch.randn(12, 2), config(latent_dim=2), phases=phases).step()
    of_d, of_g = seen
    assert type(of_d) is type(of_g) is kind and of_g["sample"].requires_grad and not of_d["sample"].requires_grad
    assert isinstance(of_d["codes"], tuple) and torch.equal(of_d["sample"], of_g["sample"])
    if kind is Output:
        assert of_d.sample is of_d["sample"]


def test_a_class_that_cannot_be_made_of_its_parts_becomes_a_dict():
    class Other(dict):
        def __init__(self, only):
            super().__init__(only)

    assert type(trees.renewed(abs, Other({"a": -1, "b": (-2, [-3])}))) is dict
    assert trees.renewed(abs, Other({"a": -1, "b": (-2, [-3])})) == {"a": 1, "b": (2, (3,))}
