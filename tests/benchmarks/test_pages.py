"""The blocks of the pages: filled from the results files and from nothing else, and those of this checkout are up to date."""

import json

import pytest

from benchmarks import pages, report
from benchmarks.machine import ROOT
from benchmarks.results_file import Unusable, as_text
from tests.benchmarks.rows import results, rival, row, save

DEMO = {
    "machine": "2 CPU threads of a stub", "generator": {"batch": 16, "seconds": {"eager": 0.06, "ganfast": 0.05},
    "errors": {"eager": 1e-6, "ganfast": 2e-6}, "ratio": 1.2}, "images_per_second": {"eager": 100.0, "ganfast": 150.0}, "steps": 7,
    "train_seconds": 9.0, "real_accuracy": 0.7, "fake_accuracy": 0.6, "assessment": {"samples": 10, "precision": 0.5, "recall": 0.8,
    "real_halves": [0.9, 0.8], "digit_read": 0.99, "reader_accuracy_on_held_out_real": 0.98},
}  # fmt: skip
LOOP = {
    "device": "Stub 9000, 2 threads", "commit": "c0ffee", "width": 8, "batch": 4, "rows": [{"precision": "fp32", "seconds": {"bare": 0.1,
    "trainer": 0.103}, "overhead": 0.03, "parts_share": 0.004, "log_lines_share": 0.003, "log_line_seconds": 0.1}],
}  # fmt: skip
HEAP = {
    "device": "Stub 9000, 2 threads", "commit": "c0ffee", "versions": {"torch": "2.13.0"}, "seed": 0, "first": 0, "cases": 30, "seconds": 4,
    "found": [{"what": "a"}], "counts": {"a": 15, "b": 15}, "onednn_max_cpu_isa": "",
}  # fmt: skip


def known_answers(within=0.97):
    means = {"modes": 8.0, "within_3_sigma": within, "reverse_kl": 0.01}
    goals = {"modes": 8.0, "within_3_sigma": 0.95, "reverse_kl": 0.02}
    reached = {"modes": True, "within_3_sigma": within >= 0.95, "reverse_kl": True, "seconds": True}
    mixture = {"runs": [{"seconds": 50.0}, {"seconds": 60.4}], "mean": means, "target": goals, "published": goals, "reached": reached}
    line = {"mean": {"error": 0.002, "value_gap": 0.5, "js": 0.003}, "target": {"error": 0.01, "value_gap": 0.002, "js": 0.01}}
    line["reached"] = {"error": True, "value_gap": False, "js": True}
    return {"device": "Stub 9000, 1 threads", "commit": "c0ffee", "ring8": mixture, "grid25": mixture, "line": line}


def networks():
    slow = {"paired": {"nchw": [0.4, 0.5, 0.6]}, "size": "small"}
    first = {"first_call": {"seconds": 1.5, "compile": 0.5, "groups": 3}, "size": "trained", "paired": {"nchw": [1.9, 2.0, 2.1]}}
    compiled = {"eager-nchw": 2.0, "ganfast-nchw": 1.0, "compile-nchw": 3.0}
    yield row(compiled, op="accelerate", case="vae", mode="train", **first)
    yield row({"eager-nchw": 0.5, "ganfast-nchw": 1.0}, op="accelerate", case="vae small", mode="inference", dtype="bf16", **slow)


def step():
    rivals = {"eager-nhwc": rival(3.0, of_floor=1.5), "ganfast-nhwc": rival(2.0, of_floor=1.25)}
    return row(op="step", case="dcgan64", batch=64, mode="D + G update", floor=1.6, note="", flops=10**9, bytes=10**6) | {"rivals": rivals}


@pytest.fixture
def checkout(tmp_path):
    """A README and a docs/benchmarks.md with empty blocks, and a results file of each kind."""
    for where, blocks in pages.PAGES.items():
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(f"before {name}\n<!-- {name}:begin -->\nold {name}\n<!-- {name}:end -->" for name in blocks)
        save(tmp_path / where, f"{text}\nafter\n")
    folder = tmp_path / "results"
    folder.mkdir()
    save(folder / "stub-9000-2026-01-31.json", as_text(results(row(), *networks(), step())))
    (folder / "stub-9000-2026-01-31-bars.png").touch()
    contents = {"demo": DEMO, "loop": LOOP, "prove": known_answers(), "prove-heap": HEAP}
    for kind, content in contents.items():
        save(folder / f"{kind}-stub-2026-01-31.json", content)
    save(folder / "prove-ring8-stub-2026-02-01.json", {"ring8": {}})  # a part, which stands for nothing
    return tmp_path


def block(checkout, name, where="docs/benchmarks.md"):
    text = (checkout / where).read_text()
    assert text.startswith("before") and text.endswith("after\n") and f"before {name}\n" in text
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def fill(checkout):
    assert report.main(["--results", str(checkout / "results"), "--pages", str(checkout)]) == 0


