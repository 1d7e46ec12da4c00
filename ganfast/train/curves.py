"""The curves of a run's log: losses, accuracies, what the monitors watch, metrics, with the alarms marked."""

import json
import math
from pathlib import Path

from ganfast import _checks
from ganfast.train.grids import about

PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss_d", "loss_g"),
    "discriminator right": ("real_accuracy", "fake_accuracy"),
    "logits": ("real_mean", "fake_mean", "real_sign"),
    "gradients": ("grad_d", "grad_g", "grad_from_d"),
    "gradient ratio": ("ratio",),
    "penalties": ("r1", "r2", "gradient_penalty"),
    "spread": ("spread",),
    "skipped": ("skipped",),
}
"""Title -> numbers of a log row that share an axis; each number that is in none of them and has a place of its own is a metric."""

LABELS = {
    "loss_d": "discriminator", "loss_g": "generator", "real_accuracy": "on real images", "fake_accuracy": "on fakes",
    "real_mean": "mean, real", "fake_mean": "mean, fake", "real_sign": "mean sign, real", "grad_d": "discriminator's weights",
    "grad_g": "generator's weights", "grad_from_d": "an image, from the discriminator", "ratio": "generator's / discriminator's",
    "spread": "fakes' spread, 1 as the reals'", "skipped": "steps skipped, inf or NaN",
}  # fmt: skip
LOGARITHMIC = ("gradients", "gradient ratio", "penalties")
LEVELS = {"discriminator right": (0.5, "chance: 50 %"), "gradient ratio": (1.0, None), "spread": (1.0, None)}
BESIDE = ("step", "images", "seconds", "images_per_second", "skipped_in_a_row", "alarms")  # no curves


def panel_of(name: str) -> str | None:
    """Under which title a number of a log row is shown: a metric under its own name; None for what is no curve."""
    if name in BESIDE:
        return None
    return next((title for title, names in PANELS.items() if name in names), name)


def write_curves(log: Path, path: Path, model: str, seed: int) -> None:
    """The numbers of log.jsonl over the steps, as a PNG; lines mark where an alarm began. Rows may lack any number but the step.

    Raises: ValueError for a log without a line.
    """
    from matplotlib.figure import Figure

    rows = _rows(log)
    steps = [row["step"] for row in rows]
    curves = _curves(rows)
    panels: dict[str, list[str]] = {title: [] for title in PANELS}
    for name in curves:
        panels.setdefault(panel_of(name), []).append(name)
    panels = {title: names for title, names in panels.items() if names}
    alarms = _alarms(rows)
    columns = 1 if len(panels) <= 2 else 2
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(8 if columns == 1 else 12, 2.6 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False).flatten()
    for axes, (title, names) in zip(grid, panels.items()):
        _panel(axes, title, steps, {name: curves[name] for name in names})
        for i, began in enumerate(alarms.values()):
            for step in began:
                axes.axvline(step, color=f"C{i + 4}", linestyle=":", linewidth=1)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    if alarms:
        marks = [figure.axes[0].plot([], [], color=f"C{i + 4}", linestyle=":")[0] for i in range(len(alarms))]
        figure.legend(marks, [f"alarm: {name.replace('_', ' ')}" for name in alarms], loc="outside lower center", ncols=4)
    figure.savefig(path, format="png", dpi=110, metadata=about(model, seed))


def _panel(axes, title: str, steps: list[int], curves: dict[str, list[float]]) -> None:
    for name, values in curves.items():
        shown = [value for value in values if not math.isnan(value)]
        # One number among gaps is no line, only a point.
        axes.plot(steps, values, label=LABELS.get(name, name), marker="." if len(shown) < 3 or title not in PANELS else None)
    if title in LEVELS:
        level, label = LEVELS[title]
        axes.axhline(level, color="grey", linewidth=1, linestyle="--", label=label)
    if title in LOGARITHMIC and any(value > 0 for values in curves.values() for value in values):
        axes.set_yscale("log")
    if title == "discriminator right":
        axes.set_ylim(-0.02, 1.02)
    axes.set_title(title, fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    if title in PANELS:
        axes.legend(fontsize="small")


def _rows(log: Path) -> list[dict]:
    rows = []
    for line in log.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed
            continue
    if not rows:
        _checks.fail("write_curves", f"{log} has no line, wants at least one", "The run ended before log_every steps")
    return rows


def _curves(rows: list[dict]) -> dict[str, list[float]]:
    """Name -> a value for each row, NaN where the row has none (null stands for what was not finite)."""
    rows = [row | _ratio(row) for row in rows]
    numbers = {
        name
        for row in rows
        for name, value in row.items()
        if panel_of(name) is not None and isinstance(value, int | float) and not isinstance(value, bool)
    }
    ordered = [name for row in rows for name in row if name in numbers]
    return {name: [math.nan if row.get(name) is None else float(row[name]) for row in rows] for name in dict.fromkeys(ordered)}


def _ratio(row: dict) -> dict[str, float]:
    d, g = row.get("grad_d"), row.get("grad_g")
    return {"ratio": g / d} if d and g is not None else {}


def _alarms(rows: list[dict]) -> dict[str, list[int]]:
    """Name -> the steps at which it began; a row names all that go on."""
    found: dict[str, list[int]] = {}
    before: set[str] = set()
    for row in rows:
        names = row.get("alarms") or []
        for name in names:
            if name not in before:
                found.setdefault(name, []).append(row["step"])
        before = set(names)
    return found
