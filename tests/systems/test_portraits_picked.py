"""The system portraits: one small run by the command, and what is picked from it."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganfast import cli
from ganfast.systems import command, inpainting, portraits, running
from ganfast.systems.portraits import SYSTEM, Options, enlarged, sets, sheet, variations
from ganfast.systems.sources import portraits as source
from ganfast.train.command_line import commands
from ganfast.train.data import to_float
from ganfast.train.randomness import mixed
from ganfast.train.watch.metrics import pixels8, precision_recall

SIZE, COUNT, COLUMNS, TIMES = 16, 12, 5, 3
SMALL = [f"--image-size={SIZE}", "--width=8", "--pictures=256", "--steps=250", f"--variations={COUNT}", f"--enlarge={TIMES}", "--seed=5"]
FIGURES = {"precision_pixels8", "recall_pixels8", "precision_pixels8_real", "recall_pixels8_real"}
EXACT = "donot_use_mm_for_euclid_dist"
PLAIN = ["--no-fused", "--precision=fp32", "--device=cpu"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "portraits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portraits, "MEASURED", 80)
        patch.setattr(source, "read", lambda images: source.attributes(len(images)))  # its own test says what it reads; it takes seconds
        sets.cache_clear()
        cli.main(["run", "portraits", "--run-dir", str(folder), *SMALL, *PLAIN])
        yield folder
    sets.cache_clear()


@pytest.fixture(scope="module")
def put_back(ran):
    system, options = running.saved(ran)
    return running.put_back(system, options, ran), options


def png(path: Path) -> tuple[torch.Tensor, dict[str, str]]:
    """uint8 [3, H, W], and its text fields."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1), dict(image.text)


def cell(whole: torch.Tensor, number: int) -> torch.Tensor:
    row, column = divmod(number - 1, COLUMNS)
    top, left = 2 + row * (SIZE + portraits.LINE), 2 + column * (SIZE + 2)
    return whole[:, top : top + SIZE, left : left + SIZE]


def fails(capsys, *args: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main([str(arg) for arg in args])
    return capsys.readouterr().err


def test_it_learns_in_some_hundred_steps_and_does_not_collapse(put_back):
    trainer, options = put_back
    held = pixels8(to_float(sets(None, SIZE, 256, 5)["held"]))
    drawn = lambda trainer: pixels8(trainer.sample(80, seed=1))
    apart = lambda x: torch.cdist(x, held).min(1).values.mean().item()
    spread = lambda x: x.std(0).mean().item()
    made, at_first = drawn(trainer), drawn(SYSTEM.trainer(dataclasses.replace(options, run_dir=None)))
    assert apart(made) < 0.75 * apart(at_first)
    assert (made.mean(0) - held.mean(0)).abs().mean() < 0.5 * (at_first.mean(0) - held.mean(0)).abs().mean()
    assert spread(made) > 0.3 * spread(held) > 30 * spread(at_first)


def test_the_run_says_what_it_reached(ran):
    figures = json.loads((ran / "result.json").read_text())["figures"]
    assert figures.keys() == {"compared", *FIGURES, "distinct", "distinct_real", "new", "l1"} and figures["compared"] == 80
    assert 0.7 < figures["precision_pixels8_real"] <= 1 and 0.7 < figures["recall_pixels8_real"] <= 1
    read = source.attributes(160)  # by the fixture's rule
    found, held = portraits._number(read[:80]).unique(), portraits._number(read[80:]).unique()
    assert figures["distinct"] == len(found) and figures["distinct_real"] == len(held) and 0 < figures["l1"] < 1
    seen = set(portraits._number(sets(None, SIZE, 256, 5)["people"]).tolist())
    assert figures["new"] == pytest.approx(sum(number not in seen for number in found.tolist()) / len(found))


def test_what_is_picked_is_what_the_contact_sheet_shows(ran, put_back, tmp_path, capsys):
    cli.main(["sample", str(ran), "--pick", "3, 12,3", "--out", str(tmp_path)])
    assert f"2 images in {tmp_path}" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"number-003.png", "number-012.png"}
    whole, there = png(ran / "picture.png")[0], variations(*put_back)
    assert len({image.numpy().tobytes() for image in there}) == COUNT
    for number in range(1, COUNT + 1):
        assert torch.equal(cell(whole, number), there[number - 1])
    for number in (3, 12):
        image, fields = png(tmp_path / f"number-{number:03d}.png")
        larger = portraits.to_uint8(enlarged(cell(whole, number)[None], TIMES))[0]
        assert image.shape == (3, SIZE * TIMES, SIZE * TIMES) and torch.equal(image, larger)
        assert fields["Number"] == str(number) and fields["Seed"] == "5" and fields["Credit"] == source.CREDIT
        assert fields["Synthetic"].startswith("yes") and "portraits: DCGANGenerator" in fields["Model"] and "step 250" in fields["Model"]


