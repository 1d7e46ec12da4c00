"""The gate notices a fifth more time in ganfast's calls. That fifth is planted through `gate.main`'s hook, and is real time."""

import json
import time

import pytest

from benchmarks import gate
from tests.benchmarks.rows import save

ROWS = json.loads(gate.FLOORS.read_text())["rows"]


def slowed(call):
    """The call, then a wait of a fifth of what it took."""

    def run():
        begun = time.perf_counter()
        result = call()
        until = begun + 1.2 * (time.perf_counter() - begun)
        while time.perf_counter() < until:
            pass
        return result

    return run


@pytest.mark.alone
def test_a_planted_fifth_fails_the_gate(tmp_path, capsys):
    """On the rows whose kernels are the same on both sides: at least one of them has to fall, whatever the machine's noise."""
    floors = save(tmp_path / "gate.json", {"rows": [row for row in ROWS if row["backend"] == "torch"]})
    assert gate.main(["--floors", str(floors)], wrap=slowed) == 1
    assert "FELL" in capsys.readouterr().out


def test_the_floors_lie_between_no_change_and_the_planted_fifth():
    """Rows of equal kernels have a ratio of 1, and of 1 / 1.2 with the fifth planted; a few per cent to each side are noise."""
    same = [row for row in ROWS if row["backend"] == "torch"]
    assert len(same) >= 3 and all(1 / 1.2 + 0.04 < row["floor"] < 1 - 0.1 for row in same)
    assert all(row["why"] for row in gate.read_floors())


@pytest.mark.parametrize(
    ("measured", "passed", "rounds"),
    [([0.95], True, [41]), ([0.5, 0.95], True, [41, 82]), ([0.5, 0.87], False, [41, 82]), ([0.5, 0.4], False, [41, 82])],
)
def test_a_row_below_its_floor_is_measured_again_and_must_stay_below(measured, passed, rounds):
    asked, left = [], list(measured)

    def measure(calls, count):
        assert set(calls) == {"eager", "ganfast"}
        asked.append(count)
        return left.pop(0)

    verdict = gate.judge(ROWS[0] | {"batch": 1}, lambda call: call, measure)
    assert (verdict.passed, asked, verdict.ratio) == (passed, rounds, max(measured))


def test_the_ratio_is_of_rounds_not_of_medians(monkeypatch):
    """A machine that is slow in some rounds, for both: medians over all rounds would compare different moments."""

    def interleaved(calls, **_):
        samples = {"eager": [1.0, 10.0, 10.0, 1.0, 10.0], "ganfast": [1.0, 10.0, 9.0, 1.0, 0.9]}
        return {name: type("T", (), {"samples": s}) for name, s in samples.items()}

    monkeypatch.setattr(gate, "interleaved", interleaved)
    assert gate.measure({}, 5) == pytest.approx(1.0)


def test_native_rows_are_left_out_with_a_word_where_the_kernels_are_missing(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(gate, "missing", lambda: ["backend cpu: this install has no compiled extension"])
    monkeypatch.setattr(gate, "judge", lambda row, wrap: ran.append(row["backend"]) or gate.Verdict("row", 1.0, 0.9))
    assert gate.main([]) == 0
    assert set(ran) == {"torch"} and "no compiled extension" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "is empty"),
        ('{"rows": [', "cut off"),
        ({"rows": []}, "has no rows"),
        ([], "has no rows"),
        ({"rows": [{"case": "dcgan64-3"}]}, "row 1 lacks batch"),
        ({"rows": [ROWS[0] | {"case": "dcgan65"}]}, "no case 'dcgan65'"),
    ],
)
def test_floors_that_cannot_serve_end_in_a_word(tmp_path, capsys, content, word):
    assert gate.main(["--floors", str(save(tmp_path / "gate.json", content))]) == 2
    assert word in capsys.readouterr().err
