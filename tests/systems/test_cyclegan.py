from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ganfast.models.cyclegan import PatchDiscriminator, ResnetGenerator
from ganfast.systems import cyclegan
from ganfast.systems.cyclegan import PUBLISHED, SYSTEM, Options, sets
from ganfast.systems.sources import blurred
from ganfast.train.data import to_float, to_uint8

SMALL = {"crop_size": 16, "netG": "resnet_2blocks", "ngf": 4, "ndf": 4, "n_layers_D": 2, "batch_size": 2, "steps": 2, "fused": False}


@pytest.fixture
def folders(tmp_path):
    """trainA and testA dark, trainB and testB light."""
    for name, count in {"trainA": 5, "trainB": 7, "testA": 3, "testB": 4}.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            shade = (40 if name.endswith("A") else 200) + i
            Image.new("RGB", (20, 20), (shade, shade, shade)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_the_sets_have_no_digit_in_common_and_the_rule_is_kept():
    data = blurred.sets()
    assert len(data["train_a"]) == 800 and len(data["train_b"]) == 697 and len(data["test_a"]) == len(data["test_b"]) == 300
    assert torch.equal(data["test_b"], to_uint8(blurred.negative(to_float(data["test_a"]))))
    a = {image.numpy().tobytes() for image in to_uint8(blurred.negative(to_float(data["train_a"])))}
    b = {image.numpy().tobytes() for image in data["train_b"]}
    assert not a & b and not (a | b) & {image.numpy().tobytes() for image in data["test_b"]}


def test_the_rule_by_hand():
    white = torch.ones(1, 1, 32, 32)
    middle = blurred.negative(white)[0, 0, 16, 16]
    assert middle.item() == pytest.approx(-1, abs=1e-6)  # inverted, and blurred to itself
    assert blurred.negative(white)[0, 0, 16, 0].item() == pytest.approx(-0.6, abs=0.01)  # grey comes in at the border
    point = torch.zeros(1, 1, 32, 32)
    point[0, 0, 16, 16] = 1
    across = -blurred.negative(point)[0, 0].sum(0)
    place = torch.arange(32.0) - 16
    assert (across * place**2).sum().item() == pytest.approx(blurred.DEVIATION**2, rel=0.03)


def test_both_ways_there_and_back_are_learned():
    options = Options(steps=30, ngf=4, fused=False)
    trainer = SYSTEM.trainer(options)
    data = sets(options.whole())
    a, b = to_float(data["test_a"][:100]), to_float(data["test_b"][:100])
    errors = []
    for _ in range(2):
        there = {"ab": trainer.sample(len(a), a, network="ab"), "ba": trainer.sample(len(b), b, network="ba")}
        back = trainer.sample(len(a), there["ab"], network="ba"), trainer.sample(len(b), there["ba"], network="ab")
        errors.append([(back[0] - a).abs().mean().item(), (back[1] - b).abs().mean().item()])
        if len(errors) == 1:
            trainer.fit(progress_bar=False)
    assert all(after < 0.7 * before for before, after in zip(*errors)), errors


def test_a_folder_of_one_s_own(folders):
    options = Options(data=str(folders), **SMALL)
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert trainer.config.learning_rate == 2e-4 and {"identity_a", "identity_b"} <= trainer.phases[1].terms.keys()
    assert SYSTEM.measure(trainer, options).keys() == {"cycle_a", "cycle_b"}
    assert SYSTEM.picture(trainer, options).shape == (3, 4 * 18 + 2, 3 * 18 + 2)


def test_direction_changes_the_sets_names(folders):
    there, back = (sets(Options(data=str(folders), direction=way, **SMALL).whole()) for way in ("AtoB", "BtoA"))
    assert torch.equal(there["train_a"], back["train_b"]) and torch.equal(there["test_b"], back["test_a"])
    assert to_float(there["train_a"]).max() < 0 < to_float(there["train_b"]).min()


def test_epochs_are_of_the_larger_set(folders):
    options = Options(data=str(folders), n_epochs=3, n_epochs_decay=1, **{**SMALL, "batch_size": 1, "steps": None})
    config = SYSTEM.trainer(options).config
    assert config.steps == 4 * 7 and config.decay_from == 0.75


def test_published_weights_are_where_training_begins(folders, tmp_path):
    """G_A makes B of A, and D_A, which judges what it makes, knows B."""
    files = {"latest_net_G_A.pth": "ab", "latest_net_G_B.pth": "ba", "latest_net_D_A.pth": "d_b", "latest_net_D_B.pth": "d_a"}
    held = {file: (ResnetGenerator(3, 3, 4, 2) if "G" in file else PatchDiscriminator(3, 4, 2)).state_dict() for file in files}
    for file, state in held.items():
        torch.save(state, tmp_path / file)
    trainer = SYSTEM.trainer(Options(data=str(folders), weights=str(tmp_path), **SMALL))
    for file, name in files.items():
        loaded = trainer.networks[name].state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in held[file].items()), file


def test_the_terms_by_hand():
    """There: twice as much. Back: half of it, and one more."""
    networks = {"ab": lambda x: 2 * x, "ba": lambda x: x / 2 + 1}
    a = torch.linspace(-1, 1, 48).view(3, 1, 4, 4)
    batch = SimpleNamespace(data={"a": a, "b": a}, fake=lambda network: network(a))
    assert cyclegan.cycle("ab", "ba", "a")(networks, batch).item() == pytest.approx(1)
    assert cyclegan.cycle("ba", "ab", "b")(networks, batch).item() == pytest.approx(2)
    assert cyclegan.identity("ab", "b")(networks, batch).item() == pytest.approx(a.abs().mean().item())


def test_what_is_missing_is_named(folders, tmp_path):
    for words, options in {
        "crop_size got 16, wants crop_size >= 24 for n_layers_D=3": {"data": str(folders), "crop_size": 16, "n_layers_D": 3},
        "crop_size got 30, wants a multiple of 4": {"data": str(folders), "crop_size": 30},
        "n_layers_D got 4, wants crop_size >= 48 for n_layers_D=4": {"n_layers_D": 4},
        "crop_size got 48, wants 32 for the digits": {"n_layers_D": 4, "crop_size": 48},
    }.items():
        with pytest.raises(ValueError, match=words):
            SYSTEM.trainer(Options(**options))
    with pytest.raises(ValueError, match=r"weights .* has no latest_net_G_A\.pth"):
        SYSTEM.trainer(Options(data=str(folders), weights=str(tmp_path), **SMALL))
    (tmp_path / PUBLISHED["ab"]).write_bytes(b"no state dict")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        SYSTEM.trainer(Options(data=str(folders), weights=str(tmp_path), **SMALL))
    (folders / "testB").rename(folders / "elsewhere")
    sets.cache_clear()
    with pytest.raises(ValueError, match="has no folder testB; wants trainA, trainB, testA, testB"):
        SYSTEM.trainer(Options(data=str(folders), **SMALL))


def test_the_discriminators_learn_at_their_own_rate():
    trainer = SYSTEM.trainer(Options(fused=False))
    assert trainer.rates == {"ab": 1e-3, "ba": 1e-3, "d_a": 1e-4, "d_b": 1e-4}
    assert cyclegan.DIGITS.keys() == cyclegan.FOLDER.keys()