def test_a_contact_sheet_may_grow_after_the_training(ran, tmp_path):
    there, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(ran, there)
    cli.main(["run", "portraits", "--resume", "--run-dir", str(there), "--variations", "15"])
    cli.main(["sample", str(there), "--pick", "3,14", "--out", str(out)])
    assert torch.equal(cell(png(there / "picture.png")[0], 3), cell(png(ran / "picture.png")[0], 3))
    assert {path.name for path in out.iterdir()} == {"number-003.png", "number-014.png"}


def test_picks_that_cannot_be_are_refused_and_leave_nothing(ran, tmp_path, capsys):
    out = tmp_path / "out"
    for asked, words in [
        (["--pick", "3,13"], "pick got 13, wants 1 to 12, the numbers on the contact sheet"),
        (["--pick", "0"], "pick got 0, wants 1 to 12"),
        (["--pick", "3-7"], "pick got '3-7', wants numbers of the contact sheet, such as 3,7,12"),
        (["--pick", ""], "pick got '', wants numbers"),
        (["--pick", "3", "--seed", "5"], "seed got '5', wants none with pick. The contact sheet is of the run's seed"),
        (["--pick", "3", "--count", "5"], "count got '5', wants none with pick. Each number that is picked gives one picture"),
        (["--text", "a woman"], "text got 'a woman', wants none. The system portraits takes no text"),
    ]:
        assert words in fails(capsys, "sample", ran, "--out", out, *asked)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"pick got '3', wants none\. The system inpainting takes no pick"):
        command._check_asked(inpainting.SYSTEM, {"pick": "3"})
    with pytest.raises(ValueError, match=r"pick got '3', wants none\. The run is not of a system that draws a contact sheet"):
        commands.sample(commands.Sample(tmp_path, pick="3"))


