"""make prove's hunt: what it writes, and that a find is a failure."""

import json

import pytest

from benchmarks import prove_heap
from benchmarks.heap_cases import PATHS, made


@pytest.mark.parametrize("found", [[], [prove_heap.Found(5, "y is off by 1", [made(3, 5)])]], ids=["sound", "found"])
def test_one_file_with_every_find(found, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prove_heap, "refusal", lambda: None)
    monkeypatch.setattr(prove_heap, "hunt", lambda *args: found)
    assert prove_heap.main(["--cases", "200", "--seed", "3", "--results", str(tmp_path)]) == (1 if found else 0)
    (written,) = tmp_path.iterdir()
    kept = json.loads(written.read_text())
    assert written.name.startswith("prove-heap-") and kept["cases"] == sum(kept["counts"].values()) == 200 and kept["seed"] == 3
    assert [one["cases"][0]["seed"] for one in kept["found"]] == [case.seed for one in found for case in one.cases]
    assert f"200 cases in 0 s, {len(found)} found" in capsys.readouterr().out


def test_every_path_and_kind_is_drawn():
    cases = [made(0, i) for i in range(1500)]
    assert {(c.op, c.path) for c in cases} >= {("conv_transpose_act", path) for path in PATHS}
    assert {len(c.weight) for c in cases} == {3, 4, 5} and {c.threads for c in cases} == {1, 2}
    one_tap = [c for c in cases if set(c.weight[2:]) == {1} and len(set(c.stride)) > 1 and c.x_last]
    assert len(one_tap) > 20
