"""`compare` tells a slower ganfast from a slower day, and from noise."""

import pytest

from benchmarks import compare
from tests.benchmarks.rows import results, row, save


def run(folder, before, after, *options):
    paths = [str(save(folder / f"{name}.json", r)) for name, r in (("before", before), ("after", after))]
    return compare.main([*paths, *options])


def times(eager: float, ours: float) -> dict[str, float]:
    return {"eager-nchw": eager * 1.5, "eager-nhwc": eager, "ganfast-nchw": ours, "ganfast-nhwc": ours * 2}


@pytest.mark.parametrize(
    ("after", "spread", "word", "code"),
    [
        (times(2, 1), 0.02, "", 0),
        (times(4, 2), 0.02, "", 0),  # a day half as fast
        (times(2, 1.25), 0.02, "slower", 1),
        (times(4, 2.5), 0.02, "slower", 1),
        (times(2, 1.25), 0.3, "", 0),  # within the rows' own spread
        (times(2, 1.08), 0.02, "slower", 0),  # named, but more than 0.9 is left
        (times(2, 1.04), 0.02, "", 0),
        (times(2, 0.8), 0.02, "faster", 0),
    ],
)
def test_what_counts_as_slower(tmp_path, capsys, after, spread, word, code):
    new = row(after)
    new["rivals"]["eager-nhwc"]["spread"] = spread
    assert run(tmp_path, results(row(times(2, 1))), results(new), "--fail-under", "0.9") == code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("slower", "faster"))]
    assert [line.split(":")[0] for line in lines] == ([word] if word else [])
    assert run(tmp_path, results(row(times(2, 1))), results(new)) == 0, "without --fail-under nothing fails"


def test_the_slower_layout_alone_is_named(tmp_path, capsys):
    new = row(times(2, 1))
    new["rivals"]["ganfast-nhwc"]["median"] *= 1.3
    assert run(tmp_path, results(row(times(2, 1))), results(new), "--fail-under", "0.9") == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("slower")]
    assert ", nhwc: " in line


def test_the_threshold_is_an_option(tmp_path, capsys):
    run(tmp_path, results(row(times(2, 1))), results(row(times(2, 1.25))), "--threshold", "0.3")
    assert "slower" not in capsys.readouterr().out


def test_rows_of_one_file_alone_and_rows_without_eager_are_no_change(tmp_path, capsys):
    same, gone, new = row(times(2, 1)), row(case="gone"), row(case="new")
    alone = row(times(2, 1), case="alone")
    broken = row(times(2, 9), case="alone")
    for name in ("eager-nchw", "eager-nhwc"):
        broken["rivals"][name] = {"failed": "out of memory"}
    assert run(tmp_path, results(same, gone, alone), results(same, new, broken), "--fail-under", "0.9") == 0
    out = capsys.readouterr().out
    assert "1 rows in both" in out and "gone: 1 rows" in out and "new: 1 rows" in out


def test_files_that_cannot_be_compared_end_in_a_word(tmp_path, capsys):
    assert run(tmp_path, results(row()), results(row(case="other"))) == 2
    assert "no row in common" in capsys.readouterr().err
    assert run(tmp_path, results(row()), results(row(), schema=1)) == 2
    assert "has schema 1" in capsys.readouterr().err
    assert run(tmp_path, results(row()), '{"schema": 2, "rows"') == 2
    assert "cut off" in capsys.readouterr().err
    assert run(tmp_path, results(row()), {"benchmarks": []}) == 2
    assert "is no results file" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "absent.json"), str(tmp_path / "before.json")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_another_device_is_said(tmp_path, capsys):
    assert run(tmp_path, results(row()), results(row(), device="Another")) == 0
    assert "different devices" in capsys.readouterr().err
