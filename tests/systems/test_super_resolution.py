import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ganfast.models.super_resolution import RRDBNet, enlarged
from ganfast.systems import super_resolution
from ganfast.systems.sources import pictures as own
from ganfast.systems.sources.photographs import photographs
from ganfast.systems.super_resolution import SYSTEM, Discriminator, Options, crops, detailed, made, sets, shrunk, w1
from ganfast.train.data import to_float, to_uint8
from ganfast.train.watch.metrics import psnr

SMALL = {"width": 16, "blocks": 2, "width_d": 8, "crops": 512, "crop_size": 32, "fused": False}
LOADED = {name: value for name, value in SMALL.items() if name not in ("width", "blocks")}  # which a file of weights says
SHORT = SMALL | {"steps": 100, "batch_size": 8, "learning_rate": 2e-3, "adversarial": 0.08}


@pytest.fixture(scope="module")
def trained():
    options = Options(**SHORT)
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    return trainer, options, SYSTEM.measure(trainer, options)


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        Image.effect_noise((70 + 4 * i, 50 + i), 20 + 5 * i).convert("RGB").save(tmp_path / f"{i:02}.png")
    return tmp_path


def test_the_error_alone_comes_nearer_to_a_photograph_that_was_held_out(trained):
    """Untrained it is bicubic enlargement, and gains 0 dB."""
    _, _, figures = trained
    assert figures["gain_l1"] > 0.1
    assert figures["gain_l1"] == pytest.approx(figures["psnr_l1"] - figures["psnr_bicubic"])


def test_the_discriminator_makes_slopes_like_real_ones(trained):
    _, _, figures = trained
    assert figures["w1"] < 0.95 * min(figures["w1_l1"], figures["w1_bicubic"])


def test_the_measure_by_known_answers():
    """Bicubic enlargement gains nothing; one who knows the photograph makes no mistake."""
    options = Options()
    real = sets(options)[1][0][None]
    answers = {"plain": enlarged(to_float(shrunk(real))), "generator": to_float(real)}
    trainer = SimpleNamespace(sample=lambda n, low, network: answers[network])
    figures = SYSTEM.measure(trainer, options)
    assert figures["gain_l1"] == 0 and figures["w1_l1"] == figures["w1_bicubic"] > 0
    assert figures["w1"] == figures["w1_ratio"] == 0 and figures["psnr"] == float("inf")


def test_a_mean_over_pictures_is_of_all_of_them(monkeypatch):
    """Of two pictures, the figures are between those of each alone; of plain ones no ratio can be given."""
    pictures = [torch.randint(0, top, (3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8) for top in (8, 256)]
    trainer = SimpleNamespace(sample=lambda n, low, network: enlarged(to_float(low)) / 2)
    found = []
    for held in (pictures, pictures[:1], pictures[1:], [torch.full((3, 32, 32), 255, dtype=torch.uint8)]):
        monkeypatch.setattr(super_resolution, "sets", lambda options, held=held: ([], held))
        found.append(SYSTEM.measure(trainer, Options()))
    both, dark, light, plain = found
    for key in ("psnr", "psnr_l1", "psnr_bicubic", "w1", "w1_bicubic"):
        assert both[key] == pytest.approx((dark[key] + light[key]) / 2) and dark[key] != pytest.approx(light[key]), key
    assert plain["w1_bicubic"] < 1e-6 and plain["w1_ratio"] == float("inf")


def test_a_broken_picture_is_named_before_the_training(folder):
    """The header of a file that is cut off can be read, its pixels cannot; it is held out, or learned from."""
    train, test = sets(Options(data=str(folder), **SHORT))
    for path in (test.paths[0], train.paths[0]):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        super_resolution.sets.cache_clear()
        with pytest.raises(ValueError, match=rf"1 pictures that cannot be read: {path.name} \(.*truncated"):
            SYSTEM.trainer(Options(data=str(folder), **SHORT))
        path.write_bytes(whole)


def test_pictures_are_found_as_in_every_folder(folder):
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "00.png").write_bytes(b"no picture")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    (folder.parent / "elsewhere").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64)).save(folder.parent / "elsewhere" / "x.png")
    train, test = own.pictures("super-resolution", folder, 16, 4)
    assert len(train) + len(test) == 13 and len(own.pictures("super-resolution", folder, 16, 4, most=3)[0]) == 3
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    with pytest.raises(ValueError, match=r"1 pictures that cannot be read: gone\.png"):
        own.pictures("super-resolution", folder, 16, 4)


