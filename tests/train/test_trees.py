"""Items of any form: how they are read, drawn, mirrored, told to the networks, in training and in sampling alike."""


import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ganfast.train import Batch, Phase, TrainConfig, Trainer, trees
from ganfast.train.data import source_of, to_float, unpaired
from ganfast.train.phases import Draws as PhaseDraws

torch.manual_seed(0)
IMAGES = torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8)
DATA = {
    "tokens": torch.arange(36).view(12, 3),
    "image": IMAGES,
    "more": (torch.arange(12), {"mask": IMAGES[:, :1] > 99, "vector": torch.randn(12, 5)}),
}


class Items(Dataset):
    """The same, item by item."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return trees.mapped(lambda leaf: leaf[i], DATA)


class Draws:
    def uniform(self, *shape):
        return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def kinds() -> dict:
    every = {"batch_size": 4, "real": "image", "seed": 3}
    return {
        "tensors": source_of(DATA, **every),
        "memory": source_of(Items(), **every),
        "needed": source_of(Items(), cache=False, workers=0, **every),
        "loader": source_of(DataLoader(Items(), 4), **every),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", kinds())
def test_a_tree_arrives_as_it_was_given_with_bytes_as_floats(kind):
    source = kinds()[kind]
    for _ in range(4):
        real, told = source.open(source.next(), Draws())
        assert list(told) == ["tokens", "image", "more"] and real is told["image"] and real.dtype == torch.float32
        index, rest = told["more"]
        assert torch.equal(told["tokens"], DATA["tokens"][index]) and told["tokens"].dtype == torch.int64
        assert torch.equal(real, to_float(IMAGES[index])) and torch.equal(rest["vector"], DATA["more"][1]["vector"][index])
        assert torch.equal(rest["mask"], DATA["more"][1]["mask"][index]) and rest["mask"].dtype == torch.bool
    fixed = source.reals(5)[1]["more"][0]
    assert len(fixed) == 5 and torch.equal(fixed, source.reals(5)[1]["more"][0])


def test_all_images_of_an_item_are_mirrored_together():
    data = {"image": IMAGES, "low": to_float(IMAGES), "mask": IMAGES > 99, "tokens": torch.arange(12)}
    source = source_of(data, batch_size=12, flip=True)
    real, told = source.open(source.next(), Draws())
    assert torch.equal(real, told["low"]) and torch.equal(told["mask"], real > to_float(torch.tensor(99)))
    mirrored = ~(real == to_float(IMAGES[told["tokens"]])).flatten(1).all(1)
    assert 0 < mirrored.sum() < 12 and torch.equal(real[mirrored].flip(-1), to_float(IMAGES[told["tokens"]])[mirrored])


def test_domains_of_their_own_lengths_are_drawn_independently_and_go_on_where_they_were():
    data = unpaired(a=torch.arange(12.0)[:, None], b=(IMAGES[:5], torch.arange(5)))
    source = source_of(data, batch_size=4, real="a", seed=2)
    seen = {"a": [], "b": []}
    for _ in range(15):
        real, told = source.open(source.next(), None)
        assert real is told["a"] and torch.equal(told["b"][0], to_float(IMAGES[told["b"][1]]))
        seen["a"] += told["a"][:, 0].int().tolist()
        seen["b"] += told["b"][1].tolist()
    assert all(sorted(seen["a"][i : i + 12]) == list(range(12)) for i in range(0, 60, 12))
    assert all(sorted(seen["b"][i : i + 5]) == list(range(5)) for i in range(0, 60, 5)) and source.length == 12
    state = source.state_dict()
    wanted = [source.open(source.next(), None)[1]["b"][1].tolist() for _ in range(3)]
    again = source_of(data, batch_size=4, real="a", seed=2)
    again.load_state_dict(state)
    assert [again.open(again.next(), None)[1]["b"][1].tolist() for _ in range(3)] == wanted
    assert len(source.reals(10)[1]["b"][1]) == len(source.reals(10)[0]) == 10
    alike = source_of(unpaired(a=torch.arange(12.0)[:, None], b=torch.arange(12.0)[:, None]), batch_size=12)
    assert not torch.equal(*alike.open(alike.next(), None)[1].values()), "domains of one length are in no common order"
    with pytest.raises(ValueError, match="at least two by name"):
        unpaired(a=IMAGES)


class Painter(nn.Module):
    """Images from images: what it is called with stays in `seen`."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layer, self.seen = nn.Conv2d(channels, 3, 1), []

    def forward(self, *given):
        self.seen.append(given)
        return torch.tanh(self.layer(torch.cat(given, 1)))


