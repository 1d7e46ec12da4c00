"""`ganfast run`, `--resume` and `ganfast sample` of pix2pix and super-resolution from the command line, with pictures of the user's own."""

import dataclasses
import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ganfast import cli
from ganfast.models.super_resolution import RRDBNet
from ganfast.systems import cyclegan, pix2pix, running, super_resolution
from ganfast.systems.sources import own
from ganfast.train.data import to_float
from ganfast.train.data.decode import read
from tests.systems.test_pix2pix_keys import discriminator_layout, generator_layout, standing_in
from tests.systems.test_run import fails

PLAIN = ["--no-fused", "--precision=fp32", "--device=cpu", "--log-every=1"]
TRANSLATE = ["--netG=unet_32", "--crop-size=32", "--ngf=2", "--ndf=4", "--netD=basic", "--batch-size=2", *PLAIN]
ENLARGE = ["--crops=16", "--crop-size=16", "--batch-size=4", "--width-d=4", *PLAIN]


@pytest.fixture
def pairs(tmp_path):
    for name, count in (("train", 4), ("test", 3)):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        for i in range(count):
            Image.effect_noise((64, 32), 20 + 9 * i).convert("RGB").save(tmp_path / "pairs" / name / f"{i}.png")
    return tmp_path / "pairs"


@pytest.fixture
def photographs(tmp_path):
    (tmp_path / "photographs").mkdir()
    for i in range(3):
        Image.effect_noise((40 + i, 36), 60).convert("RGB").save(tmp_path / "photographs" / f"{i}.png")
    return tmp_path / "photographs"


def command(*args: object) -> None:
    cli.main([str(arg) for arg in args])


def put_back(folder):
    system, options = running.saved(folder)
    return running.put_back(system, options, folder), options


def test_pix2pix_goes_on_and_samples_without_the_weights_file(tmp_path, pairs, monkeypatch, capsys):
    (tmp_path / "w").mkdir()
    torch.save(standing_in(generator_layout(2, 5)), tmp_path / "w" / "latest_net_G.pth")
    torch.save(standing_in(discriminator_layout(4)), tmp_path / "w" / "latest_net_D.pth")
    monkeypatch.chdir(tmp_path)
    command("run", "pix2pix", "--data=pairs", "--weights=w", "--run-dir=run", "--n_epochs=1", "--n_epochs_decay=0", *TRANSLATE)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    assert json.loads((tmp_path / "run" / "system.json").read_text())["options"]["weights"] == str(tmp_path / "w")
    (tmp_path / "w").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    command("run", "pix2pix", "--run-dir=run", "--resume")
    assert "all its 2 steps are done; --n_epochs 2 would train 2 more" in capsys.readouterr().out
    assert "steps got 4, wants none with n_epochs or n_epochs_decay" in fails(
        capsys, "run", "pix2pix", "--run-dir=run", "--resume", "--steps=4"
    )
    command("run", "pix2pix", "--run-dir=run", "--resume", "--n_epochs=2")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 4
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    command("sample", tmp_path / "run", "--count=5", "--seed=3", "--out=out")
    made = sorted((tmp_path / "other" / "out").glob("image-*.png"))
    assert len(made) == 3  # there are no more that are held out
    trainer, options = put_back(tmp_path / "run")
    held = pix2pix.sets(options.whole())["test_a"]
    shown = [read(path, None, 3)[:, 2:34, 2:34] for path in made]
    assert {image.numpy().tobytes() for image in shown} == {image.numpy().tobytes() for image in held}
    wanted = pix2pix.translated(trainer, shown[0][None])[0]
    assert (to_float(read(made[0], None, 3)[:, 2:34, 36:68]) - wanted).abs().max() < 0.01