def test_of_own_pictures_no_crop_is_enlarged_unless_that_is_asked(folder):
    learned = lambda **given: SYSTEM.trainer(Options(data=str(folder), **SMALL | {"crops": 16} | given)).source.leaves[1]
    train, _ = sets(Options(data=str(folder), **SMALL | {"crops": 16}))
    assert torch.equal(learned(), crops(train, 16, 32, 0, enlarge=False)["high"])
    assert torch.equal(learned(enlarge="yes"), crops(train, 16, 32, 0)["high"])
    places = train[0].unfold(1, 32, 1).unfold(2, 32, 1).flatten(1, 2).transpose(0, 1)
    as_it_is = lambda square: any((places == square.rot90(k, (1, 2))).flatten(1).all(1).any() for k in range(4))
    assert all(map(as_it_is, learned()[:2])) and not all(map(as_it_is, learned(enlarge="yes")[:2]))


def test_without_the_penalty_it_is_left_out_and_a_rate_of_0_is_not_the_default():
    terms = lambda r1: SYSTEM.trainer(Options(r1=r1, **SMALL | {"crops": 16})).phases[0].terms.keys()
    assert terms(0.0) == {"adversarial"} and terms(0.1) == {"adversarial", "r1"}
    with pytest.raises(ValueError, match="learning_rate"):
        SYSTEM.trainer(Options(learning_rate=0.0, **SMALL | {"crops": 16}))


def test_figures_by_hand():
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.2)) == pytest.approx(20, abs=1e-4)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert w1(ramp, ramp.flip(3)) == 0  # as steep, in another order
    assert w1(2 * ramp, ramp) == pytest.approx(7 / 8)  # one steeper, but in the last column, where nothing follows


def test_what_is_measured_was_not_learned_from():
    china, flower = (photograph.image[:, :424, :640] for photograph in photographs())
    for name, (train, test) in {"china": (china, flower), "flower": (flower, china)}.items():
        options = Options(learn_from=name)
        assert torch.equal(sets(options)[0][0], train) and torch.equal(sets(options)[1][0], test)
    low, high = SYSTEM.trainer(Options(**SHORT)).source.leaves
    assert torch.equal(high, crops([china], 512, 32, seed=0)["high"]) and torch.equal(low, shrunk(high))


def test_crops_are_of_three_sharpnesses_and_turned():
    """Of a picture that tells each pixel's place: it is enlarged 1, 1.5 or 2 times."""
    y, x = torch.meshgrid(torch.arange(120), torch.arange(200), indexing="ij")
    found = crops([torch.stack([y, x, y]).to(torch.uint8)], 60, 48, seed=0)
    assert found["low"].shape == (60, 3, 12, 12) and found["high"].dtype == torch.uint8
    inner = found["high"][:, 0, 4:-4, 4:-4].float()
    down, right = inner.diff(dim=1).mean((1, 2)), inner.diff(dim=2).mean((1, 2))
    steep = down + right  # one of them is 0
    assert {round(value, 1) for value in steep.abs().tolist()} == {1.0, 0.7, 0.5}
    assert {(round(a), round(b)) for a, b in zip((down / steep.abs()).tolist(), (right / steep.abs()).tolist())} == {
        (1, 0), (-1, 0), (0, 1), (0, -1),
    }  # fmt: skip


def test_pictures_are_made_small_without_aliases():
    noise = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert to_float(shrunk(noise)).std() < 0.25 * to_float(noise).std()  # of 16 independent pixels or more each
    assert torch.equal(shrunk(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)), torch.full((1, 3, 2, 2), 77, dtype=torch.uint8))


def test_the_generators_see_what_is_small_alone(trained):
    trainer, _, _ = trained
    seen = []
    spy = SimpleNamespace(sample=lambda n, low, network: seen.append(low) or trainer.sample(n, low, network=network))
    high = sets(trained[1])[1][0][None, :, :64, :96]
    found = made(spy, high)
    assert len(seen) == 2 and all(torch.equal(low, shrunk(high)) for low in seen)
    assert torch.equal(found["bicubic"], enlarged(to_float(shrunk(high)))) and found["generator"].shape == high.shape
    assert not torch.equal(found["generator"], found["plain"])
    assert psnr(found["plain"], to_float(high)) > psnr(found["plain"].flip(3), to_float(high)) + 3


def test_the_discriminator_is_told_what_is_small():
    network, images = Discriminator(8), torch.randn(2, 3, 32, 32)
    low = to_float(shrunk(to_uint8(images)))
    assert network(images, low).shape == (2, 1, 8, 8) and not torch.equal(network(images, low), network(images, low.roll(1, 0)))


