"""augmentation: what classifiers see, what they are given, and figures of generators that are known to be good or bad."""

import pytest
import torch
from PIL import Image

from ganfast import cli
from ganfast.systems import augmentation, classical, readers
from ganfast.systems.augmentation import ARMS, SYSTEM, Options, task
from ganfast.systems.sources.scarce import ByClass
from ganfast.train.data import to_float, to_uint8
from tests.systems.bars import CLASSES, bars, bars_in_place_of_digits, numbers, small  # noqa: F401


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
    few, labels = SYSTEM.sample(trainer, o, count=3, seed=1, label="b")
    assert labels == ["b"] * 3 and few.shape == (3, 1, 16, 16) and few.abs().max() <= 1 and len({*numbers(few)}) == 3
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


@pytest.mark.parametrize("permuted", [False, True])
def test_samples_have_the_class_of_the_image_that_they_were_made_from(mnist, permuted):
    class Copies:
        def sample(self, n, given, seed, latents):
            return to_float(given)

    known = dict(zip(numbers(to_float(mnist.images)), mnist.labels.tolist()))
    images, labels = SYSTEM.sample(Copies(), small(permuted=permuted), count=9, seed=1)
    assert "".join(labels) == "abcdefabc" == "".join(mnist.classes[known[image]] for image in numbers(images))


def test_files_of_samples_say_their_class(tmp_path, capsys):
    sizes = ["--steps=1", "--reader-steps=1", "--made=2", "--width=4", "--batch-size=8"]
    cli.main(["run", "augmentation", "--run-dir", str(tmp_path / "run"), "--no-fused", "--device=cpu", *sizes])
    cli.main(["sample", str(tmp_path / "run"), "--count", "7"])
    (out,) = (tmp_path / "run").glob("sample-*")
    assert sorted(path.stem for path in out.iterdir()) == ["a-000", "a-006", "b-001", "c-002", "d-003", "e-004", "f-005", "grid"]
    with Image.open(out / "c-002.png") as image:
        assert image.text["Label"] == "c" and image.text["Synthetic"].startswith("yes")
    capsys.readouterr()


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