def test_a_resumed_run_keeps_its_data_and_its_weights(tmp_path, pairs, monkeypatch, capsys):
    (tmp_path / "w").mkdir()
    torch.save(standing_in(generator_layout(2, 5)), tmp_path / "w" / "latest_net_G.pth")
    monkeypatch.chdir(tmp_path)
    command("run", "pix2pix", "--data=pairs", "--weights=w", "--run-dir=run", "--steps=1", *TRANSLATE)
    shutil.copytree("pairs", "others")
    resume = "run", "pix2pix", "--run-dir=run", "--resume"
    before = (tmp_path / "run" / "system.json").read_text()
    assert "data got 'others', the run in run has" in fails(capsys, *resume, "--data=others")
    assert "data got None, the run in run has" in fails(capsys, *resume, "--data=None")
    assert "weights got 'others', the run in run has" in fails(capsys, *resume, "--weights=others")
    assert (tmp_path / "run" / "system.json").read_text() == before
    monkeypatch.chdir(tmp_path / "run")
    command("run", "pix2pix", "--run-dir=.", "--resume", "--data=../others/../pairs", "--weights=../w")  # the same folders
    monkeypatch.chdir(tmp_path)
    Path("pairs").rename("moved")
    assert "data got None, the run in run has" in fails(capsys, *resume, "--data=None")
    command(*resume, "--data=moved")
    assert json.loads((tmp_path / "run" / "system.json").read_text())["options"]["data"] == str(tmp_path / "moved")


def test_super_resolution_goes_on_and_samples_without_the_weights_file(tmp_path, photographs, monkeypatch):
    torch.save({"params": RRDBNet(width=4, blocks=1, growth=3).state_dict()}, tmp_path / "x4.pth")
    monkeypatch.chdir(tmp_path)
    command("run", "super-resolution", "--data=photographs", "--weights=x4.pth", "--run-dir=run", "--steps=1", *ENLARGE)
    (tmp_path / "x4.pth").unlink()
    command("run", "super-resolution", "--run-dir=run", "--resume", "--steps=2")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    command("sample", "run", "--count=1", "--out=out")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["grid.png", "image-000.png"]
    trainer, options = put_back(tmp_path / "run")
    (held,) = super_resolution.sets(options)[1]
    seen = read(tmp_path / "out" / "image-000.png", None, 3)
    assert seen.shape == (3, 36 + 4, 2 * 36 + 6)
    low = super_resolution.shrunk(super_resolution.detailed(held, 36)[:1])
    assert torch.equal(seen[:, 2:38, 2:38], low[0].repeat_interleave(4, 1).repeat_interleave(4, 2))
    wanted = trainer.sample(1, low, network="generator").clamp(-1, 1)[0]
    assert (to_float(seen[:, 2:38, 40:76]) - wanted).abs().max() < 0.01