def test_others_than_those_of_the_sheet_come_as_they_are(ran, tmp_path):
    cli.main(["sample", str(ran), "--count", "2", "--seed", "9", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "image-000.png", "image-001.png"}
    assert png(tmp_path / "image-001.png")[0].shape == (3, SIZE, SIZE)


def test_numbers_stand_below_their_pictures():
    images = torch.randint(0, 256, (COUNT, 1, SIZE, SIZE), dtype=torch.uint8)
    whole = sheet(images, "words")
    strips = []
    for number in range(1, COUNT + 1):
        row, column = divmod(number - 1, COLUMNS)
        top, left = 2 + row * (SIZE + portraits.LINE) + SIZE, 2 + column * (SIZE + 2)
        assert torch.equal(cell(whole, number), images[number - 1].expand(3, -1, -1))
        strips.append((255 - whole[:, top : top + portraits.LINE, left : left + SIZE].float()).mean(0))
    assert len({strip.numpy().tobytes() for strip in strips}) == COUNT and all(strip.max() > 100 for strip in strips)
    assert not torch.equal(whole, sheet(images, "other words"))
    narrow, wide = (sheet(torch.zeros(1, 1, 8, side, dtype=torch.uint8), "more words than 8 pixels hold") for side in (8, 500))
    narrow, wide = narrow[:, -portraits.LINE :], wide[:, -portraits.LINE :]
    last = int((wide.amin((0, 1)) < 128).nonzero().max())
    assert 8 < last < narrow.shape[2] and torch.equal(narrow, wide[:, :, : narrow.shape[2]])


class Shows:
    """In place of a trainer: so many of these pictures, uint8 [N, 3, S, S], one after another, by `lighter` away from them."""

    def __init__(self, images: torch.Tensor, lighter: float = 0.0) -> None:
        self.images, self.lighter = to_float(images), lighter

    def sample(self, count: int, *, seed: int) -> torch.Tensor:
        return self.images[torch.arange(count) % len(self.images)] + self.lighter


def test_figures_of_what_is_known(monkeypatch):
    monkeypatch.setattr(portraits, "MEASURED", 80)
    sets.cache_clear()
    options = Options(image_size=SIZE, pictures=256, seed=5)
    data = sets(None, SIZE, 256, 5)
    real, others = data["held"][:80], data["held"][80:]
    trained, held = data["people"].unique(dim=0)[:10], source.attributes(16 * 80, mixed(5, "held"))[:300]
    new = held[~torch.isin(portraits._number(held), portraits._number(data["people"]))].unique(dim=0)[:30]
    known = torch.cat([trained, held])  # of so few it takes no seconds to tell who is shown
    drawn = to_float(source.render(known, SIZE)).flatten(1)
    monkeypatch.setattr(source, "read", lambda images: known[torch.cdist(images.flatten(1), drawn, compute_mode=EXACT).argmin(1)])
    shown = source.render(torch.cat([trained, new]), SIZE)
    figures = SYSTEM.measure(Shows(shown, 0.01), options)
    assert (figures["distinct"], figures["new"]) == (40, 0.75) and figures["l1"] == pytest.approx(0.01, abs=1e-5)
    assert 40 < figures["distinct_real"] <= 80
    by_pixels8 = lambda one, other: precision_recall(pixels8(to_float(one)), pixels8(to_float(other)))
    assert (figures["precision_pixels8_real"], figures["recall_pixels8_real"]) == by_pixels8(real, others)
    grey = SYSTEM.measure(Shows(torch.full_like(real[:1], 128)), options)
    assert (grey["precision_pixels8"], grey["recall_pixels8"], grey["distinct"]) == (0, 0, 1)
    right = SYSTEM.measure(Shows(real), options)
    assert (right["precision_pixels8"], right["recall_pixels8"], right["l1"], right["compared"]) == (1, 1, 0, 80)
    few = SYSTEM.measure(Shows(real[:8]), options)
    assert few["precision_pixels8"] == 1 and few["recall_pixels8"] < 0.5
    sets.cache_clear()


def test_held_out_people_are_in_no_training_picture():
    data = sets(None, SIZE, 256, 5)
    seen = {image.numpy().tobytes() for image in data["train"]}
    assert not any(image.numpy().tobytes() in seen for image in data["held"])
    assert torch.equal(source.render(data["people"][:3], SIZE), data["train"][:3])


def test_each_of_the_people_has_a_number_of_its_own():
    every = torch.cartesian_prod(*(torch.arange(len(names)) for names in source.parts().values()))
    assert torch.equal(portraits._number(every), torch.arange(19440))


def test_own_pictures(tmp_path):
    for i in range(16):
        Image.effect_noise((20, 20), 20 + i).convert("RGB").save(tmp_path / f"{i}.png")
    options = Options(data=str(tmp_path), image_size=16, width=4, steps=2, batch_size=4, r1=1.0, augment="color", variations=7, fused=False)
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert SYSTEM.figures(trainer, options) == {"compared": 0}  # of so few none are held out
    assert trainer.source.length == 16
    assert SYSTEM.drawn(trainer, options).shape[0] == 3 and SYSTEM.credit_of(options) == ""
    (tmp_path / "0.png").write_bytes(b"no picture")
    sets.cache_clear()
    with pytest.raises(ValueError, match=r"has 15 pictures that can be read, wants at least 16. 1 cannot be read, the first: .*0.png"):
        SYSTEM.trainer(options)
    with pytest.raises(ValueError, match=r"got 'digits', wants a folder of images; there is no such folder\.(?! Did you mean 'digits')"):
        SYSTEM.trainer(Options(data="digits"))


def test_of_many_own_pictures_some_are_held_out_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(portraits, "LEAST", 6)
    sets.cache_clear()
    (tmp_path / "more").mkdir()
    for i in range(60):  # some of them beside the others
        Image.effect_noise((16, 16), 20 + i).save(tmp_path / ("more" if i % 2 else "") / f"{i}.png")
    data = sets(str(tmp_path), 16, 5000, 0)
    train, held = ({image.numpy().tobytes() for image in data[name]} for name in ("train", "held"))
    assert (len(train), len(held), len(train | held)) == (48, 12, 60)
    figures = SYSTEM.figures(Shows(data["held"][:6]), Options(data=str(tmp_path), image_size=16))
    assert figures.keys() == {"compared", *FIGURES}
    assert (figures["compared"], figures["precision_pixels8"], figures["recall_pixels8"]) == (6, 1, 1)
    sets.cache_clear()


def test_pictures_that_cannot_be_read_are_listed_by_the_run(tmp_path, capsys):
    for i in range(17):
        Image.effect_noise((16, 16), 20 + i).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    there = ["--data", str(tmp_path), "--run-dir", str(tmp_path / "run")]
    cli.main(["run", "portraits", *there, "--image-size=16", "--width=4", "--steps=1", "--batch-size=4", *PLAIN])
    assert f"1 images cannot be read and are left out, listed in {tmp_path / 'run' / 'broken.txt'}" in capsys.readouterr().err
    assert "3.png" in (tmp_path / "run" / "broken.txt").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": 48}, "image_size got 48, wants a power of two of at least 16"),
        ({"image_size": 512}, "image_size got 512, wants at most 256 for composed portraits"),
        ({"variations": 0}, "variations got 0, wants at least 1"),
        ({"enlarge": 0}, "enlarge got 0, wants at least 1"),
        ({"pictures": 10}, "pictures got 10, wants 64 to 20000"),
        ({"pictures": 300, "data": "."}, "pictures got 300, wants no value beside data: it is of the system's own data alone"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Options(**given)
