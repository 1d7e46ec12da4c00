"""Rendered shapes: what is held out, captions and their words, the rule that reads pictures and what it refuses, the learned reader."""

import sys
import types

import pytest
import torch

from ganfast.systems import readers, text
from ganfast.systems.sources import shapes


@pytest.fixture(scope="module")
def rule():
    return shapes.Rule()


def test_150_combinations_are_seen_and_30_held_out_of_which_each_two_words_are_seen():
    seen, held = shapes.combinations(), shapes.combinations(held_out=True)
    every = {tuple(row) for row in torch.cat([seen, held]).tolist()}
    assert (len(seen), len(held), len(every)) == (150, 30, 180)
    assert all(colour != field for _, colour, _, field in every)
    for a in range(4):
        for b in range(a):
            assert {tuple(row) for row in seen[:, [a, b]].tolist()} == {(row[a], row[b]) for row in every}
    assert set(seen[:, 0].tolist()) == {0, 1} and len(held[:, [0, 2]].unique(dim=0)) == 6


def test_pictures_follow_from_the_seed_and_leave_out_what_is_held_out():
    images, attributes = shapes.pictures(300, seed=3)
    again, same = shapes.pictures(300, seed=3)
    other, _ = shapes.pictures(300, seed=4)
    assert images.dtype == torch.uint8 and images.shape == (300, 3, 32, 32)
    assert torch.equal(images, again) and torch.equal(attributes, same) and not torch.equal(images, other)
    held = {tuple(row) for row in shapes.combinations(held_out=True).tolist()}
    counts = attributes.unique(dim=0, return_counts=True)[1]
    assert not held & {tuple(row) for row in attributes.tolist()} and (counts == 2).all()
    assert {tuple(row) for row in shapes.pictures(30, 0, held_out=True)[1].tolist()} == held
    state = torch.random.get_rng_state()
    shapes.pictures(2, seed=9)
    assert torch.equal(state, torch.random.get_rng_state())


def test_area_tells_the_size_alone():
    centres = torch.tensor([[0.3, -2.6], [3.0, 3.0]])
    for size, area in shapes.AREAS.items():
        for shape in shapes.SHAPES:
            covered = shapes.coverage(shape, area, centres).sum((1, 2))
            assert ((covered - area).abs() < 0.03 * area).all(), (size, shape, covered)


