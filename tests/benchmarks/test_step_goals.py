"""The goals of the training steps, where they belong and nowhere else; and the steps' table."""

import pytest

from benchmarks import tables, targets
from tests.benchmarks.rows import results, rival, row

GOOD = {"default-nchw": 7.0, "eager-nhwc": 3.5, "eager-captured-nhwc": 1.3, "eager-frozen-nhwc": 3.0, "ganfast-nhwc": 1.0}


def step(times=None, floor=0.5, peaks=None, **changes) -> dict:
    made = row(
        times or GOOD, **{"op": "step", "case": "dcgan64", "batch": 128, "dtype": "bf16", "mode": "D + G update", "note": ""} | changes
    )
    made |= {"floor": floor}
    for name, entry in made["rivals"].items():
        entry |= {"of_floor": entry["median"] / floor, "peak_bytes": (peaks or {}).get(name, 1 << 20)}
    return made


def met(rows: list[dict], text: str, kind: str = "cuda") -> list[bool | None]:
    return [f.met for f in targets.findings(results(*rows, kind=kind)) if text in f.text]


GPU = [
    "in its floor", "over best eager under", "over max-autotune with its graphs", "over best eager, not captured",
    "128, in bf16 over eager's default", "batch 1 and 16", "pix2pix step", "peak memory of a step",
]  # fmt: skip
CPU = ["step, batch 64, fp32", "step, batch 64, bf16", "second column"]


@pytest.mark.parametrize(
    ("changes", "text", "want"),
    [
        ({}, "in its floor", True),
        ({"floor": 0.39}, "in its floor", False),
        ({"floor": 0.39, "batch": 64}, "in its floor", None),
        ({"floor": 0.39, "case": "dcgan128"}, "in its floor", None),
        ({}, "over best eager under", True),
        ({"times": GOOD | {"eager-captured-nhwc": 1.19}}, "over best eager under", False),
        ({}, "over max-autotune with its graphs", None),
        ({"times": GOOD | {"max-autotune-nhwc": 1.21}}, "over max-autotune with its graphs", True),
        ({"times": GOOD | {"max-autotune-nhwc": 1.19}}, "over max-autotune with its graphs", False),
        ({"times": GOOD | {"eager-nhwc": 2.9}}, "over best eager, not captured", False),
        ({"times": GOOD | {"default-nchw": 5.9}}, "step, batch 128, in bf16 over eager's default", False),
        ({"times": GOOD | {"default-nchw": 5.9}, "dtype": "fp32"}, "step, batch 128, in bf16 over eager's default", None),
        ({"batch": 16}, "batch 1 and 16", True),
        ({"batch": 1, "times": GOOD | {"default-nchw": 3.9}}, "batch 1 and 16", False),
        ({"case": "pix2pix", "batch": 1}, "pix2pix step", True),
        ({"case": "pix2pix", "batch": 1, "times": GOOD | {"default-nchw": 2.4}}, "pix2pix step", False),
        ({"case": "pix2pix", "batch": 16}, "pix2pix step", None),
        ({}, "peak memory of a step", True),
        ({"case": "cyclegan", "peaks": {"ganfast-nhwc": (1 << 20) + 99999}}, "peak memory of a step", False),
    ],
)
def test_the_goals_of_a_gpus_steps(changes, text, want):
    found = met([step(**changes)], text)
    assert want in found and found.count(want) == 1, found


def test_the_worse_dtype_is_judged_on_a_gpu():
    assert met([step(), step(dtype="fp32", floor=0.3)], "in its floor") == [False]


@pytest.mark.parametrize(("bf16", "fp32"), [(1.81, 1.21), (1.79, 1.19)])
def test_the_goals_of_a_cpus_step(bf16, fp32):
    rows = [
        step({"eager-nhwc": r, "default-nchw": 2 * r - 0.6, "ganfast-nhwc": 1.0}, batch=64, dtype=d)
        for d, r in (("bf16", bf16), ("fp32", fp32))
    ]
    reached = bf16 > 1.8
    assert met(rows, "step, batch 64, fp32", "cpu") == met(rows, "step, batch 64, bf16", "cpu") == [reached]
    assert met(rows, "second column", "cpu") == [reached], "3.02x or 2.98x"
    others = [step(batch=16), step(case="pix2pix"), step(case="wgan-gp64", batch=64)]
    assert all(met(others, text, "cpu") == [None] for text in CPU), "of DCGAN-64 at batch 64 alone"


