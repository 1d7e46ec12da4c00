import unicodedata
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ganfast.models.pix2pix import PairDiscriminator, UnetGenerator
from ganfast.systems import pix2pix
from ganfast.systems.pix2pix import SYSTEM, Options, outline_f1, outlines, sets
from ganfast.systems.sources import paired as source
from ganfast.systems.sources import portraits
from ganfast.train.data import to_float, to_uint8

SMALL = {"crop_size": 32, "netG": "unet_32", "ngf": 8, "ndf": 8, "fused": False}


@pytest.fixture(scope="module", autouse=True)
def few_people():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pix2pix, "PEOPLE", {"train": 300, "test": 60})
        sets.cache_clear()
        yield
    sets.cache_clear()


@pytest.fixture(scope="module")
def trained():
    options = Options(steps=100, **SMALL)
    trainer = SYSTEM.trainer(options)
    before = SYSTEM.figures(trainer, options)
    trainer.fit(progress_bar=False)
    return before, SYSTEM.figures(trainer, options)


def test_pairs_are_learned_in_a_hundred_steps(trained):
    before, after = trained
    assert after["l1"] < 0.7 * after["l1_constant"] < before["l1"]
    assert after["outline_f1"] > max(after["outline_f1_constant"], before["outline_f1"])


def test_the_input_decides_what_is_made(trained):
    assert trained[1]["l1_other"] > 1.3 * trained[1]["l1"]


def test_the_answer_reaches_no_generator_and_the_discriminator_sees_both_together():
    """By what the networks are called with in two steps: pairs of the data, and what was made of their inputs."""
    options = Options(steps=2, **SMALL)
    trainer, data = SYSTEM.trainer(options), sets(options.whole())
    given, made, judged = [], [], []
    trainer.generator.register_forward_pre_hook(lambda _, args: given.append(args))
    trainer.generator.register_forward_hook(lambda _, args, out: made.append(out.detach()))
    trainer.discriminator.register_forward_pre_hook(lambda _, args: judged.append([x.detach() for x in args]))
    trainer.fit(progress_bar=False)
    answers = {a.numpy().tobytes(): b for a, b in zip(data["train_a"], data["train_b"])}
    given, made = given[:2], made[:2]  # pictures at the end follow
    assert len(judged) == 6  # of each step: real and made, then made
    for step, (args, fakes) in enumerate(zip(given, made)):
        (inputs,) = args
        wanted = torch.stack([answers[a.numpy().tobytes()] for a in to_uint8(inputs)])
        calls = judged[3 * step : 3 * step + 3]
        assert all(torch.equal(condition, inputs) for _, condition in calls)
        assert torch.equal(to_uint8(calls[0][0]), wanted)
        assert all(torch.equal(images, fakes) for images, _ in calls[1:])


def test_the_discriminator_s_answer_depends_on_both():
    network = PairDiscriminator(6, 4, 2).eval()
    images, given = torch.randn(2, 2, 3, 32, 32).unbind(0)
    logits = network(images, given)
    assert logits.shape == (2, 1, 6, 6)
    assert not torch.allclose(logits, network(images, given.roll(1, 0))) and not torch.allclose(logits, network(images.roll(1, 0), given))


def test_the_measure_by_known_answers():
    """One who knows the tested people's portraits makes no mistake; one who draws the training's median is the constant."""
    options = Options(**SMALL)
    data = sets(options.whole())
    answers = {a.numpy().tobytes(): to_float(b) for a, b in zip(data["test_a"], data["test_b"])}
    median = to_float(data["train_b"].median(0).values)
    assert not torch.equal(median, to_float(data["test_b"].median(0).values))
    knowing = SimpleNamespace(sample=lambda n, a: torch.stack([answers[image.numpy().tobytes()] for image in to_uint8(a)]))
    figures, b = SYSTEM.measure(knowing, options), to_float(data["test_b"])
    assert figures["l1"] == figures["l1_ratio"] == 0 and figures["outline_f1"] == 1
    assert figures["l1_constant"] == pytest.approx(F.l1_loss(median.expand_as(b), b).item())
    assert figures["l1_other"] == pytest.approx(F.l1_loss(b.roll(1, 0), b).item())
    figures = SYSTEM.measure(SimpleNamespace(sample=lambda n, a: median.expand(n, -1, -1, -1)), options)
    assert figures["l1_ratio"] == pytest.approx(1) and figures["outline_f1"] == figures["outline_f1_constant"]


