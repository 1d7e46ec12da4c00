"""Where labelled images are few: which are drawn and which held out, pairs of a class, and folders with classes."""

import pytest
import torch
from PIL import Image

from ganfast.systems import augmentation
from ganfast.systems.augmentation import ARMS, SYSTEM, task
from ganfast.systems.sources.scarce import ByClass
from tests.systems.bars import CLASSES, EACH, bars_in_place_of_digits, numbers, small  # noqa: F401


def test_few_are_drawn_and_all_others_are_tested(mnist):
    t = task(small(seed=3))
    assert t.labels.bincount().tolist() == [5] * CLASSES and t.tested_labels.bincount().tolist() == [EACH - 5] * CLASSES
    assert sorted(numbers(torch.cat([t.images, t.tested]))) == sorted(numbers(mnist.images)) and t.scarce.all()
    known = dict(zip(numbers(mnist.images), mnist.labels.tolist()))
    for images, labels in ((t.images, t.labels), (t.tested, t.tested_labels)):
        assert [known[image] for image in numbers(images)] == labels.tolist()
    assert numbers(task(small(seed=4)).images) != numbers(t.images) == numbers(task(small(seed=3)).images)


def test_with_transfer_half_of_the_classes_have_many_and_the_rest_of_them_is_tested():
    t = task(small(transfer=True))
    assert t.scarce.sum() == 3 and (t.labels.bincount() == torch.where(t.scarce, 5, 32)).all()
    assert (t.tested_labels.bincount() == torch.where(t.scarce, 35, 8)).all()
    assert len({tuple(task(small(transfer=True, seed=seed)).scarce.tolist()) for seed in range(5)}) > 1


def test_permuted_pixels_change_places_alike_and_come_back():
    t, plain = task(small(permuted=True)), task(small())
    other = task(small(permuted=True, seed=1))
    assert t.places.equal(other.places) and not t.places.equal(torch.arange(256))
    back = lambda images: images.flatten(2)[:, :, t.places.argsort()].view_as(images)
    assert back(t.images).equal(plain.images) and back(t.tested).equal(plain.tested)


def test_rows_are_of_their_class_and_two_of_a_pair_differ():
    labels = torch.tensor([2, 0, 2, 1, 0, 2, 0, 0])
    wanted = torch.tensor([0, 2]).repeat(300)
    one, other = ByClass(labels, 4).rows(wanted, torch.Generator().manual_seed(0))
    assert (labels[one] == wanted).all() and (labels[other] == wanted).all() and (one != other).all()
    pairs = set(zip(one.tolist(), other.tolist()))
    assert len(pairs) == 4 * 3 + 3 * 2


def a_folder(place, classes: dict[str, int]):
    for name, count in classes.items():
        (place / name).mkdir(parents=True)
        for number in range(count):
            Image.effect_noise((20, 20), 20 + number).convert("RGB").save(place / name / f"{number}.png")
    return str(place)


def test_a_folder_with_classes(tmp_path):
    o = small(data=a_folder(tmp_path / "own", {"cats": 4, "dogs": 7}), per_class=3, reader_steps=2)
    trainer = SYSTEM.trainer(o)
    trainer.fit(progress_bar=False)
    t = task(o)
    assert t.names == ["cats", "dogs"] and t.tested_labels.tolist() == [0] + [1] * 4 and t.images.shape == (6, 3, 16, 16)
    assert set(SYSTEM.figures(trainer, o)) == {*ARMS, *augmentation.GAINS} and SYSTEM.credit_of(o) == "" and SYSTEM.goals_of(o) == {}
    assert SYSTEM.drawn(trainer, o).shape[0] == 3


def test_a_folder_that_cannot_serve_stops_a_run_before_its_folder_is_made(tmp_path):
    own = a_folder(tmp_path / "own", {"cats": 4, "dogs": 3, "cows": 9})
    loose = a_folder(tmp_path, {"loose": 3}) + "/loose"
    for given, words in {
        ("per_class", 3, own): r"the class 'dogs' of '.*own' has 3 images, wants more than per_class, now 3, as all others are tested",
        ("transfer", True, own): r"has 3 classes: cats, cows, dogs; wants .* at least 4, as transfer learns from half",
        ("per_class", 2, loose): r"has no classes; wants a sub-folder of images for each class, at least 2",
    }.items():
        name, value, data = given
        with pytest.raises(ValueError, match=words):
            SYSTEM.trainer(small(**{"per_class": 2, "data": data, "run_dir": str(tmp_path / "run"), name: value}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("generator", ["pair", "label"])
def test_pictures_that_cannot_be_read_are_listed(tmp_path, generator):
    data = a_folder(tmp_path / "own", {"cats": 4, "dogs": 7})
    (tmp_path / "own" / "dogs" / "none.png").write_bytes(b"no picture")
    trainer = SYSTEM.trainer(small(data=data, per_class=3, generator=generator))
    (line,) = trainer.source.broken
    assert "none.png" in line