def test_captions_are_read_back():
    every = torch.cat([shapes.combinations(), shapes.combinations(held_out=True)])
    assert torch.equal(torch.stack([shapes.parse(caption) for caption in shapes.captions(every)]), every)
    assert shapes.captions(shapes.parse("Small red circle on the blue field!")[None]) == ["a small red circle on a blue field"]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a small redd circle on a blue feild", ["'redd'", "'feild'", "'red'", "'field'"]),
        ("a circle", ["a small red circle on a blue field"]),
        ("a red small circle on a blue field", ["order"]),
        ("", ["cannot be read"]),
        ("a small red circle on a red field", ["would not show"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(caption, words):
    with pytest.raises(ValueError) as error:
        shapes.parse(caption)
    assert all(word in str(error.value) for word in words), error.value


def test_the_rule_reads_fresh_renderings(rule):
    for held_out in (False, True):
        images, attributes = shapes.pictures(600, seed=11, held_out=held_out)
        assert torch.equal(rule.read(images).attributes, attributes)
        assert torch.equal(rule.read(images / 127.5 - 1).attributes, attributes)
        faint = images / 127.5 - 1 + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        assert (rule.read(faint).attributes == attributes).all(1).float().mean() > 0.95


def test_the_rule_is_not_fooled(rule):
    draw = torch.Generator().manual_seed(0)
    anywhere = lambda: shapes.JITTER * (2 * torch.rand(300, 2, generator=draw) - 1)
    images, attributes = shapes.pictures(300, seed=12)
    centres, right = anywhere(), lambda images, attributes: (rule.read(images).attributes == attributes).all(1).float().mean()
    assert (rule.read(torch.rand(100, 3, 32, 32, generator=draw) * 2 - 1).attributes == -1).all()
    assert (rule.read(torch.full((5, 3, 32, 32), 0.2)).attributes == -1).all()
    for column, values in enumerate(shapes.parts().values()):  # halfway between two pictures that differ in one part
        other = attributes.clone()
        other[:, column] = (other[:, column] + 1) % len(values)
        rows = other[:, 1] != other[:, 3]
        half = shapes.render(attributes, centres)[rows] / 255 + shapes.render(other, centres)[rows] / 255 - 1
        assert right(half, attributes[rows]) == right(half, other[rows]) == 0
    halves = images[:150] / 255 + images[150:] / 255 - 1
    assert right(halves, attributes[:150]) <= 0.02 and right(halves, attributes[150:]) <= 0.02
    blurred = sum(shapes.render(attributes, anywhere()) / 127.5 for _ in range(20)) / 20 - 1
    assert right(blurred, attributes) <= 0.15
    noisy = images / 127.5 - 1 + 0.5 * torch.randn(images.shape, generator=draw)
    assert right(noisy, attributes) <= 0.05


def test_the_reader_learns_several_questions_and_says_its_accuracy():
    heads = {part: len(values) for part, values in shapes.parts().items()}
    images, attributes = shapes.pictures(1500, seed=1)
    tested = shapes.pictures(300, seed=2)
    reader, own = readers.trained(images, attributes, heads, tested=tested, steps=60, batch=32)
    assert set(own) == {*heads, "all"} and own["field"] > 0.95 and own["size"] > 0.8 and own["colour"] > 0.7
    assert readers.agreement(reader.read(tested[0]), tested[1], heads) == own
    assert torch.equal(reader.read(tested[0]), reader.read(tested[0] / 127.5 - 1))
    with pytest.raises(ValueError, match="a row for each picture"):
        readers.trained(images, attributes[:, 0], heads, tested=tested)
    with pytest.raises(ValueError, match="'size' go from 0 to 1, wants 0 to 0"):
        readers.trained(images, attributes, heads | {"size": 1}, tested=tested)


def test_words_become_tokens_and_unknown_ones_are_named():
    encoder = text.encoder("words", ["a red circle", "the blue one"])
    tokens = encoder.encode(["A red circle.", "blue one"])
    assert tokens.dtype == torch.int64 and tokens.shape == (2, 3) and tokens[1, 2] == text.PAD and len(tokens.unique()) == 6
    network = encoder.network(5)
    assert network(tokens).shape == (2, 5)
    swapped = encoder.encode(["red blue", "blue red"])
    assert not torch.allclose(*network(swapped))
    with pytest.raises(ValueError, match=r"'gren', 'circel'.*'circel': Did you mean 'circle'"):
        encoder.encode(["a gren circel"])
    with pytest.raises(ValueError, match="has 4 words, wants 1 to 3"):
        encoder.encode(["a red blue circle"])
    with pytest.raises(ValueError, match=r"wants 'words' or 'sentence-transformers/MODEL'"):
        text.encoder("bert", ["a"])


def test_ready_made_encoders_want_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match="pip install sentence-transformers"):
        text.encoder("sentence-transformers/some", ["a"])

    class Model:
        def __init__(self, name):
            if name.endswith("none"):
                raise OSError("no such model")

        def encode(self, captions):
            return [[float(len(caption)), 1.0, 0.0] for caption in captions]

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Model))
    encoder = text.encoder("sentence-transformers/some", ["a"])
    vectors = encoder.encode(["abc", "a"])
    assert vectors.dtype == torch.float32 and vectors.tolist() == [[3, 1, 0], [1, 1, 0]] and encoder.network(4)(vectors).shape == (2, 4)
    with pytest.raises(ValueError, match="cannot be loaded: no such model"):
        text.encoder("sentence-transformers/none", ["a"])
