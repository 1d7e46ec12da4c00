import math
import types

import pytest
import torch
from PIL import Image
from torch import nn

from ganfast.systems import directions, editing, latent_editing, measures, readers
from ganfast.systems.latent_editing import SYSTEM, Options, sets
from ganfast.train.data import to_float, to_uint8
from ganfast.train.sampling import Sampler


def bars(slope, thick, tall, apart, heavy, side=32):
    """[N, 1, side, side]: two strokes beside each other, whose ink may grow or fade from bottom to top."""
    y, x = torch.meshgrid(torch.arange(side - 1.0, -1, -1), torch.arange(float(side)), indexing="ij")
    y, x = y - (side - 1) / 2, x - (side - 1) / 2
    slope, thick, tall, apart, heavy = (value.view(-1, 1, 1) for value in (slope, thick, tall, apart, heavy))
    across = ((x - slope * y).abs() - apart / 2).abs() / (1 + slope**2).sqrt()
    ink = (thick / 2 + 0.5 - across).clamp(0, 1) * (tall / 2 + 0.5 - y.abs()).clamp(0, 1) * (0.7 + heavy * y / side)
    return (2 * ink - 1)[:, None]


class Bars(nn.Module):
    """Each number of the latent does one thing, but for the second, which makes strokes thick and a little taller."""

    def forward(self, latent, labels=None):
        z = latent.unbind(1)
        return bars(0.1 * z[0], 4 + 0.3 * z[1], 18 + z[2] + 0.3 * z[1], 8 + 0.5 * z[3], 0.1 * z[4])


def known(run_dir=None):
    told = Sampler(Bars(), (5,), "Bars", classes=[str(digit) for digit in range(10)], conditioner=lambda labels: labels)
    return types.SimpleNamespace(sampler=lambda: told, run_dir=run_dir)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(latent_editing, "MEASURED", 100)
    monkeypatch.setattr(latent_editing, "RANDOM", 2)
    monkeypatch.setattr(editing, "TRIED", 60)
    data = {"train": None, "train_labels": None, "held": None, "held_labels": None}
    monkeypatch.setattr(latent_editing, "sets", lambda *_: data)


class Says:
    """In place of a reader: the digit that was asked for, unless the stroke is thin, or leans far to the left: then 0."""

    def read(self, images):
        unclear = (measures.thickness(images) < 2.5) | (measures.slant(images) < -0.28)
        return torch.where(unclear, 0, torch.arange(len(images)) % 10)[:, None]


def test_figures_of_a_generator_that_is_known(few, monkeypatch):
    monkeypatch.setattr(readers, "of_digits", lambda *_, steps: (Says(), 0.99))
    figures = SYSTEM.figures(known(), Options())
    for name in ("slant", "thickness"):
        assert figures[name] == pytest.approx(4, abs=0.15) and figures[f"{name}_r2"] > 0.95
        assert figures[f"{name}_others"] < figures[f"{name}_worst"] < 0.15
    assert (
        0.3 < figures["random"] < 2.5
        and 0.15 < figures["random_each"] < 1.5
        and figures["reader"] == 0.99
        and figures["read_unedited"] > 0.97
    )
    ends = [figures[f"read_{name}_{way}"] for name in ("slant", "thickness") for way in ("less", "more")]
    assert figures["read"] == min(ends) == figures["read_slant_less"] < 0.9 and figures["read_slant_more"] > 0.95
    assert figures["read_thickness_less"] < figures["read_thickness_more"]


def test_other_measures_that_move_are_told(few, monkeypatch):
    """Directions that nobody made independent: slant's carries height with it."""
    monkeypatch.setattr(readers, "of_digits", lambda *_, steps: (Says(), 0.99))
    found = editing.of_sampler(latent_editing.pictures_of(known(), Options()))
    height = found.vectors[found.names.index("height")]
    found.vectors[0] += 0.5 * height
    monkeypatch.setattr(latent_editing, "learned_in", lambda *_: found)
    figures = SYSTEM.figures(known(), Options())
    assert figures["slant_worst"] == pytest.approx(2, abs=0.15) and figures["thickness_worst"] < 0.15
    assert figures["slant_others"] == pytest.approx(2 / (len(found.names) - 1), abs=0.15)


def test_a_change_that_both_ends_share_is_told(few, monkeypatch):
    """Strokes are thinner the more they lean, to the left as to the right: their mean does not move from end to end."""
    monkeypatch.setattr(readers, "of_digits", lambda *_, steps: (Says(), 0.99))
    plain, straight = Bars.forward, SYSTEM.figures(known(), Options())
    thinner = lambda latent: torch.stack([latent[:, 0], latent[:, 1] - 0.5 * latent[:, 0] ** 2, *latent.unbind(1)[2:]], 1)
    monkeypatch.setattr(Bars, "forward", lambda self, latent, labels=None: plain(self, thinner(latent), labels))
    figures = SYSTEM.figures(known(), Options())
    assert straight["slant_worst_end"] < 0.5 and straight["slant_each"] < 0.25
    assert figures["slant_worst"] < 0.6 and figures["slant_worst_end"] > 1.5 and figures["slant_each"] > 0.5


