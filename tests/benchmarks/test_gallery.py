"""`make gallery`: a system run over seeds in processes of their own; its numbers, its picture, the page's block."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import gallery, gallery_table, pages
from benchmarks.machine import ROOT
from benchmarks.results_file import Unusable
from ganfast import systems
from tests.systems import halves

FILE = Path(halves.__file__)


def places(folder: Path) -> list[str]:
    return [word for name in ("results", "pictures", "runs") for word in (f"--{name}", str(folder / name))]


@pytest.mark.prove
def test_a_system_over_two_seeds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    only = [*places(tmp_path), "--only", str(FILE)]
    assert gallery.main([*only, "--seeds", "2", "--first", "7", "--", "--no-fused"]) == 0
    said = capsys.readouterr().out
    assert "halves, mean of 2: side read" in said and "; reached" in said
    (file,) = (tmp_path / "results").iterdir()
    whole = json.loads(file.read_text())
    found = whole["systems"]["halves"]
    assert file.name.startswith("gallery-") and file.name.endswith(f"-{whole['date']}.json")
    first, second = (one["figures"]["brightness"] for one in found["runs"])
    assert found["mean"]["brightness"] == pytest.approx((first + second) / 2) and first != second
    assert [one["seed"] for one in found["runs"]] == [7, 8] and found["reached"] == {"side read": True}
    assert found["commit"] == whole["commit"] and "1 threads" in whole["device"]
    with Image.open(tmp_path / "pictures" / "halves.png") as image:
        assert image.text["Seed"] == "7" and image.text["Synthetic"].startswith("yes")

    before = file.read_text()
    assert gallery.main([*only, "--", "--bright", "3"]) == 1
    assert "halves-seed1000 FAILED: ganfast: run: bright got 3.0" in capsys.readouterr().out and file.read_text() == before

    def run(row, title, seed, folder, options):
        return found["runs"][0] | {"seed": seed, "figures": {"side read": 0.5, "brightness": 1.0}}

    monkeypatch.setattr(gallery, "run", run)
    (tmp_path / "runs" / "halves-seed7").rename(tmp_path / "runs" / "halves-seed1000")
    assert gallery.main(only) == 1 and "halves, mean of 1: side read 0.5  brightness 1; MISSED side read" in capsys.readouterr().out
    assert json.loads(file.read_text())["systems"]["halves"]["mean"]["side read"] == 0.5


def content() -> dict:
    run = lambda seed, l1: {"seed": seed, "figures": {"l1": l1, "other": 2.0}, "seconds": 3.0}
    one = {
        "does": "draws halves", "credit": "drawn here", "goals": {"l1": ["<=", 0.9]}, "mean": {"l1": 0.123456, "other": 2.0},
        "reached": {"l1": True}, "seconds": 3.4, "runs": [run(1, 0.1), run(2, 0.146912)], "commit": "c0ffee", "date": "2026-01-30",
    }  # fmt: skip
    missed = one | {"goals": {"l1": [">=", 5]}, "reached": {"l1": False}, "runs": [run(1, 0.1)], "credit": ""}
    return {"device": "Stub 9000, 1 threads", "date": "2026-01-31", "processes": 2, "systems": {"halves": one, "others": missed}}


def test_the_table():
    lines = gallery_table.section(content(), "gallery-stub.json").splitlines()
    assert lines[0].startswith("Stub 9000, 1 threads, 2 runs at a time") and "(../../benchmarks/results/gallery-stub.json)" in lines[0]
    assert "| `halves` | draws halves | l1 0.123 (0.1 to 0.147), goal ≤ 0.9<br>other 2 (2 to 2) | 2 | 3 |" in lines
    assert "| `others` | draws halves | l1 0.123, goal ≥ 5 **missed**<br>other 2 | 1 | 3 |" in lines
    assert "![halves: draws halves](../../docs/gallery/halves.png)" in lines and "`halves`, seed 1, synthetic. Data: drawn here." in lines


def test_what_the_command_shows():
    shown = gallery_table.reached(content())
    assert shown["halves"] == {
        "figures": {"l1": 0.1235, "other": 2.0}, "seeds": 2, "seconds": 3, "device": "Stub 9000, 1 threads", "date": "2026-01-30",
    }  # fmt: skip


@pytest.mark.prove
def test_a_system_has_a_row_for_other_data_that_it_brings(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(gallery, "MORE", ((str(FILE), "--bright", "0.25"), ("another", "--data", "x")))
    assert gallery.main([*places(tmp_path), "--only", str(FILE), "--", "--no-fused"]) == 0
    assert "halves --bright 0.25, mean of 1: " in capsys.readouterr().out
    (file,) = (tmp_path / "results").iterdir()
    found = json.loads(file.read_text())["systems"]
    assert list(found) == ["halves", "halves --bright 0.25"] and found["halves"]["mean"] != found["halves --bright 0.25"]["mean"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["halves-bright-0-25.png", "halves.png"]


def test_a_part_takes_the_others_from_the_newest_file(tmp_path):
    files = (("stub-9000-2026-01-31", "another", {}), ("stub-9000-avx2-2026-02-01", "new", {"old": {"device": "a"}, "fresh": {}}))
    for name, device, rows in files:
        (tmp_path / f"gallery-{name}.json").write_text(json.dumps({"device": device, "systems": rows}))
    assert gallery.newest(tmp_path) == {"old": {"device": "a"}, "fresh": {"device": "new"}}
    assert gallery.newest(tmp_path / "absent") == {}


def test_a_row_of_another_machine_says_so():
    whole = content()
    whole["systems"]["others"]["device"] = "Other 1, 1 threads"
    lines = gallery_table.section(whole, "gallery-stub.json").splitlines()
    assert any(line.startswith("| `others`<br>(Other 1, 1 threads, 2026-01-30) | draws halves |") for line in lines)
    assert any(line.startswith("| `halves` | draws halves |") for line in lines)
    assert gallery_table.reached(whole)["others"]["device"] == "Other 1, 1 threads"


def test_rows_come_in_the_systems_order():
    names = ["mine", "inpainting", "text-to-image", "text-to-image --data portraits"]
    assert list(gallery.ordered(dict.fromkeys(names))) == [*names[2:], "inpainting", "mine"]


def test_a_folder_that_cannot_be_written_is_a_word_before_anything_runs(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(Unusable, match="cannot write to"):
        gallery.main([*places(tmp_path), "--only", str(FILE)])


def test_what_this_checkout_shows_is_what_the_results_files_say():
    assert systems.REACHED.read_text() == pages.reached(pages.kept(ROOT / "benchmarks" / "results")), "run `make pages`"
    shown = systems.reached()
    assert shown.keys() <= {*systems.NAMES, *map(" ".join, gallery.MORE)}
    for name in shown:
        with Image.open(ROOT / "docs" / "gallery" / f"{gallery_table.file_of(name)}.png") as image:
            said = image.text
        assert said["Synthetic"].startswith("yes") and said["Model"].startswith(f"{name.split()[0]}: ") and said["Seed"]
