"""The results file, the tables made of it, and what happens to files that are none."""

import copy
import json
import sys

import pytest

from benchmarks import plots, ratios, report, tables, targets
from benchmarks.results_file import as_text, read, stem
from tests.benchmarks.rows import raw, results, rival, row, save

SLOW = {"eager": 1e-3, "ganfast": 2e-3}


def test_a_run_becomes_a_results_file_a_table_and_a_summary(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = save(tmp_path / "run.json", raw(row(), row(SLOW, case="slow", op="generator")))
    out = tmp_path / "out"
    assert report.main([str(run), "--results", str(out)]) == 0
    name = "stub-9000-2026-01-31"
    assert sorted(p.name for p in out.iterdir()) == [f"{name}-bars.png", f"{name}-roofline.png", f"{name}.json", f"{name}.md"]
    assert all(p.stat().st_size < 150_000 for p in out.iterdir())
    again = read(out / f"{name}.json")
    assert again["rows"] == [row(), row(SLOW, case="slow", op="generator")] and again["schema"] == 2
    text = capsys.readouterr().out
    assert "| conv_transpose_act | fwd+bwd | 1 | 2.00x |  | layer fp32 2.00x |  |" in text
    assert "- generator fp32 fwd+bwd: slow 0.50" in text
    assert "| generator inference fp32 | 0.50x | 1.4x | missed |" in text
    assert "| call overhead, conv_transpose_act fwd+bwd | +20 us (10 plain, 30 ganfast) | 25 us | reached |" in text


def test_a_results_file_can_be_reported_again(tmp_path):
    first = save(tmp_path / "first.json", as_text(results(row())))
    assert report.main([str(first), "--results", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out" / "stub-9000-2026-01-31.json") == results(row())


def test_runs_of_several_parts_are_joined_and_those_of_two_devices_are_not(tmp_path, capsys):
    runs = [str(save(tmp_path / f"{i}.json", raw(row(case=f"c{i}")))) for i in range(2)]
    assert report.main([*runs, "--results", str(tmp_path)]) == 0
    assert [r["case"] for r in read(tmp_path / "stub-9000-2026-01-31.json")["rows"]] == ["c0", "c1"]
    other = save(tmp_path / "other.json", raw(row(device="Another")))
    assert report.main([runs[0], str(other)]) == 2
    assert "more than one device: Another; Stub 9000" in capsys.readouterr().err


def test_a_penalty_is_told_in_plain_steps_of_the_same_rounds():
    times = {"eager-nchw": 3.0, "eager-nhwc": 4.0, "ganfast-nchw": 2.0}
    times |= {"plain-eager-nchw": 2.0, "plain-eager-nhwc": 1.0, "plain-ganfast-nchw": 1.6}
    (found,) = targets.penalties([row(), row(times, op="step", case="r1")], "cpu")
    text = "a step of r1 with its penalty, fp32"
    assert (found.text, found.value, found.goal, found.met) == (text, "1.25 plain steps", "eager's 3.00", True)
    assert targets.penalties([row(times | {"ganfast-nchw": 3.3}, op="step")], "cuda")[0].met is False, "2.06 of 2 plain steps"
    for ours, met in ((3.3, True), (3.5, False)):  # 2.06 and 2.19 plain steps
        r3gan = row(times | {"ganfast-nchw": ours}, op="step", case="r3gan-d")
        assert targets.penalties([r3gan], "cpu")[0][2:] == ("2.1 plain steps (eager's 3.00)", met)
    assert targets.penalties([row(times, op="step")], "cuda")[0][2:] == ("2 plain steps", True)
    assert ratios.ratio(row(times)) == pytest.approx(1.5), "baselines are no rivals"


def test_ratios_take_each_sides_better_layout():
    r = row()
    assert ratios.best(r, "eager")[0] == "nchw" and ratios.best(r, "ganfast")[0] == "nhwc"
    assert ratios.ratio(r) == pytest.approx(2)
    assert ratios.like_for_like(r) == pytest.approx({"nchw": 2 / 3, "nhwc": 4})
    assert ratios.against_channels_last(r) == pytest.approx(4)
    assert ratios.against_channels_last(row({"eager-nchw": 3.0, "ganfast-nchw": 2.0})) == pytest.approx(1.5)
    assert ratios.geometric_mean([1, 4]) == pytest.approx(2)
    failed = row() | {"rivals": {"ganfast-nchw": rival(1.0), "eager-nchw": {"failed": "out of memory"}}}
    assert ratios.ratio(failed) is None and ratios.against_channels_last(failed) is None


def test_a_failed_rival_a_noisy_row_and_missing_kernels_are_said(tmp_path, capsys):
    r = row(noisy=True, missing=["backend cpu: no compiled extension"])
    r["rivals"]["compile-nhwc"] = {"failed": "BackendCompilerFailed: no compiler"}
    r["rivals"]["ganfast-nhwc"]["clock"] = "events (no graph: RuntimeError: x)"
    only = row(case="alone") | {"rivals": {"ganfast": rival(1e-3), "eager": {"failed": "OOM"}}}
    text = tables.full(results(r, only), [])
    assert "layer b4* |" in text and "compile-nhwc: BackendCompilerFailed: no compiler" in text and "- events (no graph" in text
    assert "| alone b4 | fp32 | fwd+bwd | failed |" in text
    summary = tables.summary(results(r, only), "t.md", [])
    assert "1 of 2 rows had a spread above 30 %" in summary and "Without backend cpu: no compiled extension." in summary


@pytest.mark.parametrize(
    ("changes", "text", "met"),
    [
        ({}, "conv_transpose_act over eager channels_last", True),
        ({"times": {"eager-nchw": 1.0, "eager-nhwc": 1.4, "ganfast-nhwc": 1.0}}, "conv_transpose_act over eager channels_last", False),
        ({}, "conv_transpose_act over max-autotune", None),
        ({"times": {"eager-nhwc": 1.0, "max-autotune-nhwc": 1.1, "ganfast-nhwc": 1.0}}, "conv_transpose_act over max-autotune", False),
        ({"times": {"eager-nchw": 0.9, "eager-nhwc": 0.9, "ganfast-nhwc": 1.0}}, "conv_transpose_act, slowest", False),
        ({"flops": 6 * 10**10, "percent": {"percent_matrix": 74.0}}, "matrix rate", False),
        ({"flops": 6 * 10**10, "percent": {"percent_matrix": 76.0}}, "matrix rate", True),
        ({"flops": 6 * 10**10, "c_in": 128, "percent": {"percent_matrix": 10.0}}, "matrix rate", None),
        ({"op": "batch_norm_act", "percent": {"percent_copy": 84.0}}, "copy bandwidth", False),
        ({"op": "batch_norm_act", "percent": {"percent_copy": 300.0}, "fits_cache": True}, "copy bandwidth", None),
        ({"op": "discriminator_loss", "large": True, "percent": {"percent_copy": 90.0}}, "copy bandwidth", True),
        ({"case": "logits-128", "times": {"eager": 1.0, "ganfast": 7e-6}}, "128 logits", False),
        ({"case": "logits-128", "times": {"eager": 1.0, "ganfast": 5e-6}}, "128 logits", True),
    ],
)
def test_the_goals_of_a_gpu(changes, text, met):
    changes = copy.deepcopy(changes)
    percent = changes.pop("percent", {})
    r = row(changes.pop("times", None), kind="cuda", **changes)
    for entry in r["rivals"].values():
        entry.update(percent)
    found = targets.findings(results(r, kind="cuda"))
    assert [f.met for f in found if text in f.text] == [met]


@pytest.mark.parametrize("times", [{"eager": 1.31, "ganfast": 1.0}, {"eager": 1.29, "ganfast": 1.0}, {"eager": 0.94, "ganfast": 1.0}])
def test_the_goals_of_a_cpu(times):
    found = {f.text: f.met for f in targets.findings(results(row(times, op="upsample_conv_act")))}
    assert found["layers fwd+bwd fp32, geometric mean of 1"] is (times["eager"] > 1.3)
    assert found["layers fwd+bwd fp32, slowest"] is (times["eager"] > 0.95)
    assert found["generator inference bf16"] is None


def test_without_matplotlib_the_rest_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(plots, "available", lambda: False)
    run = save(tmp_path / "run.json", raw(row()))
    assert report.main([str(run), "--results", str(tmp_path / "out")]) == 0
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".json", ".md"]
    assert "matplotlib is not installed" in capsys.readouterr().err


def _without(key):
    return {k: v for k, v in row().items() if k != key}


BAD = {
    "empty": ("", "is empty"),
    "cut off": (json.dumps(raw(row()))[:300], "no JSON, or cut off"),
    "no JSON": ("\x00\x01", "no JSON"),
    "a list": ([1, 2], "neither a results file nor"),
    "no rows": (raw(), "has no rows"),
    "results without rows": (results(), "has no rows"),
    "old schema": (results(row(), schema=1), "has schema 1, this reads 2"),
    "no device": ({k: v for k, v in results(row()).items() if k != "device"}, "lacks device"),
    "row without rivals": (raw(_without("rivals")), "row 1 lacks rivals"),
    "second row without case": (results(row(), _without("case")), "row 2 lacks case"),
    "row is a number": (results(5), "no row but a int"),
    "row of another suite": (raw({"x": 1}), "row 1 lacks op"),
    "rivals a list": (raw(row(rivals=[])), "rivals is no table"),
    "rival without time": (raw(row(rivals={"ganfast": {"p20": 1}})), "neither times nor a reason"),
    "zero seconds": (raw(row({"ganfast": 0.0})), "neither times nor a reason"),
    "no ganfast": (raw(row({"eager": 1.0})), "no time of ganfast"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_serve_ends_in_a_word(name, tmp_path, capsys):
    content, word = BAD[name]
    path, readme = save(tmp_path / "bad.json", content), save(tmp_path / "README.md", "old")
    assert report.main([str(path), "--results", str(tmp_path / "out"), "--pages", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert word in told.err and told.err.startswith("report: ") and not told.out
    assert readme.read_text() == "old" and not (tmp_path / "out").exists(), "nothing is written for a file that cannot serve"


def test_absent_files_and_folders_end_in_a_word(tmp_path, capsys):
    run = save(tmp_path / "run.json", raw(row()))
    taken = save(tmp_path / "taken", "a file where the folder should be")
    for arguments, word in [
        ([str(tmp_path / "absent.json")], "cannot read"),
        ([str(tmp_path)], "cannot read"),
        ([], "names no run"),
        ([str(run), "--results", str(taken)], "cannot write to"),
        ([str(run), "--results", str(taken / "deeper")], "cannot write to"),
        (["--check", "--results", str(taken)], "cannot write to"),
        (["--pages", str(tmp_path)], "wants --results"),
        (["--pages", str(tmp_path), "--results", str(tmp_path)], "cannot read"),
    ]:
        assert report.main(arguments) == 2, arguments
        assert word in capsys.readouterr().err
    assert report.main(["--check", "--results", str(tmp_path / "new")]) == 0 and list((tmp_path / "new").iterdir()) == []


def test_the_name_of_a_results_file():
    assert stem({"device": "AMD EPYC(TM), 2 threads", "date": "2026-01-31"}) == "amd-epyc-tm-2026-01-31"
