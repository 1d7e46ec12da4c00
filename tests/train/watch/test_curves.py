"""The curves: which numbers have a place, gaps, alarms, rows of older logs; the PNG says what it is."""

import json
import math

import matplotlib.figure
import pytest
from PIL import Image

from ganfast.train.saving import checkpoint
from ganfast.train.watch import curves
from tests.train.common import trained

OLD = {"seconds": 1.0, "images_per_second": 9.0, "loss_d": 1.0, "loss_g": 2.0, "real_accuracy": 0.75, "fake_accuracy": 0.5, "skipped": 0}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """write_curves of these rows: {title: axes}, and the figure's own legend."""
    figures = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def draw(rows: list[dict]):
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        curves.write_curves(tmp_path / "log.jsonl", tmp_path / "curves.png", "the model", 5)
        figure = figures.pop()
        return {axes.get_title(loc="left"): axes for axes in figure.axes}, [t.get_text() for legend in figure.legends for t in legend.texts]

    return draw


def lines(axes) -> dict[str, tuple[list, list]]:
    found = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    return {label: data for label, data in found.items() if not label.startswith("_")}


def test_a_log_of_an_older_run(drawn):
    panels, alarms = drawn([OLD | {"step": 10}, OLD | {"step": 20, "loss_d": 3.0}])
    assert list(panels) == ["loss", "discriminator right"] and alarms == []
    assert lines(panels["loss"]) == {"discriminator": ([10, 20], [1, 3]), "generator": ([10, 20], [2, 2])}
    right = lines(panels["discriminator right"])
    assert right.pop("chance: 50 %")[1] == [0.5, 0.5]
    assert right == {"on real images": ([10, 20], [0.75, 0.75]), "on fakes": ([10, 20], [0.5, 0.5])}


def test_what_a_row_may_have_besides(drawn):
    rows = [
        OLD | {"step": step, "images": step, "skipped_in_a_row": 0, "real_sign": 0.5, "spread": 0.9, "alarms": []} for step in (1, 2, 3)
    ]
    rows[0] |= {"grad_d": 2.0, "grad_g": 1.0, "grad_from_d": 1e-4, "r1": 0.2, "mine": 7.0}
    rows[1] |= {"grad_d": 0.0, "grad_g": 1.0, "kid (pixels8)": 0.03, "skipped": 1}
    rows[2] |= {"grad_d": 4.0, "grad_g": 1.0, "r1": 0.4, "kid (pixels8)": 0.01, "loss_d": None}
    panels, _ = drawn(rows)
    assert sorted(panels) == sorted(
        ["loss", "discriminator right", "logits", "gradients", "gradient ratio", "penalties", "spread", "skipped", "kid (pixels8)", "mine"]
    )
    assert lines(panels["gradient ratio"]) == {"generator's / discriminator's": ([1, 3], [0.5, 0.25])}
    assert lines(panels["penalties"]) == {"r1": ([1, 3], [0.2, 0.4])}  # lazily computed: no gap where it was not due
    assert lines(panels["kid (pixels8)"]) == {"kid (pixels8)": ([2, 3], [0.03, 0.01])}
    assert lines(panels["skipped"])["steps skipped, inf or NaN"] == ([1, 2, 3], [0, 1, 0])
    steps, values = lines(panels["loss"])["discriminator"]
    assert steps == [1, 2, 3] and math.isnan(values[2])  # null was not finite: a gap
    assert panels["gradients"].get_yscale() == "log" and panels["loss"].get_yscale() == "linear"


def test_alarms_are_marked_while_they_go_on(drawn):
    raised = {2: ["mode_collapse"], 3: ["mode_collapse", "overfitting"], 5: ["mode_collapse"]}
    panels, legend = drawn([OLD | {"step": step, "alarms": raised.get(step, [])} for step in range(1, 7)])
    assert legend == ["alarm: mode collapse", "alarm: overfitting"]
    for axes in panels.values():
        spans = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches if hasattr(p, "get_width")]
        assert spans == [(2, 3), (5, 5), (3, 3)]


def test_a_line_that_was_cut(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(OLD | {"step": 1}) + '\n{"step": 2, "lo')
    curves.write_curves(tmp_path / "log.jsonl", tmp_path / "curves.png", "the model", 5)
    with Image.open(tmp_path / "curves.png") as found:
        assert found.text["Synthetic"].startswith("yes") and found.text["Model"] == "the model" and found.text["Seed"] == "5"
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no line, wants at least one"):
        curves.write_curves(tmp_path / "log.jsonl", tmp_path / "curves.png", "the model", 5)


def test_the_log_of_a_run(tmp_path, drawn):
    trainer = trained(tmp_path / "run", r1=1.0)
    rows = [json.loads(line) for line in (trainer.run_dir / checkpoint.LOG).read_text().splitlines()]
    panels, _ = drawn(rows)
    known = {"loss", "discriminator right", "logits", "gradients", "gradient ratio", "penalties", "spread"}
    assert set(panels) == known  # a new number in the log wants a place in PANELS or BESIDE
