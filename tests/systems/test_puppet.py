"""The system puppet: one small run by the command, what it learns, and that no frame leaves it without the mark."""

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ganfast import cli
from ganfast.systems import form, provenance, puppet, running
from ganfast.systems.puppet import SYSTEM, Options, asked, flow, made, moved, spots
from ganfast.systems.sources import acted
from ganfast.train.data import to_float

SIZE, STEPS = 32, 120
SMALL = [f"--image-size={SIZE}", "--width=8", "--people=60", f"--steps={STEPS}", "--learning-rate=4e-3", "--seed=5"]
PLAIN = ["--no-fused", "--precision=fp32", "--device=cpu"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "puppet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acted, "TEST", 24)
        patch.setattr(puppet, "FACES", 3)
        acted.sets.cache_clear()
        cli.main(["run", "puppet", "--run-dir", str(folder), *SMALL, *PLAIN])
        yield folder
    acted.sets.cache_clear()


@pytest.fixture(scope="module")
def put_back(ran):
    system, options = running.saved(ran)
    return running.put_back(system, options, ran), options


def held_out(options):
    test = acted.sets(puppet.source(options))[1]
    return {name: to_float(value) if value.dtype == torch.uint8 else value for name, value in test.items()}


def pixels(image):
    return to_float(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def tiles(whole, scale=1, size=SIZE):
    """[rows, columns, 3, size, size] of a grid."""
    whole = whole[:, ::scale, ::scale]
    rows, columns = ((side - 2) // (size + 2) for side in whole.shape[1:])
    place = lambda i: slice(2 + i * (size + 2), 2 + i * (size + 2) + size)
    return torch.stack([torch.stack([whole[:, place(row), place(column)] for column in range(columns)]) for row in range(rows)])


def fails(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main([str(arg) for arg in args])
    return capsys.readouterr().err


@pytest.mark.prove
def test_it_learns_to_move_faces_it_never_saw(ran):
    result = json.loads((ran / "result.json").read_text())
    of = result["figures"]
    assert of["l1"] < 0.98 * of["warped"] < 0.6 * of["copied"]  # better than the flow, which learns nothing
    assert of["other_points"] > 2 * of["l1"]
    assert of["points_rule"] < of["points"] < of["points_still"]
    assert result["goals"].keys() <= of.keys() and "Pablo Stanley" in result["credit"]
    assert of["l1_ratio"] == pytest.approx(of["l1"] / of["copied"]) and of["l1_over_warped"] == pytest.approx(of["l1"] / of["warped"])
    for name in ("near", "points"):
        assert of[f"{name}_over_warped"] == pytest.approx(of[name] / of[f"{name}_warped"])


class Told:
    """In place of a trainer: a function of the item, which holds nothing but the still and the points."""

    run_dir, name = None, "told"

    def __init__(self, function):
        self.function = function

    def sample(self, n, item):
        assert sorted(item) == ["from", "still", "to"] and len(item["to"]) == n
        return self.function(item)


@pytest.mark.prove
def test_figures_of_what_is_known(put_back, monkeypatch):
    _, options = put_back
    test = held_out(options)
    true = SYSTEM.measure(Told(lambda item: provenance.marked(test["frame"])), options)
    assert (true["l1"], true["l1_ratio"], true["sharpness"], true["who"]) == (0, 0, 1, 1)
    assert true["near"] == 0 < true["near_warped"] < true["near_copied"]
    assert true["points"] == true["points_rule"] < 0.5 * true["points_still"] and true["sharpness_off"] == 0
    still = SYSTEM.measure(Told(lambda item: item["still"]), options)
    assert (still["l1"], still["near"], still["l1_ratio"]) == (still["copied"], still["near_copied"], 1)
    assert still["who"] == still["who_still"] < 1 and still["nearest"] < 0.2 * still["copied"]
    warped = SYSTEM.measure(Told(lambda item: moved(item["still"], asked(item)[1])), options)
    for name in ("near", "points", "who"):
        assert warped[name] == warped[f"{name}_warped"] == still[f"{name}_warped"]
    assert warped["l1_over_warped"] == warped["near_over_warped"] == warped["points_over_warped"] == 1
    missed = [name for name, met in form.reached(warped, SYSTEM.goals).items() if not met]
    assert {"l1_over_warped", "points_over_warped"} <= set(missed)  # of a network that does nothing
    assert warped["l1"] == warped["warped"] < warped["copied"]
    monkeypatch.setattr(puppet, "faces", lambda *given: {})  # the same again
    darker = SYSTEM.measure(Told(lambda item: test["frame"] / 2 - 0.5), options)
    assert darker["sharpness"] == pytest.approx(0.5, abs=0.01) and darker["sharpness_off"] == pytest.approx(0.5, abs=0.01)
    by = lambda item: torch.where((item["to"] == test["to"]).all(), test["frame"], -test["frame"])
    assert SYSTEM.measure(Told(by), options)["other_points"] == pytest.approx(
        2 * provenance.above(test["frame"]).abs().mean().item(), rel=1e-4
    )


def test_many_frames_are_made_and_measured_a_few_at_a_time(put_back, monkeypatch):
    _, options = put_back
    seen = []
    told = Told(lambda item: seen.append(len(item["to"])) or moved(item["still"], asked(item)[1]) * 0.9)
    at_once = SYSTEM.measure(told, options)
    assert seen == [24, 24]
    monkeypatch.setattr(puppet, "VALUES", 5 * SIZE**2 * 16)
    seen.clear()
    asked_for, sizes = puppet.asked, []
    monkeypatch.setattr(puppet, "asked", lambda item: sizes.append(len(item["to"])) or asked_for(item))
    assert SYSTEM.measure(told, options) == pytest.approx(at_once, rel=1e-4) and seen == [5, 5] * 4 + [4, 4] and max(sizes) == 5
    seen.clear()
    one = acted.scene(puppet.source(options), 0, 12)
    assert len(made(told, one.items())) == 12 and seen == [5, 5, 2]


def test_nobody_is_in_both_sets_and_pairs_are_of_one_person(put_back):
    _, options = put_back
    train, test, _ = acted.sets(puppet.source(options))
    rows = {frame.numpy().tobytes(): i // 3 for i, frame in enumerate(train["frame"])}
    assert [rows[still.numpy().tobytes()] for still in train["still"]] == [i // 3 for i in range(180)]
    assert not any((still == frame).all() for still, frame in zip(train["still"], train["frame"]))
    assert not any(frame.numpy().tobytes() in rows for frame in (*test["still"], *test["frame"]))
    for name, points in (("still", "from"), ("frame", "to")):
        drawn = acted.puppets.render(test["people"], test["pose"], SIZE)
        assert (name == "frame") == drawn.equal(test[name]) == acted.puppets.points(test["pose"]).equal(test[points])


def test_every_frame_that_is_written_has_the_mark(ran, tmp_path, capsys):
    grid = sorted((ran / "grids").glob("*.png"))
    assert len(grid) >= 8
    for path in grid:
        with Image.open(path) as image:
            whole = pixels(image)
            assert image.text["Synthetic"].startswith("yes") and image.text["Seed"] == "5"
        scale = whole.shape[2] // (10 * (SIZE + 2))
        assert all(provenance.is_marked(row).all() for row in tiles(whole, scale))
    with Image.open(ran / "picture.png") as image:
        drawn = tiles(pixels(image))
        assert image.text["Synthetic"].startswith("yes") and "Pablo Stanley" in image.text["Credit"]
    assert drawn.shape[:2] == (9, 7) and all(provenance.is_marked(drawn[row, 1:]).all() for row in (1, 4, 7))
    assert not any(provenance.is_marked(drawn[row]).any() for row in (0, 2, 3, 5, 6, 8))  # drawn, not made
    with Image.open(ran / "clip.gif") as clip:
        assert clip.n_frames == 24 and b"Synthetic: yes" in clip.info["comment"] and b"Pablo Stanley" in clip.info["comment"]
        for t in range(24):
            clip.seek(t)
            shown = tiles(pixels(clip), 2)
            assert provenance.is_marked(shown[:, 2]).all() and not provenance.is_marked(shown[:, [0, 1, 3]].flatten(0, 1)).any()
    cli.main(["sample", str(ran), "--seed", "3", "--count", "5", "--out", str(tmp_path / "out")])
    assert puppet.CONSENT not in capsys.readouterr().out  # drawn people
    files = sorted((tmp_path / "out").glob("image-*.png"))
    assert len(files) == 5
    for path in files:
        with Image.open(path) as image:
            assert provenance.is_marked(pixels(image)[None]).all()
            assert {"Synthetic", "Model", "Seed", "Face", "Driver", "Credit"} <= image.text.keys() and image.text["Seed"] == "3"
            assert image.text["Face"].startswith("drawn, a ") and image.text["Driver"].startswith("key points of drawn, a ")
    with Image.open(tmp_path / "out" / "clip.gif") as clip:
        assert clip.n_frames == 5 and b"Driver: key points of" in clip.info["comment"]
        for t in range(5):
            clip.seek(t)
            assert pixels(clip).shape == (3, 192, 192) and provenance.is_marked(pixels(clip)[None]).all()  # enlarged six times


@pytest.mark.parametrize("side", [32, pytest.param(64, marks=pytest.mark.prove)])
def test_all_files_of_a_run_have_the_mark(ran, tmp_path, side, monkeypatch):
    """Whatever it writes: a file of another name, or pictures of another size, fail here."""
    folder = ran
    if side != SIZE:
        folder = tmp_path / "run"
        monkeypatch.setattr(acted, "TEST", 24)
        monkeypatch.setattr(puppet, "FACES", 2)
        small = [f"--image-size={side}", "--width=2", "--people=4", "--steps=2", "--batch-size=2"]
        with monkeypatch.context() as patch:
            patch.setattr(acted, "sets", functools.lru_cache(1)(acted.sets.__wrapped__))
            cli.main(["run", "puppet", "--run-dir", str(folder), *small, *PLAIN])
    looked_at = set()
    for path in sorted({*folder.rglob("*.png"), *folder.rglob("*.gif")}):
        name = str(path.relative_to(folder))
        if name == "curves.png":  # of numbers
            continue
        with Image.open(path) as image:
            for t in range(getattr(image, "n_frames", 1)):
                image.seek(t)
                whole = pixels(image)
                scale = 2 if name == "clip.gif" or ("picture" not in name and side == 32 and whole.shape[2] > 600) else 1
                parts = tiles(whole, scale, side)
                if name == "clip.gif":
                    parts = parts[:, 2]
                elif name == "picture.png":
                    parts = parts[1::3, 1:].flatten(0, 1)
                else:
                    assert len(parts) == parts.shape[1] == (10 if side == 32 or "grids" in name else 5)
                    parts = parts.flatten(0, 1)
                assert provenance.is_marked(parts).all(), name
        looked_at.add(name.partition("/")[0])
    assert looked_at == {"clip.gif", "grids", "learning.gif", "picture.png"}


def test_whose_face_and_whose_data_the_files_tell(ran, tmp_path, capsys):
    with Image.open(ran / "picture.png") as image:
        assert image.text["Face"].count("drawn, a ") == 3 == image.text["Driver"].count("key points of drawn, a ")
    with Image.open(ran / "clip.gif") as clip:
        assert b"Face: drawn, a " in clip.info["comment"] and b"Driver: key points of drawn, a " in clip.info["comment"]
    mine = tmp_path / "mine.gif"
    Image.effect_noise((50, 50), 60).save(mine)
    mine.with_suffix(".json").write_text(json.dumps([[[i, 40 - i] for i in range(16)]]))
    for option, key, other in (("face", "Network trained on", "Credit"), ("driver", "Credit", "Network trained on")):
        cli.main(["sample", str(ran), f"--{option}", str(mine), "--out", str(tmp_path / option)])
        with Image.open(tmp_path / option / "image-000.png") as image:  # frames of one's own picture show nobody's avatars
            assert "Pablo Stanley" in image.text[key] and other not in image.text
        assert capsys.readouterr().out.count(puppet.CONSENT) == 1
    assert "count got '3', wants none with driver. The film is taken whole" in fails(capsys, "sample", ran, "--driver", mine, "--count=3")


def test_a_resumed_run_keeps_who_is_held_out(ran, capsys):
    said = fails(capsys, "run", "puppet", "--resume", "--run-dir", ran, "--people=70")
    assert "people got 70, the run in" in said and "has 60; a resumed run keeps it" in said


def folder_of(path, clips=5, frames=4, points=5):
    draw = torch.Generator().manual_seed(0)
    for clip in range(clips):
        (path / f"clip{clip}").mkdir(parents=True)
        for t in range(frames):
            Image.effect_noise((48, 40), 20 + 10 * t).convert("RGB").save(path / f"clip{clip}" / f"{t}.png")
        (path / f"clip{clip}" / "points.json").write_text(json.dumps((torch.rand(frames, points, 2, generator=draw) * 40).tolist()))
    return path


def test_clips_and_a_face_of_your_own(tmp_path, capsys):
    data = folder_of(tmp_path / "data")
    run = ["run", "puppet", "--data", str(data), "--run-dir", str(tmp_path / "run"), "--steps=2", "--batch-size=4", *SMALL[:2], *PLAIN]
    cli.main(run)
    assert capsys.readouterr().out.count(puppet.CONSENT) == 1
    options = running.saved(tmp_path / "run")[1]
    train, test, held = acted.sets(puppet.source(options))
    assert len(train["frame"]) == 2 * 16 and len(test["frame"]) == 3 and list(held) == ["clip4"]
    assert test["frame"].equal(held["clip4"].frames[1:]) and (test["still"] == held["clip4"].frames[0]).all()
    kept = [frame.numpy().tobytes() for frame in train["frame"][:16]]
    for still, frame in zip(train["still"], train["frame"]):
        places = [kept.index(one.numpy().tobytes()) for one in (still, frame)]
        assert places[0] // 4 == places[1] // 4 and places[0] != places[1]  # two frames of one clip
    assert not (tmp_path / "run" / "result.json").read_text().count("points_rule")
    face, film = data / "clip0" / "0.png", data / "clip1"
    ask = ["sample", tmp_path / "run", "--face", face, "--driver", film, "--out", tmp_path / "out"]
    assert "there are no points of 0.png. Wanted: " in fails(capsys, *ask)
    (data / "clip0" / "0.json").write_text(json.dumps([[i, 2 * i] for i in range(5)]))
    cli.main([str(arg) for arg in ask])
    assert capsys.readouterr().out.count(puppet.CONSENT) == 1
    files = sorted((tmp_path / "out").glob("image-*.png"))
    assert len(files) == 4  # as many as the film has
    with Image.open(files[0]) as image:
        assert (image.text["Face"], image.text["Driver"]) == ("0.png", "key points of clip1") and "Credit" not in image.text
        assert provenance.is_marked(pixels(image)[None]).all()
    one = acted.scene(puppet.source(options), 0, 4, str(face), str(film))
    assert one.still.equal(to_float(acted.pointed(face, SIZE)["0.png"].frames[0])) and one.points.equal(
        acted.pointed(film, SIZE)["clip1"].points
    )
    (data / "clip0" / "0.json").write_text("[[1, 2], [3, 4]]")
    assert "has 2 points in a frame, the run was trained with 5" in fails(capsys, *ask)
    assert "wants a picture of a face, key points beside: of face.png in face.json; there is no" in fails(capsys, *ask[:2], "--face", "x")
    assert "driver '" in (said := fails(capsys, *ask[:2], "--driver", data)) and "holds 5 clips, wants one" in said


def test_bad_films_stop_a_run_before_its_folder_is_made(tmp_path):
    folder = folder_of(tmp_path / "data", 1, 3)
    with pytest.raises(ValueError, match="puppet: data has one clip of 3 frames, wants five clips, or one of 4 frames"):
        SYSTEM.trainer(Options(data=str(folder), run_dir=str(tmp_path / "run"), image_size=SIZE))
    assert not (tmp_path / "run").exists()


def test_a_system_that_moves_no_face_takes_none(tmp_path, capsys):
    assert "is not of a system that moves a face" in fails(capsys, "sample", tmp_path, "--face", "face.png")


def test_what_is_asked_for():
    item = {"still": torch.rand(2, 3, SIZE, SIZE), "from": torch.rand(2, 6, 2), "to": torch.rand(2, 6, 2)}
    still, by, where = asked(item)
    assert still is item["still"] and by.equal(flow(item["from"], item["to"], SIZE)) and where.equal(spots(item["to"], SIZE))
    kept = []
    made(Told(lambda item: kept.append(item) or item["still"]), item | {"frame": None})
    assert kept[0]["to"].equal(item["to"]) and kept[0]["from"].equal(item["from"])