def test_directions_are_learned_once_and_the_picture_shows_them(few, tmp_path, monkeypatch):
    trainer, options = known(tmp_path), Options(seed=3)
    image = SYSTEM.drawn(trainer, options)
    monkeypatch.setattr(editing, "of_sampler", lambda *_: pytest.fail("learned anew"))
    assert SYSTEM.drawn(trainer, options).equal(image) and (tmp_path / editing.KEPT).is_file()
    side, head = 64 + 4, 2 * editing.LINE + 6  # pictures of 32 pixels are enlarged to 64
    half = image.shape[1] // 2
    assert image.shape == (3, 2 * (head + 6 * side), 4 + 7 * side)
    cell = lambda top, row, column: to_float(image[None, :1, top + head + row * side :, 4 + column * side :][:, :, :64:2, :64:2])
    for top, measure, other in ((0, measures.slant, measures.thickness), (half, measures.thickness, measures.slant)):
        for row in range(6):
            values = torch.cat([measure(cell(top, row, column)) for column in range(7)])
            others = torch.cat([other(cell(top, row, column)) for column in range(7)])
            assert (values.diff() > 0).all() and (others.max() - others.min()) < (values.max() - values.min())


def test_what_edit_keeps_is_not_measured(few, tmp_path, monkeypatch):
    """`ganfast edit --samples` or --measure may have written to the folder, and a run that was made anew ends at the same step."""
    monkeypatch.setattr(readers, "of_digits", lambda *_, steps: (Says(), 0.99))
    trainer, options = known(tmp_path), Options()
    pictures, figures = latent_editing.pictures_of(trainer, options), SYSTEM.figures(known(), options)
    wrong = editing.of_sampler(editing.Pictures(pictures.sampler, {"thickness": measures.thickness}), samples=50)
    editing.keep(wrong, tmp_path, pictures)  # as if it were of all measures
    assert SYSTEM.figures(trainer, options) == figures
    assert editing.kept(tmp_path, pictures).names == tuple(measures.STROKES)
    editing.keep(wrong, tmp_path, pictures, samples=50)
    assert SYSTEM.drawn(trainer, options).equal(SYSTEM.drawn(known(), options))


def test_figures_are_of_latents_that_nothing_was_learned_from(few, monkeypatch):
    seen = {"learned": [], "tried": [], "drawn": []}
    learn, trial = directions.learned, directions.tried
    monkeypatch.setattr(directions, "learned", lambda z, *a: (seen["learned"].append(z), learn(z, *a))[1])
    monkeypatch.setattr(directions, "tried", lambda found, z, *a, **more: (seen["tried"].append(z), trial(found, z, *a, **more))[1])
    drawn = editing.edited
    monkeypatch.setattr(editing, "edited", lambda *a: (seen["drawn"].append(a[2]), drawn(*a))[1])
    monkeypatch.setattr(readers, "of_digits", lambda *_, steps: (Says(), 0.99))
    for seed in (0, 3):
        for rows in seen.values():
            rows.clear()
        SYSTEM.figures(known(), Options(seed=seed))
        (learned,), (corrected, measured) = seen["learned"], seen["tried"]
        rows = lambda *latents: {tuple(row) for some in latents for row in some.tolist()}
        assert len(learned) >= 4000 and len(measured) == 100 and not rows(learned) & rows(corrected)
        assert seen["drawn"] and not rows(learned, corrected) & rows(measured, *seen["drawn"])


def test_the_reader_does_not_learn_from_the_digits_it_is_tested_on(few, monkeypatch):
    asked, data = [], {name: torch.full((4,), i) for i, name in enumerate(("train", "train_labels", "held", "held_labels"))}
    monkeypatch.setattr(latent_editing, "sets", lambda *_: data)
    monkeypatch.setattr(readers, "of_digits", lambda *given, steps: (asked.append(given), (Says(), 0.99))[1])
    SYSTEM.figures(known(), Options())
    assert [[one[0].item() for one in given] for given in asked] == [[0, 1, 2, 3]]


def test_a_measure_that_is_the_same_for_all_pictures_has_no_figure(few, monkeypatch):
    monkeypatch.setattr(readers, "of_digits", lambda *_, steps: (Says(), 0.99))
    flat = lambda self, latent, labels: torch.full((len(latent), 1, 32, 32), -1.0).index_fill(2, torch.arange(8, 24), 0.5)
    tall = lambda self, latent, labels: flat(self, latent, labels) * (0.5 + 0.1 * latent[:, :1, None, None].tanh())
    monkeypatch.setattr(Bars, "forward", tall)
    figures = SYSTEM.figures(known(), Options())
    assert math.isnan(figures["slant"]) and math.isnan(figures["slant_others"]) and math.isfinite(figures["thickness"])


def small(**more):
    return Options(**{"steps": 100, "width": 4, "latent_dim": 4, "batch_size": 16, "learning_rate": 4e-3, "fused": False} | more)


