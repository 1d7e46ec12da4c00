"""PNGs and GIFs say that they are synthetic, by which model and seed; grids put images where they belong."""

import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ganfast.train.watch import grids
from tests.train.common import FakeSampler


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


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (5, "RGB")])
def test_any_number_of_channels_has_a_picture(channels, mode):
    assert grids.picture(torch.zeros(channels, 4, 5)).mode == mode


def test_a_grid_is_filled_row_by_row():
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 2)
    sheet = grids.tile(images, columns=3, gap=1)
    assert sheet.shape == (1, 7, 10)
    assert sheet[0, 1::3, 1::3].tolist() == [[0, 1, 2], [3, 4, -1]]
    assert (sheet[0, 0] == -1).all() and (sheet[0, :, 3] == -1).all()


def test_rows_of_classes():
    assert grids.class_rows(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert grids.class_rows(40, 1).tolist() == list(range(16))
    assert grids.class_rows(0, 3) is None


def pixels(path) -> torch.Tensor:
    with Image.open(path) as found:
        return torch.frombuffer(bytearray(found.convert("L").tobytes()), dtype=torch.uint8).view(found.height, found.width)


def test_a_grid_of_a_sampler(tmp_path):
    grids.write_grid(tmp_path / "a.png", FakeSampler(classes=["a", "b"]), seed=5, columns=3)
    with Image.open(tmp_path / "a.png") as found:
        assert found.size == (8 * (3 * 10 + 2), 8 * (2 * 10 + 2))  # enlarged 8 times
        assert found.text["Synthetic"].startswith("yes") and found.text["Model"] == "a fake" and found.text["Seed"] == "5"
    grids.write_grid(tmp_path / "again.png", FakeSampler(classes=["a", "b"]), seed=5, columns=3)
    grids.write_grid(tmp_path / "other.png", FakeSampler(classes=["a", "b"]), seed=6, columns=3)
    first, again, other = (pixels(tmp_path / f"{name}.png") for name in ("a", "again", "other"))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first[16:80, 16:-16].float().mean() + 50 < first[96:160, 16:-16].float().mean()  # brighter by label: a row for each class
    grids.write_grid(tmp_path / "plain.png", FakeSampler(), seed=5, columns=3)
    assert pixels(tmp_path / "plain.png").shape == (8 * 32, 8 * 32)


def test_points_are_no_pictures(tmp_path):
    sampler = FakeSampler()
    sampler.generate = lambda latents, condition=None: latents[:, :2]
    with pytest.raises(ValueError, match=r"gives shape \[9, 2\], wants images \[N, C, H, W\].*grids.scatter"):
        grids.write_grid(tmp_path / "a.png", sampler, 0, columns=3)


def test_slerp_keeps_the_angle_and_the_length():
    a, b = torch.tensor([[1.0, 0], [2, 0], [1, 0]]), torch.tensor([[0, 1.0], [0, 2], [-1, 0]])
    half = grids.slerp(a, b, 0.5)
    torch.testing.assert_close(half[:2], torch.tensor([[1.0, 1], [2, 2]]) / math.sqrt(2))
    assert half[2].tolist() == [0, 0]  # opposite: the straight line
    third = grids.slerp(a, b, 1 / 3)
    assert math.degrees(math.atan2(third[0, 1], third[0, 0])) == pytest.approx(30, abs=1e-3)
    x, y = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(grids.slerp(x, y, 0.0), x)
    torch.testing.assert_close(grids.slerp(x, y, 1.0), y)
    torch.testing.assert_close(grids.slerp(x, x, 0.3), x)


def test_an_interpolation_walks_in_a_circle(tmp_path):
    sampler, seen = FakeSampler(classes=["a", "b", "c"]), []
    generate = sampler.generate
    sampler.generate = lambda latents, condition=None: seen.append((latents, condition)) or generate(latents, condition)
    grids.interpolation(tmp_path / "a.gif", sampler, seed=3, columns=2, stops=3, frames=4)
    with Image.open(tmp_path / "a.gif") as found:
        assert found.n_frames == 12 and found.info["loop"] == 0
        assert b"Synthetic: yes" in found.info["comment"] and b"Model: a fake; Seed: 3" in found.info["comment"]
    latents = [latent for latent, _ in seen]
    stops = sampler.latents(18, 3).view(3, 6, -1)
    assert all(labels.tolist() == [0, 0, 1, 1, 2, 2] for _, labels in seen)
    for stop in range(3):
        torch.testing.assert_close(latents[4 * stop], stops[stop])
    steps = [(b - a).norm() for a, b in zip(latents, [*latents[1:], latents[0]], strict=True)]
    assert max(steps) < 2 * min(steps)  # even steps, from the last to the first too


def test_a_gif_shows_every_frame_and_says_what_it_is(tmp_path):
    for i in range(3):
        grids.write_png(tmp_path / f"{i}.png", torch.full((1, 8, 8), i - 1.0), {})
    grids.write_gif(tmp_path / "a.gif", sorted(tmp_path.glob("*.png")), grids.about("the model", 5))
    with Image.open(tmp_path / "a.gif") as found:
        assert found.n_frames == 3
        assert b"Synthetic: yes" in found.info["comment"] and b"Model: the model; Seed: 5" in found.info["comment"]


@pytest.mark.parametrize(
    ("side", "rows", "seen", "of"),
    [
        (28, False, (302, 302), 28),  # enlarged twice in the grid, as it is in the clip
        (64, False, (5 * 66 + 2, 5 * 66 + 2), 64),
        (64, True, (5 * 66 + 2, 10 * 66 + 2), 64),
        (256, False, (258 + 2, 258 + 2), 256),
        (400, False, (310, 310), None),  # too large for a clip: smaller than they are
    ],
)
def test_pictures_in_the_learning_clip_are_as_large_as_they_are(tmp_path, side, rows, seen, of):
    sampler = SimpleNamespace(name="a", classes=[], sample=lambda n, labels, seed: stripes(n, side))
    grids.write_grid(tmp_path / "a.png", sampler, 0)
    grids.write_gif(tmp_path / "a.gif", [tmp_path / "a.png"], {}, cell=(side, side), rows=rows)
    shown = pixels(tmp_path / "a.gif")
    assert shown.shape == seen[::-1]
    if of:
        for place in (2, 2 + side + 2) if side < 256 else (2,):
            assert torch.equal(shown[2 : 2 + side, place : place + side] > 127, stripes(1, side)[0, 0] > 0)


def stripes(n, side):
    return ((torch.arange(side) // 2 % 2).float() * 2 - 1).expand(n, 1, side, side).contiguous()


def test_a_clip_without_frames_says_so(tmp_path):
    with pytest.raises(ValueError, match="frames is empty"):
        grids.write_gif(tmp_path / "a.gif", [], {})
