"""augmentation: what is drawn, held out and paired; what classifiers see; figures of generators that are known to be good or bad."""

import math

import pytest
import torch
from PIL import Image

from ganfast.systems import augmentation, classical, readers
from ganfast.systems.augmentation import ARMS, SYSTEM, Options, task
from ganfast.systems.sources import digits, scarce
from ganfast.systems.sources.scarce import ByClass
from ganfast.train.data import to_float, to_uint8
from ganfast.train.data.folders import ImageData

CLASSES, EACH = 6, 40


def bars(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [n, 1, 16, 16]: a bright bar at the class's angle, moved and of another length each time."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    x, y, length = (torch.rand(3, n, generator=draw) * torch.tensor([6.0, 6.0, 4.0])[:, None])[:, :, None, None]
    across, down = torch.arange(16.0) - 4.5 - x, torch.arange(16.0)[:, None] - 4.5 - y
    angle = (labels * math.pi / CLASSES)[:, None, None]
    along, beside = across * angle.cos() + down * angle.sin(), down * angle.cos() - across * angle.sin()
    bright = (along.abs() < 2 + length) & (beside.abs() < 1)
    return to_uint8(2.0 * bright[:, None] - 1), labels


@pytest.fixture(autouse=True)
def mnist(monkeypatch):
    images, labels = bars(CLASSES * EACH, 0)
    order = labels.argsort(stable=True)
    data = ImageData(images[order], labels[order], list("abcdef"))
    monkeypatch.setattr(digits, "mnist", lambda size: data)
    scarce.task.cache_clear()
    yield data
    scarce.task.cache_clear()


def small(**given) -> Options:
    sizes = {"per_class": 5, "width": 4, "batch_size": 8, "steps": 3, "reader_steps": 60, "readers": 1, "made": 30, "latent_dim": 4}
    return Options(**sizes | {"fused": False} | given)


def numbers(images):
    return [image.numpy().tobytes() for image in images]


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


@pytest.fixture
def seen(monkeypatch):
    """What batches a classifier would learn from."""
    found = []
    monkeypatch.setattr(augmentation, "learn", lambda reader, batch, steps: found.append([batch() for _ in range(20)]))
    return found


def test_classifiers_of_a_seed_differ_in_what_the_gan_adds_alone(seen):
    o = small(transfer=True)
    t = task(o)
    labels = t.scarce.nonzero()[:, 0].repeat_interleave(10)
    made = torch.full((len(labels), 1, 16, 16), 0.25) + labels[:, None, None, None] / 100
    weights = [augmentation.classifier(o, 7, (made, labels), share, False).state_dict() for share in (0.0, 0.5, 1.0)]
    assert all(weights[0][name].equal(other[name]) for other in weights[1:] for name in weights[0])
    real, half, alone = ([torch.cat(part) for part in zip(*((images, answers) for images, (answers,) in batches))] for batches in seen)
    wanted = real[1].argmax(1)
    known = dict(zip(numbers(to_float(t.images)), t.labels.tolist()))
    assert [known[image] for image in numbers(real[0])] == wanted.tolist() and real[1].equal(half[1]) and real[1].equal(alone[1])
    by_gan = lambda images: (images - 0.25 - wanted[:, None, None, None] / 100).abs().amax((1, 2, 3)) < 1e-5
    assert by_gan(alone[0]).equal(t.scarce[wanted]) and not by_gan(real[0]).any()
    share = by_gan(half[0])
    assert 0.45 < share[t.scarce[wanted]].float().mean() < 0.55 and not share[~t.scarce[wanted]].any()
    assert half[0][~share].equal(real[0][~share])
    assert wanted.bincount(minlength=CLASSES).min() > 0.12 * len(wanted)


def test_the_same_images_in_the_same_order_under_classical_augmentation(seen, monkeypatch):
    given = []

    def changed(images, answers, policy, noise, draw):
        given.append((images, policy))
        torch.rand(3 if policy else 0, generator=draw)
        return images, answers

    monkeypatch.setattr(classical, "augmented", changed)
    for augmented in (False, True):
        augmentation.classifier(small(), 7, None, 0.0, augmented)
    assert {policy for _, policy in given[:20]} == {""} and {policy for _, policy in given[20:]} == {"affine,noise"}
    assert all(one.equal(other) for (one, _), (other, _) in zip(given[:20], given[20:], strict=True))


class Told:
    """In place of a trainer: the images that a function of the labels and a seed gives."""

    def __init__(self, function):
        self.function = function

    def sample(self, n, labels, seed, latents):
        assert len(labels) == len(latents) == n
        return self.function(labels, seed)


def test_figures_of_generators_that_are_known(mnist):
    o = small(generator="label", per_class=2, reader_steps=50, made=60, keep=1.0)
    more, labels = bars(600, 9)
    of_class = ByClass(labels, CLASSES)
    good = SYSTEM.figures(Told(lambda wanted, seed: to_float(more[of_class.rows(wanted, torch.Generator().manual_seed(seed))[0]])), o)
    bad = SYSTEM.figures(Told(lambda wanted, seed: torch.randn(len(wanted), 1, 16, 16, generator=torch.Generator().manual_seed(seed))), o)
    assert list(good) == [*ARMS, *augmentation.GAINS]
    assert good["real"] == bad["real"] and good["real + classical"] == bad["real + classical"]
    assert good["GAN alone"] > 0.6 > 0.4 > bad["GAN alone"] and good["gain"] > 0.1
    assert good["gain"] == pytest.approx(good["real + GAN"] - good["real"])
    assert good["gain over classical"] == pytest.approx(good["real + classical + GAN"] - good["real + classical"])
    assert good["gain against classical"] == pytest.approx(good["real + GAN"] - good["real + classical"])
    assert good["gain of classical"] == pytest.approx(good["real + classical"] - good["real"])


def test_each_class_weighs_alike():
    t = task(small())
    few = torch.cat([(t.tested_labels == 0).nonzero()[:, 0], (t.tested_labels != 0).nonzero()[::7, 0]])
    reader = readers.Reader(1, {"class": CLASSES}, 2)
    torch.nn.init.zeros_(reader.answers.weight)
    torch.nn.init.zeros_(reader.answers.bias)  # the first class, whatever it sees
    assert readers.balanced_accuracy(reader, t.tested[few], t.tested_labels[few]) == pytest.approx(1 / CLASSES)


def test_only_those_are_kept_whose_class_is_sure():
    class Brightness(torch.nn.Module):
        def forward(self, images):
            sure = images.mean((1, 2, 3))
            return [torch.stack([sure, -sure], 1)]

    images = torch.linspace(-1, 1, 8)[:, None, None, None].expand(-1, 1, 4, 4)
    labels = torch.tensor([0, 1] * 4)
    kept, of = readers.surest(Brightness(), images, labels, 0.5)
    assert of.tolist() == [0, 0, 1, 1]
    assert kept[:2].mean((1, 2, 3)).tolist() == pytest.approx([5 / 7, 1 / 7]) and (kept[2:].mean((1, 2, 3)) < 0).all()
    asked = []
    made = Told(lambda wanted, seed: asked.append(len(wanted)) or torch.zeros(len(wanted), 1, 16, 16))
    SYSTEM.figures(made, small(generator="label", keep=0.5, reader_steps=1))
    assert asked == [2 * 30 * CLASSES]  # half of them are kept


def test_images_are_chosen_by_a_classifier_under_the_same_augmentation_that_saw_none_of_them(monkeypatch):
    made, asked = (torch.zeros(8, 1, 16, 16), torch.arange(8)), []

    def chosen(judge, images, labels, keep):
        asked.append((judge, keep))
        assert images is made[0] and labels is made[1]
        return images[:1] + (judge == "real + classical 0"), labels[:1]

    def classifier(o, seed, fakes, share, augmented):
        number = [augmentation.mixed(o.seed, "reader", n) for n in range(o.readers)].index(seed)
        learned.append((number, fakes, share, augmented))
        return f"real{' + classical' if augmented else ''}{' + GAN' if fakes else ''} {number}"

    monkeypatch.setattr(augmentation, "surest", chosen)
    monkeypatch.setattr(augmentation, "classifier", classifier)
    monkeypatch.setattr(augmentation, "for_classifiers", lambda trainer, o: made)
    monkeypatch.setattr(augmentation, "balanced_accuracy", lambda reader, images, labels: 0.5)
    for given, judges in (({"permuted": True}, ["real 0", "real + classical 0", "real 0"]), ({}, [])):
        learned = []
        asked.clear()
        SYSTEM.measure(None, small(readers=3, **given))
        assert [judge for judge, _ in asked] == judges and {keep for _, keep in asked} <= {0.5}
        # Of each kind as many as were asked, each with a seed of its own; of all kinds the same seeds.
        assert [number for number, *_ in learned] == [0, 1, 2] * len(ARMS)
        for (added, augmented, alone), (_, fakes, share, was) in zip(list(ARMS.values()), learned[::3], strict=True):
            assert (fakes is not None, was, share) == (added, augmented, 1.0 if alone else 0.5)
            if added:
                assert fakes is made if not judges else (fakes[0].unique() == float(augmented)).all() and len(fakes[1]) == 1


def test_a_weight_of_zero_leaves_the_term_out():
    terms = lambda **given: [[*phase.terms] for phase in SYSTEM.trainer(small(**given)).phases]
    assert terms() == [["adversarial", "r1"], ["adversarial", "again"]]
    assert terms(r1=0.0)[0] == ["adversarial"]
    SYSTEM.trainer(small(r1=0.0, steps=1)).fit(progress_bar=False)


def test_no_classical_augmentation_can_be_asked_for():
    assert small(classical="").policy == "" and small().policy == "affine,noise" and small(permuted=True).policy == "noise,mixup"


@pytest.mark.parametrize("given", [{}, {"permuted": True}, {"generator": "label"}, {"generator": "label", "permuted": True}])
def test_every_kind_of_generator(given):
    o = small(transfer=True, steps=2, reader_steps=2, **given)
    trainer = SYSTEM.trainer(o)
    trainer.fit(progress_bar=False)
    real, told = trainer.source.reals(40)
    t = task(o)
    known = dict(zip(numbers(t.images), t.labels.tolist()))
    of_real = [known[image] for image in numbers(to_uint8(real))]
    if o.generator == "label":
        assert of_real == told.tolist()
    else:
        of_given = [known[image] for image in numbers(to_uint8(told["given"]))]
        assert of_real == of_given
        assert all(not one.equal(other) for one, other in zip(real, told["given"]))
    assert all(0 <= value <= 1 for name, value in SYSTEM.figures(trainer, o).items() if "gain" not in name)
    assert SYSTEM.drawn(trainer, o).shape == (3, 2 * (2 + 3 * 18), 2 * (2 + 17 * 18))
    few = SYSTEM.sample(trainer, o, count=3, seed=1, label="b")
    assert few.shape == (3, 1, 16, 16) and few.abs().max() <= 1 and len({*numbers(few)}) == 3
    with pytest.raises(ValueError, match=r"label='bb' is unknown.* Did you mean 'b'|label got 'bb'"):
        SYSTEM.sample(trainer, o, count=3, seed=1, label="bb")


def test_images_are_made_of_real_ones_of_their_class_by_latents_of_the_spread_that_was_asked():
    asked = []

    class Asked:
        def sample(self, n, given, seed, latents):
            asked.append((given, latents))
            return to_float(given)

    o = small(spread=0.25, latent_dim=64)
    labels = torch.arange(CLASSES).repeat_interleave(20)
    images = augmentation.made(Asked(), o, labels, 3)
    known = dict(zip(numbers(task(o).images), task(o).labels.tolist()))
    ((given, latents),) = asked
    assert [known[image] for image in numbers(given)] == labels.tolist() and images.equal(to_float(given))
    assert latents.shape == (len(labels), 64) and 0.24 < latents.std() < 0.26


def test_the_picture_shows_real_images_and_puts_pixels_back(mnist):
    class Copies:
        def sample(self, n, given, seed, latents):
            return to_float(given)

    image = SYSTEM.drawn(Copies(), small(permuted=True))
    places = [(2 + i * 18, 2 + j * 18) for i in range(CLASSES) for j in range(17) if j != 4]
    shown = [image[:1, 2 * top : 2 * top + 32 : 2, 2 * left : 2 * left + 32 : 2] for top, left in places]
    known = dict(zip(numbers(mnist.images), mnist.labels.tolist()))
    assert [known[one] for one in numbers(torch.stack(shown))] == torch.arange(CLASSES).repeat_interleave(16).tolist()


def test_a_class_that_has_few_is_shown_as_often_as_asked():
    o = small(transfer=True, few=0.25)
    shown = task(o).labels
    pairs = SYSTEM.trainer(o).source.reals(4000)[0]
    known = dict(zip(numbers(task(o).images), shown.tolist()))
    few = task(o).scarce[torch.tensor([known[image] for image in numbers(to_uint8(pairs))])]
    assert 0.17 < few.float().mean() < 0.23


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


@pytest.mark.parametrize("generator", ["pair", "label"])
def test_pictures_that_cannot_be_read_are_listed(tmp_path, generator):
    data = a_folder(tmp_path / "own", {"cats": 4, "dogs": 7})
    (tmp_path / "own" / "dogs" / "none.png").write_bytes(b"no picture")
    trainer = SYSTEM.trainer(small(data=data, per_class=3, generator=generator))
    (line,) = trainer.source.broken
    assert "none.png" in line


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"per_class": 1}, "per_class got 1, wants at least 2"),
        ({"image_size": 20}, "image_size got 20, wants 16, 32 or 64"),
        ({"keep": 0.0}, "keep got 0.0, wants a share above 0, up to 1"),
        ({"share": 1.5}, "share got 1.5, wants a share above 0, up to 1"),
        ({"few": -1.0, "transfer": True}, "few got -1.0, wants no negative number"),
        ({"few": 0.0, "generator": "label", "transfer": True}, "few got 0.0, wants more than 0 for a generator of labels"),
        ({"few": 0.5}, "few got 0.5, wants none without transfer, as all classes have few images"),
        ({"again": 1.0, "generator": "label"}, "again got 1.0, wants none for a generator of labels"),
        ({"adversarial": 0.0, "generator": "label"}, "adversarial got 0.0, wants none for a generator of labels"),
        ({"r1": -0.1}, "r1 got -0.1, wants no negative number"),
        ({"adversarial": -1.0}, "adversarial got -1.0, wants no negative number"),
        ({"again": -1.0}, "again got -1.0, wants no negative number"),
        ({"classical": "shift,turn"}, "'turn'"),
        ({"readers": 0}, "readers got 0, wants at least 1"),
        ({"generator": "both"}, "generator='both'|generator got 'both'"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Options(**given)
