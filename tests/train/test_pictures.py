"""PNGs and GIFs say that they are synthetic, by which model and seed; grids put images where they belong."""

import torch
from PIL import Image

from ganfast.train import Trainer, checkpoint, grids, metrics
from tests.train.common import small


def test_a_png_says_what_it_is(tmp_path):
    image = torch.linspace(-1, 1, 48).reshape(1, 6, 8)
    grids.write_png(tmp_path / "a.png", image, grids.about("the model", 3) | {"Label": "7"}, scale=2)
    with Image.open(tmp_path / "a.png") as found:
        assert found.size == (16, 12) and found.mode == "L"
        assert found.text["Synthetic"].startswith("yes") and found.text["Model"] == "the model"
        assert found.text["Seed"] == "3" and found.text["Label"] == "7"
        assert found.getpixel((0, 0)) == 0 and found.getpixel((15, 11)) == 255


def test_colours_keep_their_places(tmp_path):
    image = torch.full((3, 4, 4), -1.0)
    image[0] = 1
    grids.write_png(tmp_path / "red.png", image, {})
    with Image.open(tmp_path / "red.png") as found:
        assert found.getpixel((1, 1)) == (255, 0, 0)


def test_a_grid_is_filled_row_by_row():
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 2)
    sheet = grids.tile(images, columns=3, gap=1)
    assert sheet.shape == (1, 7, 10)
    assert sheet[0, 1::3, 1::3].tolist() == [[0, 1, 2], [3, 4, -1]]
    assert (sheet[0, 0] == -1).all() and (sheet[0, :, 3] == -1).all()


def test_rows_of_classes():
    assert grids.class_rows(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert grids.class_rows(40, 1).tolist() == list(range(16))
    assert grids.class_rows(0, 3).tolist() == [0] * 9


def test_the_grids_of_a_run_show_the_same_latents_and_say_so(tmp_path):
    trainer = Trainer(small(tmp_path, steps=4, sample_every=2, learning_rate=1e-9, ema=0.0))
    trainer.fit(progress_bar=False)
    first, last = sorted((tmp_path / checkpoint.GRIDS).iterdir())
    with Image.open(first) as a, Image.open(last) as b:
        assert a.text["Model"].endswith("step 2") and b.text["Model"].endswith("step 4") and a.text["Seed"] == "0"
        assert a.size == (4 * (10 * 18 + 2),) * 2
        pixels = [torch.frombuffer(bytearray(x.tobytes()), dtype=torch.uint8).float() for x in (a, b)]
    assert (pixels[0] - pixels[1]).abs().mean() < 6  # only the norms' statistics moved
    assert pixels[0].std() > 1


def test_a_gif_shows_every_frame_and_says_what_it_is(tmp_path):
    for i in range(3):
        grids.write_png(tmp_path / f"{i}.png", torch.full((1, 8, 8), i - 1.0), {})
    grids.write_gif(tmp_path / "a.gif", sorted(tmp_path.glob("*.png")), grids.about("the model", 5))
    with Image.open(tmp_path / "a.gif") as found:
        assert found.n_frames == 3
        assert b"Synthetic: yes" in found.info["comment"] and b"Model: the model; Seed: 5" in found.info["comment"]


def test_the_curves_say_what_they_are(tmp_path):
    Trainer(small(tmp_path)).fit(progress_bar=False)
    metrics.write_curves(tmp_path / checkpoint.LOG, tmp_path / "curves.png", "the model", 5)
    with Image.open(tmp_path / "curves.png") as found:
        assert found.text["Synthetic"].startswith("yes") and found.text["Model"] == "the model" and found.text["Seed"] == "5"
