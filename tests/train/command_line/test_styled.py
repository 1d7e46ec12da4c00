"""`ganfast train --model stylegan2|r3gan`, `sample --truncation, --mix, --clip` and `project`: what they write, what they refuse."""

import json

import pytest
import torch
from PIL import Image

from ganfast import cli
from ganfast.models import R3GANDiscriminator, R3GANGenerator, StyleGAN2Discriminator, StyleGAN2Generator
from ganfast.train.command_line import presets, recipes
from ganfast.train.saving import checkpoint, resume
from ganfast.train.watch import grids
from tests.train.common import small, trained

TINY = {"mapping_layers": 1, "widest": 8, "noise": 0.0, "condition": "label", "steps": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("styled") / "run"
    trained(folder, model="stylegan2", path_length=1.0, r1=1.0, penalty_every=2, lazy_correction=True, fused=True, **TINY)
    return folder


def test_networks_by_name(tmp_path):
    for model, kinds in (("stylegan2", (StyleGAN2Generator, StyleGAN2Discriminator)), ("r3gan", (R3GANGenerator, R3GANDiscriminator))):
        for condition, shape in (("none", None), ("label", (3, 16)), ("vector", None)):
            recipe = small(tmp_path, model=model, condition=condition, style_mixing=0.25, blocks=3, mapping_layers=3, widest=8)
            networks = recipes.networks(recipe, 0 if condition == "none" else 3)
            assert tuple(map(type, networks)) == kinds
            again = recipes.networks(recipe, 0 if condition == "none" else 3)
            assert all(torch.equal(p, q) for one, two in zip(networks, again) for p, q in zip(one.parameters(), two.parameters()))
            tables = [m.weight.shape for m in networks[0].modules() if isinstance(m, torch.nn.Embedding)]
            assert (len(tables) == 1) is (shape is not None)
        if model == "stylegan2":
            assert networks[0].style_mixing == 0.25 and len(networks[0].mapping.layers) == 3


def test_presets():
    digits = presets.preset("digits", "stylegan2")
    assert digits.image_size == 32 and digits.path_length and digits.penalty_end < 1
    few, large = presets.preset("no-such-folder", "stylegan2", 256), presets.preset("no-such-folder", "stylegan2", 1024)
    assert (few.image_size, few.batch_size, few.width) == (256, 16, 64) and few.r1 == pytest.approx(1e-4 * 256**2 / 16)
    assert few.lazy_correction and few.penalty_every == 16 and large.batch_size == 4 and large.learning_rate == 2e-3 < few.learning_rate
    assert few.ema == pytest.approx(0.5 ** (32 / 10_000)) and few.augment == "ada" and few.decay_from == 1.0
    assert presets.preset("no-such-folder", "stylegan2", 16, 4).r1 == pytest.approx(0.0064)
    r3gan = presets.preset("no-such-folder", "r3gan", 256)
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in network.parameters()) / 1e6 for network in recipes.networks(r3gan, 0)]
    assert sizes == pytest.approx([23.1, 23.0], abs=0.2)  # millions, the paper's
    assert r3gan.r1 == r3gan.r2 == pytest.approx(75, rel=1e-3) and presets.r3gan(64, 0)["r1"] == 1 and r3gan.loss == "relativistic"
    assert (presets.r3gan(64, 0)["width"], presets.r3gan(32, 0)["width"]) == (384, 192)
    assert r3gan.beta2_end == 0.99 and r3gan.decay_to == 0.25
    assert presets.stylegan2(64, 1000)["steps"] * 32 == pytest.approx(500_000, rel=1e-3)
    assert presets.stylegan2(64, 10**6)["steps"] * 32 == pytest.approx(25_000_000, rel=1e-3)
    assert presets.preset("digits") == presets.preset("digits", "auto", 32)


