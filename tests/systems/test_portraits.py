"""Drawn people: what their attributes say is what is drawn and what their captions say, and nothing else changes."""

import sys

import pytest
import torch

from ganfast.systems.sources import portraits


def test_pictures_follow_from_the_seed_alone():
    images, attributes = portraits.pictures(30, seed=3, size=32)
    assert images.dtype == torch.uint8 and images.shape == (30, 3, 32, 32)
    assert attributes.dtype == torch.int64 and attributes.shape == (30, len(portraits.parts()))
    again, same = portraits.pictures(30, seed=3, size=32)
    assert torch.equal(images, again) and torch.equal(attributes, same)
    assert not torch.equal(portraits.attributes(30, seed=4), attributes)
    assert torch.equal(portraits.render(attributes[5:6]), images[5:6])  # whoever else is drawn with them
    assert portraits.render(attributes[:2], 64).shape == (2, 3, 64, 64)


def test_all_values_of_a_part_are_drawn_alike():
    attributes = portraits.attributes(4000)
    for (part, names), column in zip(portraits.parts().items(), attributes.T):
        counts = column.bincount(minlength=len(names))
        assert counts.min() > 0.8 * 4000 / len(names), part


def test_every_value_of_every_part_can_be_seen():
    """Of the same person with another value of one part some pixels differ clearly, whatever the other parts are."""
    people = portraits.attributes(24, seed=1)
    images = portraits.render(people, 32).int()
    for i, (part, names) in enumerate(portraits.parts().items()):
        for name in names:
            changed = portraits.changed(people, **{part.replace(" ", "_"): name})
            differ = (portraits.render(changed, 32).int() - images).abs().amax(1) > 24
            same = people[:, i] == names.index(name)
            assert not differ[same].any() and (differ[~same].sum((1, 2)) >= 3).all(), (part, name)


def test_only_what_was_asked_for_changes():
    people = portraits.attributes(10)
    other = portraits.changed(people, glasses="sunglasses")
    differ = (portraits.render(people, 64) != portraits.render(other, 64)).any(1).any(0)
    rows, columns = differ.nonzero().T
    assert rows.min() >= 18 and rows.max() <= 40 and columns.min() >= 10 and columns.max() <= 53  # where glasses sit
    assert torch.equal(portraits.changed(other, glasses="none")[:, :4], people[:, :4])


def test_pictures_are_read_by_the_nearest_of_all_people():
    images, people = portraits.pictures(60, seed=4, size=16)
    clean = images.float() / 127.5 - 1
    noisy = clean + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    found = portraits.read(torch.cat([clean, noisy, (clean + clean.roll(1, 0)) / 2])).view(3, 60, -1)
    of_clean, of_noisy, of_blends = (found == people).all(2).float().mean(1)
    assert of_clean == 1 and of_noisy > 0.8 and of_blends < 0.1


def test_a_caption_is_read_back():
    attributes = portraits.attributes(300)
    captions = portraits.captions(attributes)
    assert torch.equal(torch.stack([portraits.parse(caption) for caption in captions]), attributes)
    assert {word.strip(",") for caption in captions for word in caption.split()} <= set(portraits.words())
    some = portraits.parse("Sunglasses, long hair; a RED hoodie")
    names = portraits.parts()
    assert some.tolist() == [-1, names["hair"].index("long"), -1, 0, 2, names["clothes"].index("hoodie"), 2, -1]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a smling person with purple hair", "unknown words: smling, purple; known: .* Did you mean 'smiling'"),
        ("a red person", "says red of person, of which it can say smiling, serious"),
        ("blonde skin", "says blonde of skin, of which it can say pale, tan, dark"),
        ("short long hair", "two things of the hair: long and short"),
        ("a beard and a moustache", "two things of the beard: beard and moustache"),
        ("a person in blue", "says blue of nothing. After it comes what it is said of: skin, hair, person, shirt"),
        ("", "caption got '', wants words such as 'a smiling person"),
        (3, "caption got 3, wants words"),
    ],
)
def test_a_caption_that_cannot_be_drawn_is_refused(caption, words):
    with pytest.raises(ValueError, match=words):
        portraits.parse(caption)


def test_bad_input_is_a_word():
    people = portraits.attributes(2)
    for call, words in {
        lambda: portraits.pictures(0): "n got 0",
        lambda: portraits.pictures(2, size=7): "size got 7, wants a whole number from 8 to 448",
        lambda: portraits.render(people.float()): r"float32 \[2, 8\], wants int64 \[n, 8\]: skin, hair",
        lambda: portraits.render(people[:, :3]): r"wants int64 \[n, 8\]",
        lambda: portraits.render(people + 9): "the attribute skin holds .*, wants 0 to 2: pale, tan, dark",
        lambda: portraits.changed(people, hat="red"): "part='hat' is unknown; valid: skin, hair",
        lambda: portraits.changed(people, hair_colour="blond"): "Did you mean 'blonde'",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "robohash", None)
    with pytest.raises(
        ImportError, match=r"the source of portraits needs the package robohash, .* pip install robohash \(.*ganfast\[systems\]"
    ):
        portraits.pictures(1, size=9)


def test_where_the_drawings_come_from_is_said():
    assert all(word in portraits.CREDIT for word in ("Pablo Stanley", "free for personal and commercial use", "robohash"))
