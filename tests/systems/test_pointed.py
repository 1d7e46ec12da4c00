import json

import pytest
import torch
from PIL import Image

from ganfast.systems.sources.pointed import pointed

POINTS = [[30, 20], [40, 10]]


def clip(folder, frames=3, points=None, size=(60, 40), ending="png"):
    folder.mkdir(parents=True)
    for i in range(frames):
        Image.new("RGB", size, (40 * i, 0, 0)).save(folder / f"{i}.{ending}")
    if points is not None:
        (folder / "points.json").write_text(json.dumps(points))
    return folder


def test_points_lie_where_they_did_in_the_middle_square(tmp_path):
    clip(tmp_path / "a", points=[POINTS] * 3)
    clip(tmp_path / "b", points=[[[0, 0], [60, 40]]] * 3)
    found = pointed(tmp_path, 16)
    assert found["a"].frames.shape == (3, 3, 16, 16) and list(found) == ["a", "b"]
    assert found["a"].points[1].tolist() == [[0, 0], [0.5, -0.5]]  # of 60 x 40 pixels the columns from 10 to 50 remain
    assert found["b"].points[0].tolist() == [[-1.5, -1], [1.5, 1]]


def test_points_up_to_a_pixel_outside_lie_on_the_border(tmp_path):
    clip(tmp_path / "a", 1, [[[-1, 41], [60.5, -0.5]]])
    assert pointed(tmp_path, 16)["a"].points.tolist() == [[[-1.5, 1], [1.5, -1]]]


def test_points_of_a_large_jpeg_and_of_one_on_its_side(tmp_path):
    clip(tmp_path / "large", 2, [[[200, 100]]] * 2, (400, 400), "jpg")  # is decoded at a part of its size
    assert pointed(tmp_path / "large", 16)["large"].points.flatten().tolist() == [0, -0.5] * 2
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "side.jpg", exif=exif)
    (tmp_path / "side.json").write_text("[[20, 40], [10, 20]]")
    assert pointed(tmp_path / "side.jpg", 16)["side.jpg"].points[0].tolist() == [[1, 2], [0, 0]]


def test_points_of_an_animation_and_of_one_picture_lie_beside_it(tmp_path):
    first, *others = (Image.new("RGB", (20, 20), (90 * i, 0, 0)) for i in range(3))
    first.save(tmp_path / "film.gif", save_all=True, append_images=others)
    (tmp_path / "film.json").write_text(json.dumps([[[10, 10]], [[5, 10]], [[0, 10]]]))
    assert pointed(tmp_path / "film.gif", 16)["film.gif"].points[:, 0, 0].tolist() == [0, -0.5, -1]
    first.save(tmp_path / "face.png")
    for text in ("[[10, 10], [20, 0]]", "[[[10, 10], [20, 0]]]"):
        (tmp_path / "face.json").write_text(text)
        face = pointed(tmp_path / "face.png", 16, option="face")["face.png"]
        assert face.points.tolist() == [[[0, 0], [1, -1]]] and face.frames.shape == (1, 3, 16, 16) and face.points.dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"there are no points of a\. Wanted: .*points\.json, a list of frames, each a list of \[x, y\] in pixels"),
        ("[1, 2", "the points of a, points.json, are no JSON: "),
        ("{}", "are no list of frames, each a list of"),
        ("[[], [], []]", "are no list of frames, each a list of"),
        ("[[[1, 2]], [[1, 2]]]", "are of 2 frames, the clip has 3"),
        ("[[[1, 2]], [[1, 2]], [[1, 2], [3, 4]]]", "are 2 in frame 3 and 1 in the first, wants as many in each"),
        ("[[[1, 2]], [[1, 2, 3]], [[1, 2]]]", r"have \[1, 2, 3\] in frame 2, wants \[x, y\], two numbers"),
        ("[[[1, 2]], [[1, NaN]], [[1, 2]]]", r"have \[1, nan\] in frame 2, wants"),
        (
            "[[[1, 2]], [[62, 2]], [[0, -1.1]]]",
            r"have \[62, 2\] in frame 2, outside of the picture of 60 x 40 pixels. So are 2 of 3 points",
        ),
    ],
)
def test_points_that_cannot_be(tmp_path, text, words):
    folder = clip(tmp_path / "a")
    if text is not None:
        (folder / "points.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        pointed(tmp_path, 16)


def test_clips_that_do_not_go_together(tmp_path):
    clip(tmp_path / "a", points=[POINTS] * 3)
    clip(tmp_path / "b", points=[POINTS[:1]] * 3)
    with pytest.raises(ValueError, match="data has unequal numbers of points: 2 in a; 1 in b"):
        pointed(tmp_path, 16)
    with pytest.raises(ValueError, match=r"puppet: driver got .*nowhere.*, wants a folder of frames or an animated GIF"):
        pointed(tmp_path / "nowhere", 16, option="driver")
    with pytest.raises(ValueError, match=r"puppet: data has 2 clips of fewer than 4 frames: a \(3\), b \(3\)"):
        pointed(tmp_path, 16, 4)