@pytest.mark.parametrize(("case", "batch", "goal"), [("stylegan2-64", 8, 1.5), ("vocoder", 4, 1.3)])
def test_the_goals_of_styles_and_sound_on_a_cpu(case, batch, goal):
    text = f"{case} step, batch {batch}, fp32"
    of = lambda times, **changes: step({"eager-nchw": times, "ganfast-nchw": 1.0}, case=case, **{"batch": batch, "dtype": "fp32"} | changes)
    assert [met([of(goal + off)], text, "cpu") for off in (0.01, -0.01)] == [[True], [False]]
    assert met([of(9.0, batch=2 * batch), of(9.0, dtype="bf16")], text, "cpu") == [None]


def test_goals_without_a_measurement_stand_in_one_line(monkeypatch):
    rows = results(step({"eager-nchw": 1.4, "ganfast-nchw": 1.0}, case="vocoder", batch=4, dtype="fp32"))
    lines = tables.summary(rows, "t.md", []).splitlines()
    assert "| accelerated vocoder step, batch 4, fp32 | 1.40x | 1.3x | reached |" in lines
    (others,) = (line for line in lines if line.startswith("Goals that this run did not measure: "))
    assert "layers fwd+bwd fp32 (1.3x); layers fwd+bwd fp32, slowest (0.95x)" in others and "vocoder step" not in others
    assert "accelerated stylegan2-64 step, batch 8, fp32 (1.5x)" in others and not any("| not measured |" in line for line in lines)
    slow = results(step({"eager-nchw": 1.2, "ganfast-nchw": 1.0}, case="vocoder", batch=4, dtype="fp32"))
    assert "| accelerated vocoder step, batch 4, fp32 | 1.20x | 1.3x | missed |" in tables.summary(slow, "t.md", []).splitlines()
    monkeypatch.setattr(tables, "findings", lambda results: [targets.Finding("a", "not measured", "1x", None)])
    alone = tables.summary(rows, "t.md", [])
    assert "| goal |" not in alone and "Goals that this run did not measure: a (1x)." in alone


def test_goals_are_judged_where_they_belong_alone():
    on_cpu, on_gpu = ([f.text for f in targets.findings(results(step(), kind=kind))] for kind in ("cpu", "cuda"))
    assert not any(part in text for part in GPU for text in on_cpu)
    assert not any(part in text for part in CPU for text in on_gpu)
    assert all(any(part in text for text in on_gpu) for part in GPU) and all(any(part in text for text in on_cpu) for part in CPU)


def test_the_steps_have_a_table_of_their_own():
    first = step(note="batch 128, published 64")
    first["rivals"]["compile-nhwc"] = {"failed": "RuntimeError: no compiler"}
    first["rivals"]["max-autotune-nhwc"] = rival(2.0, of_floor=4.0, peak_bytes=None)
    text = tables.full(results(row(), first, step(case="wgan-gp64", batch=64, times=GOOD | {"plain-eager-nhwc": 1.5})), [])
    assert "## Training steps" in text and "- dcgan64 b128 bf16: floor 500.000 ms (1.0 GFLOP, 1 MB); batch 128, published 64" in text
    assert "| dcgan64 b128 | bf16 | ganfast | 1000.00 | 2.00 |  | 3 | 1 |" in text
    assert "| dcgan64 b128 | bf16 | eager-captured | 1300.00 | 2.60 | 1.30x | 3 | 1 |" in text
    assert "| dcgan64 b128 | bf16 | compile | failed | | | | |" in text and "max-autotune | 2000.00 | 4.00 | 2.00x | 3 |  |" in text
    assert "| wgan-gp64 b64 | bf16 | plain-eager | 1500.00 | 3.00 |  | 3 | 1 |" in text
    missing = next(line for line in text.splitlines() if line.startswith("Not in this run"))
    assert "dcgan64 b128 fp32" in missing and "dcgan64 b128 bf16" not in missing and "cyclegan b1 bf16" in missing
    assert "## Training steps" not in tables.full(results(row()), [])