def test_every_block_is_filled_from_its_file(checkout):
    fill(checkout)
    gains = block(checkout, "gains", "README.md")
    assert "| Stub 9000 | fp32 / bf16 | 1 fused layers, forward + backward | 2.00x / not measured | not measured |" in gains
    families = block(checkout, "families")
    assert "| trained | train | fp32 | 1 | 2.00x | 0 of 1 | 3.00x | 1 / 0 | 1.5 |  |" in families
    assert "| vae | 4 | 2.00x |  |  |  |" in families and "| vae | 4 |  |  |  | 0.50x, below |" in families
    assert "Over torch.compile, where it ran: vae fp32 train 3.00x." in families
    suites = block(checkout, "benchmarks")
    assert "### Stub 9000, 2 threads, 2026-01-31" in suites and "- accelerate bf16 inference: vae small 0.50" in suites
    assert "![stub-9000-2026-01-31-bars.png](../benchmarks/results/stub-9000-2026-01-31-bars.png)" in suites
    assert "[stub-9000-2026-01-31.md](../benchmarks/results/stub-9000-2026-01-31.md)" in suites
    assert "| dcgan64 b64 | fp32 | eager | 3000.00 | 1.50 | 1.50x | 3 | 1 |" in block(checkout, "steps")
    assert "| fp32 | 100 | 103 | +3.0% | 0.4% | 0.3% | 0.7% |" in block(checkout, "loop")
    assert "| training step, images per second: ganfast / plain torch | 150 / 100 = 1.50x |  |" in block(checkout, "demo")
    assert "0.500 | 0.60, MISSED" in block(checkout, "demo")
    proved = block(checkout, "prove")
    assert "| `ring8` | 2 | 8.0 / 97.0% / 0.010 | 8.0 / 95.0% / 0.020 | 8.0 / 95.0% / 0.020 | 50 to 60 s | reached |" in proved
    assert "from -log 4 at the end | 0.50000 | 0.002 | missed |" in proved and "98.9% within 3 sigma" in proved
    heap = block(checkout, "heap")
    assert heap.startswith("30 random calls of seed 0") and "4 s: 1 broke a heap" in heap and "2 combinations" in heap
    before = [(checkout / where).read_text() for where in pages.PAGES]
    fill(checkout)
    assert [(checkout / where).read_text() for where in pages.PAGES] == before


def test_the_newest_file_of_a_kind_counts_and_a_missed_goal_is_said(checkout):
    save(checkout / "results" / "prove-another-2026-02-01.json", known_answers(within=0.5))
    save(checkout / "results" / "a-2026-02-02.json", as_text(results(row(device="Newer"), date="2026-02-02", device="Newer")))
    fill(checkout)
    assert "| 50 to 60 s | missed within_3_sigma |" in block(checkout, "prove")
    assert block(checkout, "benchmarks").index("### Newer") < block(checkout, "benchmarks").index("### Stub 9000")
    assert "prove-another-2026-02-01.json" in block(checkout, "prove")



def test_a_part_of_the_networks_that_is_measured_anew_takes_the_place_of_that_part(checkout):
    older = list(networks())
    again = older[0] | {"rivals": row({"eager-nchw": 8.0, "ganfast-nchw": 1.0})["rivals"], "paired": {"nchw": [7.9, 8.0, 8.1]}}
    save(checkout / "results" / "stub-9000-2026-02-03.json", as_text(results(again, date="2026-02-03")))
    fill(checkout)
    families = block(checkout, "families")
    assert families.count("### Networks on") == 1 and "- 1 rows of 2026-02-03" in families
    assert f"- {len(older) - 1} rows of 2026-01-31" in families and "| vae | 4 | 8.00x |" in families


def test_what_no_file_tells_of_is_said(checkout):
    for path in (checkout / "results").glob("*.json"):
        path.unlink()
    fill(checkout)
    names = [name for name in pages.PAGES["docs/benchmarks.md"]]
    assert {block(checkout, name) for name in names} == {"Not measured yet."}


@pytest.mark.parametrize("where", pages.PAGES)
def test_a_page_that_lacks_a_marker_leaves_all_pages_as_they_were(where, checkout, capsys):
    name = next(iter(pages.PAGES[where]))
    path = checkout / where
    path.write_text(path.read_text().replace(f"<!-- {name}:end -->", ""))
    before = [(checkout / page).read_text() for page in pages.PAGES]
    assert report.main(["--results", str(checkout / "results"), "--pages", str(checkout)]) == 2
    assert f"{where} lacks the markers <!-- {name}:begin -->" in capsys.readouterr().err
    assert [(checkout / page).read_text() for page in pages.PAGES] == before


def test_a_damaged_results_file_and_an_absent_page_end_in_a_word(checkout):
    broken = save(checkout / "results" / "x-2026-03-01.json", json.dumps(results(row()))[:200])
    with pytest.raises(Unusable, match="no JSON, or cut off"):
        pages.fill(checkout, checkout / "results")
    broken.unlink()
    (checkout / "README.md").unlink()
    with pytest.raises(Unusable, match="cannot read"):
        pages.fill(checkout, checkout / "results")


def test_prose_is_filled_to_the_width_and_tables_are_left():
    table, item = f"| {'a' * 150} |", "- " + "word " * 40
    text = pages.replaced("<!-- n:begin -->\n<!-- n:end -->", "n", f"one\ntwo\n\n{table}\n{item.strip()}\n- b")
    lines = text.splitlines()
    assert lines[1:4] == ["one two", "", table] and lines[4].startswith("- word") and lines[5].startswith("  word") and lines[-2] == "- b"
    assert max(len(line) for line in lines if line != table) <= 120


@pytest.mark.parametrize("where", pages.PAGES)
def test_the_pages_of_this_checkout_say_what_the_results_files_say(where):
    page = (ROOT / where).read_text()
    assert pages.filled(page, where, pages.kept(ROOT / "benchmarks" / "results")) == page, "run `make pages`"