def test_pictures_of_any_kind_are_enlarged(tmp_path, photographs, capsys, monkeypatch):
    run, given = tmp_path / "run", tmp_path / "given"
    command("run", "super-resolution", "--data", photographs, "--run-dir", run, "--steps=1", "--width=4", "--blocks=1", *ENLARGE)
    (given / "more").mkdir(parents=True)
    Image.effect_noise((13, 7), 60).convert("RGBA").save(given / "a.png")
    Image.effect_noise((9, 5), 60).save(given / "a.bmp")
    Image.fromarray(np.full((3, 2), 257 * 90, np.uint16)).save(given / "more" / "deep.png")
    (given / "text.png").write_bytes(b"no picture")
    capsys.readouterr()
    command("sample", run, "--input", given, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "3 images in" in said and "left out, as they cannot be read: text.png (no image that Pillow knows" in said
    sizes = {}
    for path in (tmp_path / "out").rglob("*.png"):
        with Image.open(path) as image:
            sizes[str(path.relative_to(tmp_path / "out"))] = image.size
            assert image.text["Synthetic"].startswith("yes") and image.text["Model"].startswith("super-resolution: ")
    assert sizes == {"a.png-x4.png": (52, 28), "a.bmp-x4.png": (36, 20), "more/deep-x4.png": (8, 12)}
    with Image.open(tmp_path / "out" / "more" / "deep-x4.png") as image:
        assert abs(np.asarray(image).mean() - 90) < 12  # not clipped to white
    command("sample", run, "--input", given / "a.bmp")
    assert (run / "sample-step1-a" / "a-x4.png").is_file()
    assert "1 pictures that cannot be read: text.png" in fails(capsys, "sample", run, "--input", given / "text.png")
    assert "there is no such thing" in fails(capsys, "sample", run, "--input", given / "b.png")
    for name in ("count", "face", "driver"):
        assert f"{name} got '3', wants none with input" in fails(capsys, "sample", run, "--input", given, f"--{name}", "3")
    with monkeypatch.context() as patch:
        patch.setattr(own, "read", lambda *given: struct.unpack("I", b""))
        assert "1 pictures that cannot be read: a.bmp (unpack requires" in fails(capsys, "sample", run, "--input", given / "a.bmp")

    def broken(*given):
        raise ValueError("the network failed")

    system = super_resolution.SYSTEM
    for changed, words in (({"applied": broken}, "the network failed"), ({"credit": "somebody"}, "")):
        monkeypatch.setattr(running.systems, "load", lambda name, changed=changed: dataclasses.replace(system, **changed))
        if words:
            assert "cannot be read" not in (said := fails(capsys, "sample", run, "--input", given / "a.bmp")) and words in said
    command("sample", run, "--input", given / "a.bmp")
    with Image.open(run / "sample-step1-a" / "a-x4.png") as image:  # somebody's data, but not in this picture
        assert image.text["Network trained on"] == "somebody" and "Credit" not in image.text and image.text["Input"] == "a.bmp"


def test_a_large_picture_is_enlarged_in_tiles_without_seams(monkeypatch):
    trainer = super_resolution.SYSTEM.trainer(super_resolution.Options(width=4, blocks=1, crops=16, fused=False))
    with torch.no_grad():
        for weights in trainer.networks["generator"].parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)))
    sampled = SimpleNamespace(sample=lambda n, low, network: trainer.networks[network](to_float(low)).detach())
    low = torch.randint(0, 256, (3, 37, 30), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    at_once = super_resolution.whole(sampled, low)
    monkeypatch.setattr(super_resolution, "TILE", 16)
    monkeypatch.setattr(super_resolution, "MARGIN", 8)
    torch.testing.assert_close(super_resolution.whole(sampled, low), at_once)


def test_a_picture_is_translated_and_other_runs_take_none(tmp_path, pairs, capsys):
    run = tmp_path / "run"
    command("run", "pix2pix", "--data", pairs, "--run-dir", run, "--steps=1", *TRANSLATE)
    Image.effect_noise((50, 40), 60).save(tmp_path / "mine.jpg")
    command("sample", run, "--input", tmp_path / "mine.jpg", "--out", tmp_path / "out")
    shown, given = read(tmp_path / "out" / "mine.png", None, 3), read(tmp_path / "mine.jpg", 32, 3)
    assert shown.shape == (3, 36, 70) and torch.equal(shown[:, 2:34, 2:34], given)
    trainer, _ = put_back(run)
    assert (to_float(shown[:, 2:34, 36:68]) - pix2pix.translated(trainer, given[None])[0]).abs().max() < 0.01
    assert torch.equal(read(tmp_path / "out" / "mine-fake.png", None, 3), shown[:, 2:34, 36:68])  # alone
    (tmp_path / "alike").mkdir()
    for name in ("a", "a-fake"):
        Image.effect_noise((50, 40), 60).save(tmp_path / "alike" / f"{name}.png")
    command("sample", run, "--input", tmp_path / "alike", "--out", tmp_path / "both")
    names = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert names == ["a-fake-fake.png", "a-fake.png", "a.png-fake.png", "a.png.png"]  # none in another's place
    sampled = SimpleNamespace(sample=lambda n, images, network: images.abs() if network == "ab" else -images.abs())
    made = cyclegan.applied(sampled, cyclegan.Options(crop_size=32), tmp_path / "mine.jpg")
    assert list(made) == ["", "-fake_B", "-fake_A"] and made[""].shape == (1, 36, 3 * 34 + 2)
    assert made["-fake_B"].equal(-made["-fake_A"]) and made["-fake_B"].min() >= 0 and made["-fake_B"].shape == (1, 32, 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(running.systems.NAMES, "halves", "tests.systems.halves")
        command("run", "halves", "--run-dir", tmp_path / "halves", "--steps=1", *PLAIN)
        said = fails(capsys, "sample", tmp_path / "halves", "--input", tmp_path / "mine.jpg")
        assert "mine.jpg', wants none. The system halves takes no pictures" in said
