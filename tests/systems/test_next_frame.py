import dataclasses
import json
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ganfast import cli
from ganfast.systems import next_frame, running
from ganfast.systems.next_frame import PAST, SYSTEM, Discriminator, Generator, Options, rolled_on, sets
from ganfast.systems.sources import moving
from ganfast.train.data import to_float, to_uint8


@pytest.fixture(scope="module")
def trained():
    """On blotches of 5x5 pixels that move through 16x16, others in the test."""
    draw = torch.Generator().manual_seed(0)
    blotches = (torch.rand(200, 1, 5, 5, generator=draw) > 0.5).to(torch.uint8).mul(255).repeat_interleave(2, 2).repeat_interleave(2, 3)
    clips = lambda n, some, frames, seed: moving.clips(n, some, frames, field=16, count=1, fastest=4, seed=seed).frames
    train, test = clips(4000, blotches[:150], PAST + 1, 1), clips(300, blotches[150:], PAST + 2, 2)
    data = {"past": train[:, :PAST].flatten(1, 2).contiguous(), "next": train[:, PAST].contiguous(), "test": test}
    small = {"image_size": 16, "width": 8, "batch_size": 16, "learning_rate": 3e-3, "reach": 2, "after": 0.0}
    options = Options(data="blotches", steps=150, fused=False, **small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(next_frame, "sets", lambda options: data)
        trainer = SYSTEM.trainer(options)
        trainer.fit(progress_bar=False)
        yield trainer, options


def given_and_next(options):
    clips = to_float(next_frame.sets(options)["test"])
    return clips[:, :PAST], clips[:, PAST]


def test_it_learns_how_things_move(trained):
    trainer, options = trained
    past, true = given_and_next(options)
    error = lambda past: F.l1_loss(rolled_on(trainer, past, 1)[:, 0], true).item()
    dark, copied = F.l1_loss(torch.full_like(true, -1), true).item(), F.l1_loss(past[:, -1], true).item()
    backwards, still = past[:, [2, 1, 0, 3]], past[:, [3, 3, 3, 3]]
    assert error(past) < 0.85 * min(dark, copied, error(backwards), error(still))


def test_a_frame_is_made_from_all_four_before_it_and_from_no_other(trained):
    trainer, options = trained
    past, true = given_and_next(options)
    made = rolled_on(trainer, past, 1)
    for t in range(PAST):
        other = past.clone()
        other[:, t] = true
        assert (rolled_on(trainer, other, 1) - made).abs().mean() > 1e-3
    item = {"past": past.flatten(1, 2), "next": true}
    assert trainer.sample(len(past), item).equal(trainer.sample(len(past), item | {"next": -true}))
    assert trainer.sample(len(past), item).cpu().equal(made[:, 0])


def test_training_pairs_frames_with_the_one_after_them(trained):
    trainer, options = trained
    data = next_frame.sets(options)
    item = trainer.source.reals(20)[1]
    rows = {past.numpy().tobytes(): following for past, following in zip(data["past"], data["next"])}
    past, following = to_uint8(item["past"]), to_uint8(item["next"])
    assert all(rows[one.numpy().tobytes()].equal(other) for one, other in zip(past, following))


class Told:
    """In place of a trainer: a function of the past frames [N, 4 C, S, S], which are all that it may be given."""

    def __init__(self, function):
        self.function = function

    def sample(self, n, item):
        assert list(item) == ["past"] and len(item["past"]) == n
        return self.function(item["past"])


def test_figures_of_what_is_known(trained, monkeypatch):
    _, options = trained
    copied = SYSTEM.measure(Told(lambda past: past[:, -1:]), options)
    assert copied["l1"] == copied["copied_l1"] > 0.05 and copied["db"] == copied["copied_db"]
    assert copied["rolled_l1"] == copied["rolled_copied_l1"] > copied["l1"] and copied["sharpness_off"] < 0.1
    test = next_frame.sets(options)["test"].clone()
    test[:, 1:] = test[:, :1]
    monkeypatch.setattr(next_frame, "sets", lambda options: {"test": test})  # nothing moves: copying is right, twice as dark is not
    still = SYSTEM.measure(Told(lambda past: past[:, -1:]), options)
    assert (still["l1"], still["rolled_l1"], still["sharpness"], still["sharpness_off"]) == (0, 0, 1, 0)
    darker = SYSTEM.measure(Told(lambda past: past[:, -1:] / 2 - 0.5), options)
    lost = test[:, 0] / 255
    assert darker["sharpness"] == pytest.approx(0.5) and darker["rolled_sharpness"] == pytest.approx(0.25)
    assert darker["sharpness_off"] == pytest.approx(0.5)
    assert darker["l1"] == pytest.approx(lost.mean().item())
    assert darker["db"] == pytest.approx(10 * (4 / lost.square().mean()).log10().item(), abs=1e-3)


def test_frames_that_were_made_are_gone_on_with():
    counted = rolled_on(Told(lambda past: past[:, -2:] + past[:, :2] / 8), torch.ones(3, PAST, 2, 4, 4), 5)
    assert counted.shape == (3, 5, 2, 4, 4)
    assert counted[0, :, 0, 0, 0].tolist() == [1.125, 1.25, 1.375, 1.5, 1.640625]


def test_a_generator_that_moves_nothing_copies():
    network = Generator(3, 16, 8, 2).eval()
    last = network.last[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    past = torch.rand(2, 3 * PAST, 16, 16) * 2 - 1
    for shift, moved in ((0, 0), (5, 1)):  # of 25 places around a pixel that in its middle, and the one below that
        with torch.no_grad():
            last.bias[:] = torch.where(torch.arange(29) == 12 + shift, 100.0, 0.0)
        assert network(past)[:, :, : 16 - moved].equal(past[:, -3:, moved:])


def test_the_discriminator_sees_the_frames_before():
    network, following = Discriminator(1, 32, 8), torch.randn(2, 1, 32, 32)
    logits = [network(following, torch.randn(2, PAST, 32, 32)) for _ in range(2)]
    assert logits[0].shape == (2, 1) and not torch.equal(*logits)


def test_the_picture_and_the_clip(trained, tmp_path, monkeypatch):
    trainer, options = trained
    past, true = given_and_next(options)
    monkeypatch.setattr(trainer, "run_dir", tmp_path)
    image = SYSTEM.drawn(trainer, options)
    assert image.shape == (3, 2 + 6 * 20, 2 + (PAST + 2) * 20)
    at = lambda row, t: image[:1, 3 + 20 * row : 19 + 20 * row, 3 + 20 * t : 19 + 20 * t]
    assert at(2, 1).equal(to_uint8(past[1, 1])) and at(3, PAST).equal(to_uint8(true[1]))
    assert at(2, PAST).equal(to_uint8(rolled_on(trainer, past, 1)[1, 0]))
    with Image.open(tmp_path / "clip.gif") as clip:
        assert clip.n_frames == PAST + 2 and b"Synthetic: yes" in clip.info["comment"]
    assert SYSTEM.sample(trainer, options, count=3, seed=7).shape == (3, 1, 16, 16)


def test_the_frame_after_the_next_is_made_from_the_one_that_was_made():
    given = []
    network = lambda past: given.append(past) or past[:, -1:] + 1
    past, made = torch.arange(4.0).view(1, PAST, 1, 1), torch.full((1, 1, 1, 1), 9.0, requires_grad=True)
    batch = types.SimpleNamespace(fake=lambda _: made, data={"past": past, "next": None, "after": torch.full((1, 1, 1, 1), 7.0)})
    assert next_frame.after(types.SimpleNamespace(generator=network), batch) == 3
    assert given[0].flatten().tolist() == [1, 2, 3, 9] and not given[0].requires_grad


def test_digits_that_are_held_out_move_in_no_training_clip(monkeypatch):
    asked, made, real = [], [], moving.clips

    def few(n, digits, *given, **options):
        asked.append(digits)
        made.append(real(5, digits, *given, **options).frames)
        return real(5, digits, *given, **options)

    monkeypatch.setattr(moving, "clips", few)
    data = sets.__wrapped__(Options(seed=3))
    train, test = ({one.numpy().tobytes() for one in digits} for digits in asked)
    assert (len(asked[0]), len(asked[1])) == (4000, 1000) and not train & test
    assert data["past"].unflatten(1, (PAST, 1)).equal(made[0][:, :PAST]) and data["test"].equal(made[1])
    assert data["next"].equal(made[0][:, PAST]) and data["after"].equal(made[0][:, PAST + 1])
    assert [tuple(data[name].shape[1:]) for name in ("past", "next", "after", "test")] == [
        (4, 32, 32), (1, 32, 32), (1, 32, 32), (14, 1, 32, 32)
    ]  # fmt: skip


def test_a_folder_of_films(tmp_path, monkeypatch):
    monkeypatch.setattr(next_frame, "sets", sets)
    for clip in range(5):
        (tmp_path / f"clip{clip}").mkdir()
        for t in range(7):
            Image.effect_noise((24, 20), 20 + t).convert("RGB").save(tmp_path / f"clip{clip}" / f"{t}.png")
    options = Options(data=str(tmp_path), image_size=16, width=8, batch_size=4, steps=2, fused=False)
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert [len(sets(options)[name]) for name in ("past", "next", "after", "test")] == [8, 8, 8, 1]
    assert sets(options) is sets(dataclasses.replace(options, run_dir=str(tmp_path / "run"), steps=3, width=4))  # read once
    figures = SYSTEM.figures(trainer, options)
    assert figures["rolled_frames"] == 3 and 0 < figures["rolled_l1"] < 2 and trainer.sample(2).shape == (2, 3, 16, 16)
    assert SYSTEM.drawn(trainer, options).shape == (3, 2 + 2 * 20, 2 + 7 * 20) and SYSTEM.credit_of(options) == ""


def test_a_run_is_gone_on_with_and_its_samples_go_on_with_a_held_out_clip(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(next_frame, "sets", sets)
    folder, out = tmp_path / "run", tmp_path / "out"
    for clip in range(5):
        (tmp_path / "films" / f"clip{clip}").mkdir(parents=True)
        for t in range(7):
            Image.effect_noise((16, 16), 20 + t).save(tmp_path / "films" / f"clip{clip}" / f"{t}.png")
    small = ["--image-size=16", "--width=4", "--batch-size=4", "--steps=2", "--no-fused", "--precision=fp32", "--device=cpu"]
    cli.main(["run", "next-frame", "--data", str(tmp_path / "films"), "--run-dir", str(folder), *small])
    monkeypatch.chdir(tmp_path / "films")  # the run knows its data wherever it is asked
    cli.main(["run", "next-frame", "--resume", "--run-dir", str(folder), "--steps=3"])
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 3 and result["figures"]["rolled_frames"] == 3 and (folder / "clip.gif").exists()
    assert "3 steps" in capsys.readouterr().out
    cli.main(["sample", str(folder), "--count", "2", "--seed", "1", "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"grid.png", "image-000.png", "image-001.png"}
    system, options = running.saved(folder)
    trainer = running.put_back(system, options, folder)
    clip = to_float(sets(options)["test"])
    images = torch.stack([pixels(out / f"image-{i:03d}.png") for i in range(2)])
    assert images.equal(to_uint8(rolled_on(trainer, clip[:1, :PAST], 2)[0]))


def pixels(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_a_weight_of_0_leaves_a_term_out(trained):
    _, options = trained
    terms = lambda **changes: [list(phase.terms) for phase in SYSTEM.trainer(dataclasses.replace(options, **changes)).phases]
    assert terms(after=1.0) == [["adversarial", "r1"], ["l1", "slope", "adversarial", "after"]]
    assert terms(r1=0.0, slope=0.0, l1=0.0) == [["adversarial"], ["adversarial"]]
    trainer = SYSTEM.trainer(dataclasses.replace(options, r1=0.0, adversarial=0.0, steps=1))
    trainer.fit(progress_bar=False)
    assert trainer.steps == 1


def test_bad_films_stop_a_run_before_its_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(next_frame, "sets", sets)
    (tmp_path / "films").mkdir()
    for t in range(3):
        Image.new("L", (20, 20), t).save(tmp_path / "films" / f"{t}.png")
    with pytest.raises(ValueError, match=r"1 clips of fewer than 6 frames: films \(3\)"):
        SYSTEM.trainer(Options(data=str(tmp_path / "films"), run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": 48}, "image_size got 48, wants a power of two of at least 16"),
        ({"image_size": 16}, "image_size got 16, wants at least 32 for the digits"),
        ({"count": 0}, "count got 0, wants at least 1"),
        ({"reach": 0}, "reach got 0, wants at least 1"),
        ({"l1": -1.0}, "l1 got -1.0, wants 0, which leaves it out, or more"),
        ({"r1": -0.1}, "r1 got -0.1, wants 0"),
        ({"learning_rate": 0.0}, "learning_rate got 0.0, wants a number above 0"),
        ({"l1": 0.0, "after": 0.0, "slope": 0.0, "adversarial": 0.0}, "l1 got 0.0, wants a weight above 0 where after, slope and"),
        ({"data": "films", "clips": 5}, "clips got 5, wants no value beside data: it is of the system's own data alone"),
        ({"data": "films", "count": 3}, "count got 3, wants no value beside data"),
        ({"data": "films", "fastest": 3}, "fastest got 3, wants no value beside data"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Options(**given)