def test_the_picture_s_rows_are_inputs_what_was_made_and_the_truth():
    options = Options(**SMALL)
    data, inverted = sets(options.whole()), SimpleNamespace(sample=lambda n, a: -a)
    image = SYSTEM.picture(inverted, options)
    rows = data["test_a"], to_uint8(-to_float(data["test_a"])), data["test_b"]
    for row, wanted in enumerate(rows):
        for column in (0, 9):
            top, left = 2 + 34 * row, 2 + 34 * column
            assert torch.equal(image[:, top : top + 32, left : left + 32], wanted[column]), (row, column)


def test_large_pictures_are_translated_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(pix2pix, "PIXELS", 3 * 8 * 8)
    inputs, calls = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8), []
    trainer = SimpleNamespace(sample=lambda n, a: (calls.append(n), -a)[1])
    assert torch.equal(pix2pix.translated(trainer, inputs), -to_float(inputs)) and calls == [3, 3, 1]


def test_who_is_tested_was_not_in_the_training():
    data = sets(Options(**SMALL).whole())
    people = {part: {image.numpy().tobytes() for image in data[f"{part}_a"]} for part in ("train", "test")}
    assert (len(people["train"]), len(people["test"])) == (300, 60) and not people["train"] & people["test"]


def test_the_input_tells_every_part_but_no_colours():
    people = portraits.attributes(24, seed=1)
    maps = portraits.maps(people, 32)
    for i, (part, names) in enumerate(portraits.parts().items()):
        for number, name in enumerate(names):
            differ = (portraits.maps(portraits.changed(people, **{part.replace(" ", "_"): name}), 32) != maps).any(1).sum((1, 2))
            same = people[:, i] == number
            assert not differ[same].any() and (differ[~same] >= 3).all(), (part, name)
    data = sets(Options(**SMALL).whole())
    a, b = to_float(data["test_a"]), to_float(data["test_b"])
    assert F.l1_loss(a, b) > F.l1_loss(b.mean(0).expand_as(b), b)  # an input is no answer
    assert outline_f1(a, b) < 0.8


def test_maps_by_hand():
    person = portraits.changed(portraits.attributes(1), hair="long", beard="none", glasses="none", clothes="overalls", mouth="serious")
    where = portraits.maps(person, 32)[0]
    assert where[0, 0, 0] == 0 and set(where[0].unique().tolist()) == {0, 1, 2, 3, 4, 5, 7}
    colour = list(portraits.parts()).index("clothes colour")
    clothes, names = where[:, where[0] == 5], portraits.parts()
    assert (clothes[1] == person[0, colour]).all() and (clothes[2] == names["clothes"].index("overalls")).all()
    empty = portraits.render(person, 32)[0][:, where[0] == 0]
    assert (empty.int() - torch.tensor(portraits.BACKGROUND)[:, None]).abs().float().mean() < 2


def test_outlines_by_hand():
    image = torch.full((1, 3, 8, 8), -0.5)
    image[:, 1, 2:5, 2:5] = 0
    around = {(1, 2), (1, 3), (1, 4), (4, 2), (4, 3), (4, 4), (2, 1), (3, 1), (4, 1), (2, 4), (3, 4)}
    assert set(map(tuple, outlines(image)[0].nonzero().tolist())) == around
    assert outline_f1(image, image) == 1 and outline_f1(image.roll(1, 3), image) < 0.6
    assert not outlines(torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)).any()
    assert outline_f1(torch.zeros(1, 3, 8, 8), image) == 0