class Critic(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(channels * 16, 1), []

    def forward(self, *given):
        self.seen.append(given)
        return self.layer(torch.cat(given, 1).flatten(1))


def config(**settings) -> TrainConfig:
    return TrainConfig(**{"steps": 2, "batch_size": 6, "latent_dim": 0, "precision": "fp32", "fused": False} | settings)


def test_bytes_go_through_the_condition_in_sampling_as_in_training():
    data = {"image": IMAGES, "hole": IMAGES[:, :1]}
    painter = Painter(4)
    mask = lambda item: (item["image"] * (item["hole"] > 0), item["hole"])
    trainer = Trainer(painter, Critic(7), data, config(), condition=mask)
    trainer.step()
    trained = painter.seen[-1]
    assert [t.shape[1] for t in trained] == [3, 1] and trained[0].min() >= -1 and trained[0].max() <= 1
    asked = {"image": IMAGES[:5], "hole": IMAGES[:5, :1]}
    by_bytes = trainer.sample(5, asked)
    assert torch.equal(by_bytes, trainer.sample(5, {name: to_float(part) for name, part in asked.items()}))
    expected = mask({name: to_float(part) for name, part in asked.items()})
    with torch.no_grad():
        assert torch.equal(by_bytes, trainer.ema(*expected))
    with pytest.raises(ValueError, match=r"condition got shape \[5, 3, 4, 4\], wants 6 rows"):
        trainer.sample(6, asked)


def test_a_lone_second_image_as_bytes_is_scaled_in_sampling():
    painter = Painter()
    trainer = Trainer(painter, Critic(6), (IMAGES, IMAGES.flip(0)), config(), condition=True)
    trainer.step()
    assert torch.equal(trainer.sample(3, IMAGES[:3]), trainer.sample(3, to_float(IMAGES[:3])))


def test_labels_by_name_have_their_classes():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, latent, label):
            return latent + self.table(label)

    class Judge(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, x, label):
            return (x * self.table(label)).sum(1)

    data = {"x": torch.randn(12, 2), "kind": torch.arange(12) % 3, "other": torch.randn(12, 7)}
    trainer = Trainer(Embedded(), Judge(), data, config(latent_dim=2), condition="kind")
    trainer.step()
    assert trainer.classes == ["0", "1", "2"]
    latents = torch.zeros(3, 2)
    assert torch.equal(trainer.sample(3, [0, 1, 2], latents=latents), trainer.ema.table.weight)
    assert torch.equal(trainer.sample(3, latents=latents), trainer.sample(3, torch.arange(3), latents=latents))


def test_masks_without_channels_are_mirrored_and_moved_with_their_images():
    masks = IMAGES[:, 0] > 99
    source = source_of({"image": IMAGES, "mask": masks, "text": torch.arange(12 * 15).view(12, 5, 3)}, batch_size=12, flip=True)
    real, told = source.open(source.next(), Draws())
    assert torch.equal(told["mask"], real[:, 0] > to_float(torch.tensor(99)))
    assert (told["text"].diff(dim=2) == 1).all(), "a sequence is no mask"
    b = Batch(real, None, None, {}, PhaseDraws(torch.Generator().manual_seed(1)), augment="translation")
    seen, inner, flat = b.view(real, {"image": real}, told["mask"])
    assert torch.equal(seen, inner["image"]) and flat.dtype == torch.bool and not torch.equal(flat, told["mask"])
    assert torch.equal(flat & (seen != 0).any(1), (seen[:, 0] > to_float(torch.tensor(99))) & (seen != 0).any(1))


def test_lists_of_numbers_are_one_part():
    class Listed(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return IMAGES[i], {"box": [0.5, i, 2.0], "tokens": (1, 2, i)}

    real, told = source_of(Listed(), batch_size=4).reals(8)
    assert real.shape == (8, 3, 4, 4) and told["box"].shape == (8, 3) and told["box"].dtype == torch.float32
    assert told["tokens"].shape == (8, 3) and told["tokens"].dtype == torch.int64


def test_the_samples_may_be_the_second_of_a_pair_and_the_first_still_reaches_the_condition():
    x, y = torch.zeros(12, 2), torch.ones(12, 2)
    seen = []
    condition = lambda item: seen.append(item) or item[0]
    painter = nn.Linear(2, 2)
    l1 = lambda networks, batch: (batch.fake(networks.generator) - batch.real).abs().mean()
    phases = [Phase("g", "generator", {"l1": (l1, 1)})]
    Trainer(painter, None, (x, y), config(), phases=phases, condition=condition, real=1).step()
    assert (seen[-1][0] == 0).all() and (seen[-1][1] == 1).all()


@pytest.mark.parametrize(
    ("data", "how", "words"),
    [
        ((IMAGES, IMAGES, IMAGES), {"real": -1}, "real='?-1'? is unknown"),
        ({"x": IMAGES}, {"real": lambda item: item["x"]}, "real got a function"),
        ({"x": IMAGES, "y": IMAGES}, {"condition": True}, "condition is True, and an item has 'x', 'y'"),
        ((IMAGES, IMAGES), {"condition": "typo"}, "condition got 'typo', and an item is a pair"),
        (unpaired(a=IMAGES, b=torch.rand(20, 3, 4, 4) * 255), {}, "floats from .* wants \\[-1, 1\\]"),
        ((torch.arange(12), IMAGES), {}, "the first item has dtype torch.int64, .*another part, real=... of Trainer"),
        ({"label": torch.arange(12), "x": IMAGES}, {}, "'label' has dtype torch.int64, .*another part, real=... of Trainer"),
    ],
    ids=["minus one", "function", "True of a dict", "name of a pair", "levels in a domain", "label first of a pair", "label first"],
)
def test_what_would_be_silently_wrong_is_refused(data, how, words):
    phases = [Phase("g", "generator", {"l1": (lambda networks, batch: batch.fake(networks.generator).mean(), 1)})]
    with pytest.raises((TypeError, ValueError), match=words):
        Trainer(Painter(), None, data, config(), phases=phases, **how)


def test_a_domain_with_labels_is_imitated_by_its_images():
    data = unpaired(a=(IMAGES, torch.arange(12) % 2), b=IMAGES[:5])
    source = source_of(data, batch_size=4, real="a")
    real, told = source.open(source.next(), None)
    assert real is told["a"][0] and told["a"][1].dtype == torch.int64