def test_options_choose_the_preset(tmp_path, capsys):
    args = ["--data", "digits", "--model", "r3gan", "--run-dir", str(tmp_path / "r"), "--steps", "1", "--batch-size", "4", "--width", "4"]
    cli.main(["train", *args, "--image-size", "16", "--widest", "8", "--no-fused", "--sample-every", "0", "--latent-dim", "5"])
    saved = json.loads((tmp_path / "r" / "config.json").read_text())
    assert (saved["model"], saved["loss"], saved["width"], saved["batch_size"]) == ("r3gan", "relativistic", 4, 4)
    for wrong, words in (
        (["--model", "stylegan2", "--image-size", "48"], "image_size got 48, wants a power of two"),
        (["--model", "stylegan3"], "stylegan3"),
        (["--data", "ring8", "--model", "stylegan2"], "model got 'stylegan2', wants mlp for ring8"),
        (["--path-length", "2"], "path_length got 2.0, wants 0 for dcgan"),
        (["--model", "stylegan2", "--style-mixing", "2"], "style_mixing got 2.0, wants a share"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["train", *wrong, "--run-dir", str(tmp_path / "wrong")])
        assert words in capsys.readouterr().err, wrong


def test_samples_truncated_mixed_and_in_a_clip(run, capsys, tmp_path):
    sample = lambda *args: cli.main(["sample", str(run), *args])
    sample("--truncation", "0.5", "--label", "3", "--count", "1")
    half = Image.open(next(run.glob("sample-*-3-seed0-truncation0.5")) / "3-000.png")
    expected = recipes.load_sampler(run, truncation=0.5).sample(1, torch.tensor([3]), seed=0)[0]
    assert half.text["Truncation"] == "0.5" and half.tobytes() == grids.picture(expected).tobytes()
    sample("--truncation", "0", "--label", "3", "--count", "2", "--out", str(tmp_path / "a"))
    one, two = (Image.open(tmp_path / "a" / f"3-00{i}.png").tobytes() for i in (0, 1))
    assert one == two
    sample("--mix", "3,5,9", "--coarse", "4", "--out", str(tmp_path / "b"))
    with Image.open(tmp_path / "b" / "mix.png") as sheet:
        assert sheet.text["Synthetic"].startswith("yes") and sheet.text["Seeds"] == "3,5,9" and sheet.width % (4 * 18 + 2) == 0
    for name, more in (("c", []), ("d", ["--label", "3"])):
        sample("--clip", "--out", str(tmp_path / name), *more)
    heights = [Image.open(tmp_path / name / "interpolation.gif").height for name in ("c", "d")]
    assert heights[0] > 5 * heights[1]  # all classes, and one
    for wrong, words in (
        (["--mix", "3,x"], "mix got '3,x', wants two seeds or more"),
        (["--mix", "3,5", "--coarse", "16"], "coarse got 16, wants one of 4, 8"),
        (["--mix", "3,5", "--clip"], "mix and clip were given"),
        (["--truncation", "1.5"], "truncation got 1.5, wants a number in [0, 1]"),
    ):
        with pytest.raises(SystemExit):
            sample(*wrong)
        assert words in capsys.readouterr().err


def test_a_picture_is_projected(run, capsys, tmp_path):
    image = recipes.load_sampler(run).sample(1, "4", seed=7)[0]
    grids.write_png(tmp_path / "mine.png", image, {})
    cli.main(["project", str(tmp_path / "mine.png"), str(run), "--steps", "12", "--label", "4", "--others", "2"])
    out = run / "project-mine"
    assert len(json.loads((out / "loss.json").read_text())) == 12 and "unlike by" in capsys.readouterr().out
    assert torch.load(out / "styles.pt")["styles"].shape == (1, 6, 6)
    for name in ("projected.png", "transfer.png", "loss.png"):
        with Image.open(out / name) as picture:
            assert picture.text["Synthetic"].startswith("yes") and picture.text["Projected"] == "mine.png"
    Image.new("L", (20, 16)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    whole = (tmp_path / "mine.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for wrong, words in (
        ([str(tmp_path / "wide.png")], "wide.png has 20 x 16 pixels, the run's images 16 x 16. --fit cuts"),
        ([str(tmp_path / "none.png")], "there is no file"),
        ([str(tmp_path / "text.png")], "text.png"),
        ([str(tmp_path / "mine.png"), "--label", "ten"], "label='ten' is unknown"),
        ([str(tmp_path / "mine.png"), "--steps", "0"], "steps got 0"),
        ([str(tmp_path / "mine.png"), "--rate", "-1"], "rate got -1.0"),
        ([str(tmp_path / "mine.png"), "--coarse", "5"], "coarse got 5"),
        ([str(tmp_path / "mine.png"), "--others", "0"], "others got 0"),
        ([str(tmp_path / "half.png")], "half.png cannot be read"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["project", wrong[0], str(run), *wrong[1:]])
        assert words in capsys.readouterr().err, wrong
    cli.main(["project", str(tmp_path / "wide.png"), str(run), "--fit", "--steps", "2", "--out", str(tmp_path / "fit")])


def test_a_run_older_than_a_setting_goes_on(tmp_path):
    trainer = trained(tmp_path / "run", steps=3)
    state = resume.state_of(trainer)
    for name in ("widest", "mapping_layers", "blocks", "style_mixing", "path_length"):
        del state["config"][name]
    checkpoint.write(state, checkpoint.newest(tmp_path / "run"))
    (tmp_path / "run" / "config.json").write_text(json.dumps(state["config"]))
    cli.main(["train", "--resume", "--run-dir", str(tmp_path / "run"), "--steps", "4"])
    assert recipes.load_sampler(tmp_path / "run").step == 4


def test_runs_without_styles_are_refused(tmp_path, capsys):
    trained(tmp_path / "run", steps=1)
    grids.write_png(tmp_path / "mine.png", torch.zeros(1, 16, 16), {})
    for wrong in (["sample", str(tmp_path / "run"), "--mix", "1,2"], ["project", str(tmp_path / "mine.png"), str(tmp_path / "run")]):
        with pytest.raises(SystemExit):
            cli.main(wrong)
        assert "wants a generator with styles, got DCGANGenerator" in capsys.readouterr().err
