"""Where the images come from: the embedded digits, folders with and without classes, broken files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from ganfast.train import parts
from ganfast.train.command_line import presets, recipes
from ganfast.train.data import folders, workers
from ganfast.train.saving import checkpoint
from tests.train.common import small, trained


def test_the_digits_are_all_there():
    digits = folders.digits(32)
    assert digits.images.shape == (1797, 1, 32, 32) and digits.images.dtype == torch.uint8
    assert digits.classes == list("0123456789") and digits.labels.bincount().min() > 170
    assert digits.images.min() == 0 and digits.images.max() == 255
    # averaged back to 8x8 they are the scans again
    from sklearn.datasets import load_digits

    small_again = torch.nn.functional.avg_pool2d(digits.images.float(), 4)[:, 0] * 16 / 255
    assert (small_again - torch.from_numpy(load_digits().images)).abs().mean() < 0.8


def test_floats_and_bytes_are_inverse():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = parts.to_float(levels)
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(parts.to_uint8(floats), levels)
    assert parts.to_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


def test_sub_folders_are_classes_and_broken_files_are_listed(rgb_folder):
    found = folders.folder(rgb_folder, 16, 3)
    assert found.images.shape == (10, 3, 16, 16)
    assert found.classes == ["ants", "bees"] and found.labels.tolist() == [0] * 5 + [1] * 5
    (line,) = found.broken
    assert "cut.png" in line
    as_is = np.asarray(Image.open(rgb_folder / "ants" / "3.png")).transpose(2, 0, 1)
    assert np.array_equal(found.images[3].numpy(), as_is)  # 16x16 already: untouched


def test_deeper_folders_belong_to_their_first_level(rgb_folder):
    (rgb_folder / "ants" / "more").mkdir()
    (rgb_folder / "ants" / "0.png").rename(rgb_folder / "ants" / "more" / "x.PNG")
    assert folders.folder(rgb_folder, 16, 3).labels.tolist() == [0] * 5 + [1] * 5


def test_a_flat_folder_has_one_class(rgb_folder):
    found = folders.folder(rgb_folder / "ants", 16, 1)
    assert found.images.shape == (5, 1, 16, 16) and found.classes == [""]
    assert recipes.trainer(small(rgb_folder.parent / "run", data=str(rgb_folder / "ants"))).conditioner is None


def test_nothing_to_learn_from_is_an_error(tmp_path, rgb_folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="its files are: none at all"):
        folders.folder(tmp_path / "empty", 16)
    for name in ("notes.txt", "more.txt", "README"):
        (tmp_path / "empty" / name).write_text("no image")
    with pytest.raises(ValueError, match=r"no file with .*\.png.* its files are: 2 \.txt, 1 without an ending; wants"):
        folders.folder(tmp_path / "empty", 16)
    (tmp_path / "empty" / "a.png").write_bytes(b"no image either")
    with pytest.raises(ValueError, match=r"1 files, none readable, the first: .*a\.png: UnidentifiedImageError"):
        folders.folder(tmp_path / "empty", 16)
    (rgb_folder / "loose.png").write_bytes((rgb_folder / "ants" / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"beside them \(loose\.png\)"):
        folders.folder(rgb_folder, 16)
    together = folders.folder(rgb_folder, 16, classes=False)
    assert together.classes == [""] and len(together.images) == 11 and not together.labels.any()
    with pytest.raises(ValueError, match="channels got 3, wants 1; the digits are grey"):
        folders.images_of("digits", 32, 3)


NO_FOLDER = {
    "absent": "there is no such folder.$",
    "imagse": "there is no such folder. Did you mean 'images'",
    "digit": "there is no such folder. Did you mean 'digits'",
    "images/ants/0.png": "this is a file: one image trains no GAN, give its folder: '.*ants'",
    "plain": "this is a file: one image trains no GAN",
    "notes.txt": "this is a file: give the folder that the images lie in",
    "all.zip": "this is a file: unpack it",
    "all.NPZ": "this is a file: load it in Python, and give the tensor",
}


@pytest.mark.parametrize("name", NO_FOLDER)
def test_what_is_no_folder_is_told_with_what_may_be_meant(tmp_path, rgb_folder, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(rgb_folder / "ants" / "0.png", tmp_path / "plain")
    for other in ("notes.txt", "all.zip", "all.NPZ"):
        (tmp_path / other).write_text("text")
    with pytest.raises(ValueError, match=NO_FOLDER[name]):
        folders.images_of(str(tmp_path / name), 16, 3)
    with pytest.raises(ValueError, match=r"got .*, wants a folder of images; "):  # which the name "digits" is not
        folders.folder(name, 16)
    with pytest.raises(ValueError, match=f"wants 'digits', 'ring8', 'grid25' or a folder of images; .*{NO_FOLDER[name]}"):
        recipes.trainer(presets.preset(name))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="Did you mean 'ring8'"):
        recipes.trainer(presets.preset("ring9"))


def test_a_run_lists_the_broken_files(tmp_path, rgb_folder):
    trainer = trained(tmp_path / "run", data=str(rgb_folder), steps=1)
    assert "cut.png" in (tmp_path / "run" / checkpoint.BROKEN).read_text()
    assert trainer.classes == ["ants", "bees"] and len(trainer.source.broken) == 1


def test_class_vectors_are_apart_and_the_same_every_time():
    vectors = folders.class_vectors(10, 16)
    assert vectors.shape == (10, 16) and torch.equal(vectors, folders.class_vectors(10, 16))
    torch.testing.assert_close(vectors @ vectors.T, 16 * torch.eye(10), atol=1e-4, rtol=0)
    crowded = folders.class_vectors(20, 8)
    torch.testing.assert_close(crowded.norm(dim=1), torch.full((20,), 8**0.5))
    assert torch.cdist(crowded, crowded).add(10 * torch.eye(20)).min() > 0.5


def png(path, colour="red", size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="png")
    return path


def test_what_lies_in_folders_beside_images(tmp_path):
    """Hidden files and folders, other files and folders named like images are passed over; upper case and links count."""
    root = tmp_path / "data"
    png(root / "a" / "1.PNG")
    for name in ("a/.2.png", "a/.cache/3.png", ".hidden/4.png", "a/._5.png"):
        png(root / name)
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "6.png").mkdir()
    os.mkfifo(root / "a" / "7.png")  # opening it would wait for ever
    elsewhere = png(tmp_path / "elsewhere" / "8.png", "blue").parent
    (root / "b").symlink_to(elsewhere, target_is_directory=True)
    (root / "a" / "9.png").symlink_to(elsewhere / "8.png")
    (root / "a" / "again").symlink_to(root, target_is_directory=True)  # a circle
    found = folders.folder(root, 16)
    assert found.classes == ["a", "b"] and found.labels.tolist() == [0, 0, 1] and found.broken == []
    assert found.images[:, 2, 0, 0].tolist() == [0, 255, 255]


def test_what_cannot_be_read_is_left_out_and_listed(rgb_folder, monkeypatch):
    (rgb_folder / "ants" / "zero.png").touch()
    (rgb_folder / "ants" / "gone.png").symlink_to(rgb_folder / "nowhere.png")
    (rgb_folder / "ants" / os.fsdecode(b"n\xe9.png")).write_bytes(b"not text either")
    png(rgb_folder / "ants" / "huge.png", size=(400, 400))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    for count in (0, 2):
        found = folders.folder(rgb_folder, 16, workers=count)
        assert len(found.images) == 10 and found.labels.tolist() == [0] * 5 + [1] * 5
        words = {
            "zero": "UnidentifiedImageError",
            "gone": "FileNotFoundError",
            "huge": "DecompressionBomb",
            "cut": "OSError",
            "xe9": "Unid",
        }
        assert len(found.broken) == len(words)
        for name, word in words.items():
            (line,) = [line for line in found.broken if name in line]
            assert word in line
            line.encode()


ENDINGS = {"a.jfif": "JPEG", "b.JPE": "JPEG", "c.ppm": "PPM", "d.tga": "TGA", "e": "PNG", "f": "JPEG", "g.png": "JPEG", "h.pcx": "PCX"}


def test_all_that_pillow_decodes_is_an_image_whatever_its_ending(tmp_path):
    for name, kind in ENDINGS.items():
        Image.new("RGB", (16, 16), "red").save(tmp_path / name, format=kind)
    for name in ("README", "Makefile", "notes.txt", "labels.csv", ".hidden"):
        (tmp_path / name).write_text("P6 is how a PPM begins, and this is text")
    (tmp_path / "nothing").touch()
    (tmp_path / "weights").write_bytes(bytes([0, 0, 2, *[0] * 9, 4, 0, 4, 0, 24, 0, *range(9)]))  # a TGA's header, or any numbers
    found = folders.folder(tmp_path, 16, workers=0)
    assert len(found.images) == len(ENDINGS) and found.broken == []
    assert (found.images[:, 0].float().mean((1, 2)) > 250).all()


HEADS = {"x.heic": b"\0\0\0\x18ftypheic", "y.jxl": b"\xff\x0a", "z": b"\0\0\0\x1cftypavif", "w.avif": b"\0\0\0\x1cftypavif"}


def test_what_this_pillow_does_not_decode_is_listed_with_its_kind(tmp_path, monkeypatch):
    """Also where the name does not tell. A Pillow without the plugin stands in for one built without the library."""
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {kind: how for kind, how in Image.OPEN.items() if kind != "AVIF"})
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "AVIF"])
    png(tmp_path / "a.png")
    for name, head in HEADS.items():
        (tmp_path / name).write_bytes(head + bytes(40))
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    found = folders.folder(tmp_path, 16, workers=0)
    assert len(found.images) == 1
    said = {Path(line.split(":")[0]).name: line for line in found.broken}
    assert said.keys() == {*HEADS, "empty.png", "page.jpg"}
    for name, word in {"x.heic": "HEIC, which", "y.jxl": "JPEG XL, which", "z": "AVIF, which", "w.avif": "AVIF, which"}.items():
        assert f"{word} the Pillow installed here does not decode" in said[name]
    assert "the file is empty" in said["empty.png"] and "begins with b'<html>not" in said["page.jpg"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    for name in ("a.avif", "b"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / name, format="AVIF")
    assert len(folders.folder(tmp_path, 16, workers=0).images) == 2


def test_a_class_of_which_nothing_is_left_is_no_class(rgb_folder):
    (rgb_folder / "apes").mkdir()
    (rgb_folder / "apes" / "zero.png").touch()
    found = folders.folder(rgb_folder, 16)
    assert found.classes == ["ants", "bees"] and found.labels.tolist() == [0] * 5 + [1] * 5 and len(found.broken) == 2


def test_workers_change_nothing(rgb_folder):
    here, there = (folders.folder(rgb_folder, 16, workers=count) for count in (0, 2))
    assert torch.equal(here.images, there.images) and torch.equal(here.labels, there.labels) and here.broken == there.broken


def test_what_does_not_fit_is_refused_before_it_is_decoded(rgb_folder, monkeypatch):
    with pytest.raises(ValueError, match=r"the 11 images .* take 8.45e-06 GB decoded to 3x16x16, and there is room for 8e-06 GB"):
        folders.folder(rgb_folder, 16, memory=8000)
    monkeypatch.setattr(workers, "free_memory", lambda device="cpu": 12000)
    with pytest.raises(ValueError, match=r"there is room for 8\.4e-06 GB"):
        folders.folder(rgb_folder, 16)


def test_free_memory_is_that_of_the_container(monkeypatch):
    free = workers.free_memory()
    assert 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 300\ninactive_file 400\n"}
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a: texts[self.name] if self.name in texts else read(self, *a))
    assert workers.free_memory() == 700
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "7")
    assert workers.free_memory() == 100
    texts["memory.max"] = "max\n"
    assert abs(workers.free_memory() * 7 - free) < 0.1 * free


def test_workers_are_started_where_they_pay_and_can_be_had(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12))
    assert [workers.processes(None, seconds) for seconds in (0.9, 1.1)] == [0, 12] and workers.processes(3, 0.1) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert workers.processes(None) == 2
    monkeypatch.setattr(sys, "platform", "darwin")
    assert workers.processes(3) == 0


def test_a_script_without_a_guard_may_decode(tmp_path, rgb_folder):
    """No process may begin the script anew; it would start processes for ever."""
    script = tmp_path / "script.py"
    script.write_text(
        f"print('begins', flush=True)\nfrom ganfast.train import data\nprint(len(data.folder({str(rgb_folder)!r}, 16, workers=2).images))\n"
    )
    path = {"PYTHONPATH": str(Path(folders.__file__).parents[3])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=os.environ | path)
    assert done.stdout.split() == ["begins", "10"], done.stderr
    assert done.stderr == ""  # and the bar is for what takes long


def test_a_bar_shows_what_takes_long(rgb_folder, monkeypatch, capfd):
    from tqdm import tqdm

    monkeypatch.setattr("tqdm.tqdm", lambda **options: tqdm(**options | {"delay": 0}))
    folders.folder(rgb_folder, 16, workers=0)
    assert "decoding into memory" in capfd.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    folders.folder(rgb_folder, 16, workers=0)
    assert capfd.readouterr().err == ""