def test_the_training_gives_real_pictures_back(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    slope, thick = 0.4 * torch.randn(200, generator=draw), 2.5 + 0.8 * torch.randn(200, generator=draw)
    images = to_uint8(bars(slope, thick, torch.full((200,), 11.0), torch.full((200,), 6.0), torch.zeros(200), side=16))
    data = {"train": images, "train_labels": torch.arange(200) % 2, "classes": ["a", "b"], "broken": []}
    monkeypatch.setattr(latent_editing, "sets", lambda *_: data)
    trainer = SYSTEM.trainer(small(data="bars", image_size=16, width=8, given_back=20.0, normal=0.2))
    trainer.fit(progress_bar=False)
    real, labels = to_float(images), data["train_labels"]
    codes = trainer.networks.encoder(real, labels)[0]
    error = lambda made: (made - real).square().mean().item()
    back = error(trainer.sample(200, labels, latents=codes))
    assert trainer.classes == ["a", "b"] and back < 0.5 * error(real.mean(0)) and back < 0.3 * error(trainer.sample(200, labels))


def test_what_is_minimised_is_the_error_and_the_codes_distance_from_normal_ones():
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(4)]])
    drawn = torch.tensor([[0.5, 0.25]])
    real = torch.zeros(1, 1, 2, 5)
    generator = lambda codes, labels: codes.sum() + labels + real
    networks = types.SimpleNamespace(encoder=lambda images, labels: (mean, log_variance), generator=generator)
    batch = types.SimpleNamespace(real=real, given=(3.0,), draws=types.SimpleNamespace(normal=lambda *shape: drawn.view(shape)))
    loss, said = latent_editing.given_back(networks, batch, 2.0)
    kl = (1 + 4 + 1 + 4 - 2 - math.log(4)) / 2
    assert said["error"] == pytest.approx((1 + 0.5 - 2 + 0.5 + 3) ** 2) and said["kl"] == pytest.approx(kl)
    assert loss.item() == pytest.approx(9 + 2 * kl / 10)


def test_only_where_a_latent_points_matters():
    network, latent = latent_editing.Generator(16, 3, 4, 1, num_classes=2).eval(), torch.randn(4, 3)
    labels = torch.tensor([0, 1, 0, 1])
    assert torch.allclose(network(latent, labels), network(5 * latent, labels), atol=1e-5)
    assert not torch.allclose(network(latent, labels), network(-latent, labels), atol=1e-3)


def test_digits_that_are_held_out_are_not_trained_on():
    data = sets(None, 32)
    train, held = ({one.numpy().tobytes() for one in data[name]} for name in ("train", "held"))
    assert len(data["train"]) == 4000 and len(data["held"]) == 1000 and len(train & held) < 5  # MNIST holds few twice
    assert data["classes"] == [str(digit) for digit in range(10)] and data["held_labels"].bincount().min() > 70


@pytest.mark.parametrize("classes", [(), ("cats", "dogs")])
def test_a_folder_of_pictures_with_or_without_classes(tmp_path, classes, few, monkeypatch):
    monkeypatch.setattr(latent_editing, "sets", sets)
    for i in range(20):
        place = tmp_path / "data" / (classes[i % 2] if classes else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 24), 30 + i).convert("RGB").save(place / f"{i}.png")
    (tmp_path / "data" / (classes[0] if classes else "") / "broken.png").write_text("no picture")
    options = small(data=str(tmp_path / "data"), image_size=16, steps=2)
    trainer = SYSTEM.trainer(options)
    assert len(trainer.source.broken) == 1 and "broken.png" in trainer.source.broken[0]  # the command says so
    trainer.fit(progress_bar=False)
    assert trainer.classes == list(classes) and trainer.sample(2).shape == (2, 3, 16, 16)
    figures = SYSTEM.figures(trainer, options)
    names = {name.removesuffix("_r2") for name in figures if name.endswith("_r2")}
    assert (
        names
        and {"random", "random_each", *(f"{name}{what}" for name in names for what in ("", "_others", "_worst", "_worst_end", "_each"))}
        <= figures.keys()
    )
    assert SYSTEM.goals_of(options) == {} and SYSTEM.credit_of(options) == "" and "read" not in figures
    assert len(SYSTEM.drawn(trainer, options)) == 3


def test_bad_options_are_a_sentence(tmp_path):
    for given, words in {
        "size": ({"image_size": 64}, "image_size got 64, wants 32 for the digits"),
        "power": ({"image_size": 24, "data": "x"}, "image_size got 24, wants a power of two"),
        "latent": ({"latent_dim": 1}, "latent_dim got 1, wants at least 2"),
        "normal": ({"normal": -1.0}, "normal got -1.0, wants 0 or more"),
    }.values():
        with pytest.raises(ValueError, match=words):
            Options(**given)
    with pytest.raises(ValueError, match="there is no such folder"):
        SYSTEM.trainer(Options(data=str(tmp_path / "none")))
    Image.new("RGB", (16, 16)).save(tmp_path / "one.png")
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"has 1 pictures that can be read, wants at least 16. 1 cannot be read, the first: .*broken.png"):
        SYSTEM.trainer(Options(data=str(tmp_path)))
