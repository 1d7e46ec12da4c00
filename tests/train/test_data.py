"""Where the images come from: the embedded digits, folders with and without classes, broken files."""

import numpy as np
import pytest
import torch
from PIL import Image

from ganfast.train import Trainer, checkpoint, data
from tests.train.common import small


def test_the_digits_are_all_there():
    digits = data.digits(32)
    assert digits.images.shape == (1797, 1, 32, 32) and digits.images.dtype == torch.uint8
    assert digits.classes == list("0123456789") and digits.labels.bincount().min() > 170
    assert digits.images.min() == 0 and digits.images.max() == 255
    # averaged back to 8x8 they are the scans again
    from sklearn.datasets import load_digits

    small_again = torch.nn.functional.avg_pool2d(digits.images.float(), 4)[:, 0] * 16 / 255
    assert (small_again - torch.from_numpy(load_digits().images)).abs().mean() < 0.8


def test_floats_and_bytes_are_inverse():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = data.to_float(levels)
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(data.to_uint8(floats), levels)
    assert data.to_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


def test_sub_folders_are_classes_and_broken_files_are_listed(rgb_folder):
    found = data.folder(rgb_folder, 16, 3)
    assert found.images.shape == (10, 3, 16, 16)
    assert found.classes == ["ants", "bees"] and found.labels.tolist() == [0] * 5 + [1] * 5
    (line,) = found.broken
    assert "cut.png" in line
    as_is = np.asarray(Image.open(rgb_folder / "ants" / "3.png")).transpose(2, 0, 1)
    assert np.array_equal(found.images[3].numpy(), as_is)  # 16x16 already: untouched


def test_deeper_folders_belong_to_their_first_level(rgb_folder):
    (rgb_folder / "ants" / "more").mkdir()
    (rgb_folder / "ants" / "0.png").rename(rgb_folder / "ants" / "more" / "x.PNG")
    assert data.folder(rgb_folder, 16, 3).labels.tolist() == [0] * 5 + [1] * 5


def test_a_flat_folder_has_one_class(rgb_folder):
    found = data.folder(rgb_folder / "ants", 16, 1)
    assert found.images.shape == (5, 1, 16, 16) and found.classes == [""]
    assert Trainer(small(rgb_folder.parent / "run", data=str(rgb_folder / "ants"))).conditions is None


def test_transparent_and_palette_images_are_read(tmp_path):
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(tmp_path / "a.png")
    Image.new("P", (20, 20)).save(tmp_path / "b.gif")
    assert data.folder(tmp_path, 16, 3).images.shape == (2, 3, 16, 16)


def test_nothing_to_learn_from_is_an_error(tmp_path, rgb_folder):
    with pytest.raises(ValueError, match="there is no such folder"):
        data.folder(tmp_path / "absent", 16)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no file with .*\.png"):
        data.folder(tmp_path / "empty", 16)
    (tmp_path / "empty" / "a.png").write_bytes(b"no image either")
    with pytest.raises(ValueError, match=r"1 files, none readable, the first: .*a\.png: UnidentifiedImageError"):
        data.folder(tmp_path / "empty", 16)
    (rgb_folder / "loose.png").write_bytes((rgb_folder / "ants" / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"beside them \(loose\.png\)"):
        data.folder(rgb_folder, 16)
    with pytest.raises(ValueError, match="channels got 3, wants 1; the digits are grey"):
        data.images_of("digits", 32, 3)


def test_a_run_lists_the_broken_files(tmp_path, rgb_folder):
    trainer = Trainer(small(tmp_path / "run", data=str(rgb_folder)))
    assert "cut.png" in (tmp_path / "run" / checkpoint.BROKEN).read_text()
    assert trainer.classes == ["ants", "bees"] and len(trainer.broken) == 1


def test_class_vectors_are_apart_and_the_same_every_time():
    vectors = data.class_vectors(10, 16)
    assert vectors.shape == (10, 16) and torch.equal(vectors, data.class_vectors(10, 16))
    torch.testing.assert_close(vectors @ vectors.T, 16 * torch.eye(10), atol=1e-4, rtol=0)
    crowded = data.class_vectors(20, 8)
    torch.testing.assert_close(crowded.norm(dim=1), torch.full((20,), 8**0.5))
    assert torch.cdist(crowded, crowded).add(10 * torch.eye(20)).min() > 0.5