def test_options_mean_what_users_know():
    plain, own = SYSTEM.trainer(Options(steps=4, **SMALL)), Options(data="x").whole()
    assert plain.rates == {"generator": 1e-3, "discriminator": 2e-4}
    assert (own.netG, own.batch_size, own.lr, own.lambda_L1, own.gan_mode, own.norm) == ("unet_256", 1, 2e-4, 100, "vanilla", "batch")
    assert pix2pix.PORTRAITS.keys() == pix2pix.FOLDER.keys()
    assert (own.n_epochs, own.n_epochs_decay, own.lr_d, Options(data="x", lr=1e-4).whole().lr_d) == (100, 100, 2e-4, 1e-4)
    assert Options(data="x", n_epochs=50).whole().epochs == 150 and Options(data="x", steps=50).whole().epochs == 0
    assert Options().whole().length(300, 2400) == {"steps": 2400} and Options(netD="basic").whole().n_layers_D == 3
    weights = lambda trainer: [{name: weight for name, (_, weight) in phase.weighted.items()} for phase in trainer.phases]
    assert weights(plain) == [{"adversarial": 0.5}, {"adversarial": 1, "l1": 100}]
    least_squares = SYSTEM.trainer(Options(gan_mode="lsgan", lambda_L1=10, n_epochs=3, n_epochs_decay=1, **SMALL))
    assert weights(least_squares) == [{"adversarial": 1}, {"adversarial": 2, "l1": 10}] and least_squares.config.loss == "lsgan"
    assert least_squares.config.steps == 4 * 300 // 8 and least_squares.config.decay_from == 0.75
    assert not any(isinstance(m, torch.nn.Dropout) for m in SYSTEM.trainer(Options(no_dropout=True, **SMALL)).generator.modules())
    assert sum(isinstance(m, torch.nn.Dropout) for m in UnetGenerator(downs=8, width=4).modules()) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"netG": "unet_128"}, "netG got 'unet_128', wants a crop_size, now 64, that is a multiple of 128"),
        ({"crop_size": 48}, "crop_size got 48, wants a crop_size, now 48, that is a multiple of 64, for unet_64"),
        ({"n_layers_D": 5}, "n_layers_D got 5, wants a crop_size, now 64, of at least 96"),
        ({"n_layers_D": 0}, "n_layers_D got 0, wants at least 1"),
        ({"n_layers_D": 5, "netD": "basic"}, "n_layers_D got 5, wants none with netD basic"),
        ({"lambda_L1": -1.0}, "lambda_L1 got -1.0, wants at least 0"),
        ({"ngf": 0}, "ngf got 0, wants at least 1"),
        ({"n_epochs": 2, "batch_size": 0}, "batch_size got 0, wants at least 1"),
        ({"n_epochs": -1}, "n_epochs got -1, wants at least 0"),
        ({"n_epochs": 1, "steps": 2}, "steps got 2, wants none with n_epochs or n_epochs_decay"),
        ({"netG": "unet_46"}, "Did you mean 'unet_64'"),
        ({"direction": "BtoA"}, "direction got 'BtoA', wants AtoB for the portraits"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        SYSTEM.trainer(Options(**given))


def shade(path, value, size=(40, 40)):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def test_a_folder_of_pictures_side_by_side(tmp_path):
    """A dark, B light."""
    for i in range(6):
        whole = Image.new("RGB", (80, 40), (200 + i,) * 3)
        whole.paste((40 + i,) * 3, (0, 0, 40, 40))
        for name in ("train", "val")[: 2 if i < 3 else 1]:
            (tmp_path / name).mkdir(exist_ok=True)
            whole.save(tmp_path / name / f"{i}.png")
    options = Options(data=str(tmp_path), steps=2, **SMALL)
    data, back = sets(options.whole()), sets(Options(data=str(tmp_path), direction="BtoA", **SMALL).whole())
    assert [image.unique().item() for image in data["train_a"]] == [40, 41, 42, 43, 44, 45]
    assert [image.unique().item() for image in data["test_b"]] == [200, 201, 202]
    assert torch.equal(data["train_a"], back["train_b"]) and torch.equal(data["test_b"], back["test_a"])
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert trainer.config.learning_rate == 2e-4 and SYSTEM.figures(trainer, options)["l1_ratio"] > 0
    assert SYSTEM.drawn(trainer, options).shape == (3, 3 * 34 + 2, 3 * 34 + 2)


def test_a_folder_is_read_once_and_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    for name in ("train", "test"):
        shade(tmp_path / name / "a.png", 9, (40, 20))
    ask = lambda **more: sets(Options(data=str(tmp_path), **SMALL | more).whole())
    first = ask()
    assert ask(run_dir=str(tmp_path / "run"), steps=7) is first and ask(direction="BtoA") is not first
    monkeypatch.setattr(source, "room", lambda: 4 * 3 * 32 * 32 - 1)
    sets.cache_clear()
    with pytest.raises(ValueError, match=r"the 4 pictures of .* take 1\.23e-05 GB decoded to 3x32x32, and there is room for"):
        ask()


def test_names_pair_by_their_letters_and_hidden_folders_are_left_out(tmp_path):
    for name in ("trainA", "trainB", "testA", "testB"):
        shade(tmp_path / name / f"{unicodedata.normalize('NFC' if name[-1] == 'A' else 'NFD', 'é')}.png", 9)
    (tmp_path / "trainA" / ".ipynb_checkpoints").mkdir()
    shade(tmp_path / "trainA" / ".ipynb_checkpoints" / "x.png", 9)
    assert len(sets(Options(data=str(tmp_path), **SMALL).whole())["train_a"]) == 1
    for side in "AB":
        (tmp_path / f"train{side}" / "gone.png").symlink_to(tmp_path / "nothing.png")
    sets.cache_clear()
    with pytest.raises(ValueError, match=r"1 pictures that cannot be read: trainA/gone\.png"):
        sets(Options(data=str(tmp_path), **SMALL).whole())


def test_two_folders_of_pictures_paired_by_name(tmp_path):
    for name in ("trainA", "trainB", "testA", "testB"):
        for i in range(3):
            shade(tmp_path / name / f"{i}.{'png' if name[-1] == 'A' else 'bmp'}", 10 * i + (100 if name[-1] == "B" else 0))
    data = sets(Options(data=str(tmp_path), **SMALL).whole())
    for part in ("train", "test"):
        a, b = ([image.unique().item() for image in data[f"{part}_{side}"]] for side in "ab")
        assert (a, b) == ([0, 10, 20], [100, 110, 120])

    def refused():
        sets.cache_clear()  # the folder has changed
        return pytest.raises(ValueError, match=words)

    options = Options(data=str(tmp_path), n_layers_D=1, **SMALL)
    (tmp_path / "trainB" / "1.bmp").rename(tmp_path / "trainB" / "one.bmp")
    words = r"pix2pix: data has 2 pictures in trainA and trainB without a mate of the same name: trainA/1\.png, trainB/one\.bmp"
    with refused():
        SYSTEM.trainer(options)
    (tmp_path / "trainB" / "one.bmp").unlink()
    shade(tmp_path / "trainB" / "1.bmp", 7, (30, 20))
    words = r"1 pairs in trainA and trainB of unequal sizes: 1 \(40 x 40 and 30 x 20\)"
    with refused():
        SYSTEM.trainer(options)
    (tmp_path / "trainB" / "1.bmp").write_bytes(b"no picture")
    words = r"1 pictures that cannot be read: trainB/1\.bmp \(no image that Pillow knows"
    with refused():
        SYSTEM.trainer(options)
    shade(tmp_path / "trainA" / "1.bmp", 7)
    words = r"1 pictures whose name another one has, too: trainA/1\.png"
    with refused():
        SYSTEM.trainer(options)
    for name in ("train", "test"):
        shade(tmp_path / name / "1.png", 7, (41, 20))
    words = r"has the folders test, testA, testB, train, trainA, trainB; wants one of train and test \(or val\), A and B side by side"
    with refused():
        SYSTEM.trainer(options)
    (tmp_path / "testB").rename(tmp_path / "elsewhere")
    words = r"1 pictures of an odd width, which have no halves: train/1\.png \(41 x 20\)"
    with refused():
        SYSTEM.trainer(options)
    (tmp_path / "train").rename(tmp_path / "other")
    words = r"has the folders elsewhere, other, test, testA, trainA, trainB; wants train and test"
    with refused():
        SYSTEM.trainer(options)
    with pytest.raises(ValueError, match="there is no such folder; wants one with train and test"):
        SYSTEM.trainer(Options(data=str(tmp_path / "nothing"), **SMALL))