def test_the_picture_shows_what_is_detailed_in_its_order(trained):
    trainer, options, _ = trained
    image = SYSTEM.picture(trainer, options)
    assert image.shape == (3, 4 * 98 + 2, 4 * 98 + 2)
    cell = lambda row, column: image[:, 2 + 98 * row : 98 * (row + 1), 2 + 98 * column : 98 * (column + 1)]
    high = detailed(sets(options)[1][0], 96)
    low = cell(0, 0)
    assert torch.equal(cell(0, 3), high[0]) and torch.equal(cell(2, 3), high[2])
    assert torch.equal(low, shrunk(high[:1])[0].repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert torch.equal(cell(0, 1), to_uint8(enlarged(to_float(low[None, :, ::4, ::4])))[0])
    steep = to_float(high).diff(dim=3).abs().mean((1, 2, 3))
    assert steep[:4].mean() > 2 * steep[4:].mean()


def test_own_pictures(folder):
    options = Options(data=str(folder), **SHORT | {"steps": 2})
    train, test = sets(options)
    assert (len(train), len(test)) == (10, 2)
    assert not set(train.paths) & set(test.paths)
    assert all(side % 4 == 0 for image in (*train, *test) for side in image.shape[1:])
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert SYSTEM.measure(trainer, options).keys() >= SYSTEM.goals.keys()
    assert SYSTEM.picture(trainer, options).shape[0] == 3 and SYSTEM.credit_of(options) == ""


def test_of_a_large_picture_that_is_held_out_the_middle(tmp_path):
    for name in "ab":
        image = Image.new("RGB", (700, 90))
        image.putpixel((350, 45), (255, 0, 0))
        image.save(tmp_path / f"{name}.png")
    train, test = own.pictures("super-resolution", tmp_path, 16, 4)
    assert train[0].shape == (3, 88, 700) and test[0].shape == (3, 88, 640)
    assert test[0][0].argmax() == 44 * 640 + 320


def test_published_weights_are_where_training_begins(tmp_path):
    network = RRDBNet(width=8, blocks=1, growth=4)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "x4.pth")
    trainer = SYSTEM.trainer(Options(weights=str(tmp_path / "x4.pth"), **LOADED))
    for name in ("generator", "plain"):
        loaded = trainer.networks[name].state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())
    assert trainer.rates == {"generator": 1e-4, "plain": 1e-4, "discriminator": 1e-3}
    high = sets(Options(**SHORT))[1][0][None, :, :32, :32]
    low = to_float(shrunk(high))
    wanted = 2 * network((low + 1) / 2) - 1
    torch.testing.assert_close(made(trainer, high)["generator"], wanted.detach().clamp(-1, 1))


def test_credits_name_the_authors():
    said = SYSTEM.credit_of(Options())
    assert "danielbuechele" in said and "vultilion" in said and "CC BY 2.0" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"crop_size": 50}, "crop_size got 50, wants a multiple of 4 of at least 16"),
        ({"crop_size": 12}, "crop_size got 12, wants"),
        ({"crops": 8}, "crops got 8, wants at least batch_size, which is 16"),
        ({"width": 0}, "width got 0, wants at least 1"),
        ({"learn_from": "chyna"}, "Did you mean 'china'"),
        ({"learn_from": "china", "data": "x"}, "learn_from got 'china', wants none with data"),
        ({"width": 8, "weights": "x"}, "width got 8, wants none with weights"),
        ({"network": "rrdb", "weights": "x"}, "network got 'rrdb', wants none with weights"),
        ({"growth": 8}, "growth got 8, wants none but with network rrdb"),
        ({"r1": -1.0}, "r1 got -1.0, wants at least 0"),
    ],
)
def test_options_that_cannot_be(given, words):
    with pytest.raises(ValueError, match=words):
        Options(**given)


def test_what_is_missing_or_wrong_is_named_before_a_folder_is_made(tmp_path, folder):
    run_dir = tmp_path.with_name("run")

    def refused(words: str, **given: object) -> None:
        with pytest.raises(ValueError, match=f"super-resolution: {words}"):
            SYSTEM.trainer(Options(run_dir=str(run_dir), **LOADED | given))

    refused("weights got .*nowhere.pth', wants a file", weights=str(tmp_path / "nowhere.pth"))
    (tmp_path / "text.pth").write_bytes(b"no state dict")
    refused(".*text.pth cannot be read as a state dict", weights=str(tmp_path / "text.pth"))
    refused("data got .*nowhere', wants a folder of pictures. There is none", data=str(tmp_path / "nowhere"))
    refused("data got .*00.png', wants a folder of pictures. This is a file", data=str(folder / "00.png"))
    refused(r"data has 6 pictures smaller than 56 x 56 pixels: 00.png \(70 x 50\), 01.png .* and 1 more", data=str(folder), crop_size=56)
    (folder / "05.png").write_bytes(b"no picture")
    refused(
        r"data has 1 pictures that cannot be read: 05.png \(no image that Pillow knows, it begins with b'no picture'\)", data=str(folder)
    )
    for file in sorted(folder.glob("*.png"))[1:]:
        file.unlink()
    refused("data .* holds 1 pictures, wants two at least", data=str(folder))
    assert not run_dir.exists()


def test_the_photographs_package_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    super_resolution.sets.cache_clear()
    with pytest.raises(ImportError, match="the source of photographs needs the package scikit-learn"):
        SYSTEM.trainer(Options(**SHORT))
