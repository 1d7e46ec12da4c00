"""An image of any kind becomes the square that a person expects."""

import numpy as np
import pytest
import torch
from PIL import Image

from ganfast.train.data.decode import Files, square

RED, WHITE = (255, 0, 0), (255, 255, 255)


def read(path, size=16, channels=3):
    return Files([path], size, channels)[0]


def colour(pixels):
    """The image's one colour."""
    assert (pixels == pixels[:, :1, :1]).all()
    return tuple(pixels[:, 0, 0].tolist())


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    Image.new("L", (16, 16), 77).save(tmp_path / "grey.png")
    assert colour(read(tmp_path / "grey.png")) == (77, 77, 77)
    Image.new("RGB", (16, 16), RED).save(tmp_path / "red.png")
    assert colour(read(tmp_path / "red.png", channels=1)) == (76,)  # luma: 0.299 * 255
    Image.new("1", (16, 16), 1).save(tmp_path / "bits.png")
    assert colour(read(tmp_path / "bits.png", channels=1)) == (255,)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    if mode == "P":
        image = Image.new("P", (16, 16), 0)
        image.putpalette([*RED, 0, 0, 255])
        image.putpixel((0, 0), 1)
        image.save(tmp_path / "a.png", transparency=0)
        expected = WHITE
    else:
        image = Image.new("RGBA", (16, 16), (0, 0, 0, 51))  # a fifth of black: 204
        image.convert(mode).save(tmp_path / "a.png")
        expected = (204, 204, 204)
    pixels = read(tmp_path / "a.png")
    assert tuple(pixels[:, 8, 8].tolist()) == expected
    if mode == "P":
        assert tuple(pixels[:, 0, 0].tolist()) == (0, 0, 255)


def test_a_palette_keeps_its_colours(tmp_path):
    Image.new("RGB", (16, 16), (10, 200, 30)).quantize(4).save(tmp_path / "a.gif")
    assert colour(read(tmp_path / "a.gif")) == (10, 200, 30)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    assert torch.equal(read(tmp_path / f"deep.{suffix}", channels=1).flatten(), torch.arange(256, dtype=torch.uint8))


def test_levels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((16, 16), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match="levels are floats"):
        read(tmp_path / "f.tif")
    Image.fromarray(np.full((16, 16), 70000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(ValueError, match="levels from 70000 to 70000"):
        read(tmp_path / "i.tif")


def test_printing_colours_of_a_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = colour(read(tmp_path / "a.jpg"))
    assert red > 250 and green < 5 and blue < 5


def test_a_photo_stands_upright(tmp_path):
    """EXIF says: turn right by 90 degrees to see it; its left half then lies on top."""
    image = Image.new("RGB", (32, 32), "blue")
    image.paste(RED, (0, 0, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    pixels = read(tmp_path / "a.png", 32)
    assert tuple(pixels[:, 2, 30].tolist()) == RED and tuple(pixels[:, 30, 2].tolist()) == (0, 0, 255)


def test_damaged_exif_loses_no_image(tmp_path, monkeypatch):
    from PIL import ImageOps

    Image.new("RGB", (16, 16), RED).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: 1 / 0)
    assert colour(read(tmp_path / "a.png")) == RED


@pytest.mark.parametrize("size", [(60, 20), (20, 60)])
def test_of_an_oblong_the_centre_stays(tmp_path, size):
    image = Image.new("RGB", size, "black")
    left, top = (size[0] - 20) // 2, (size[1] - 20) // 2
    image.paste(RED, (left, top, left + 20, top + 20))
    image.save(tmp_path / "a.png")
    assert colour(read(tmp_path / "a.png")[:, 3:-3, 3:-3]) == RED  # the filter reaches over the edge


def test_one_row_of_pixels_and_one_pixel(tmp_path):
    Image.new("RGB", (1000, 1), RED).save(tmp_path / "row.png")
    Image.new("RGB", (1, 1), RED).save(tmp_path / "one.png")
    assert colour(read(tmp_path / "row.png")) == colour(read(tmp_path / "one.png")) == RED


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert colour(read(tmp_path / "a.gif")) == RED


def test_a_large_photo_is_decoded_small_and_looks_the_same(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).resize((1200, 1600), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        draft = square(image, 128, 3)
        assert image.size == (600, 800)  # a half, still thrice the 128 pixels and more
    with Image.open(tmp_path / "a.jpg") as image:
        whole = square(image.convert("RGB"), 128, 3)
    assert (draft.int() - whole.int()).abs().float().mean() < 1


def test_without_a_size_an_image_stays_as_large_as_it_is():
    assert square(Image.new("RGB", (20, 10)), None, 3).shape == (3, 10, 20)
