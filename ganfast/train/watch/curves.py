"""curves.png: the numbers of log.jsonl drawn over the steps, with the alarms marked."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from ganfast import _checks
from ganfast.train.watch.grids import about

Curve = tuple[list[int], list[float]]  # steps, values

PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss_d", "loss_g"),
    "discriminator right": ("real_accuracy", "fake_accuracy"),
    "adaptive augmentation": ("ada_p", "ada_sign"),
    "logits": ("real_mean", "fake_mean", "real_sign"),
    "gradients": ("grad_d", "grad_g", "grad_from_d"),
    "gradient ratio": ("ratio",),
    "penalties": ("r1", "r2", "gradient_penalty", "path_penalty"),
    "path lengths": ("path_length", "path_deviation"),
    "spread": ("spread",),
    "skipped": ("skipped",),
}
"""Title -> numbers of a log row that share an axis; each number that is in none of them and has a place of its own is a metric."""

LABELS = {
    "loss_d": "discriminator", "loss_g": "generator", "real_accuracy": "on real images", "fake_accuracy": "on fakes",
    "real_mean": "mean, real", "fake_mean": "mean, fake", "real_sign": "mean sign, real", "grad_d": "discriminator's weights",
    "grad_g": "generator's weights", "grad_from_d": "an image, from the discriminator", "ratio": "generator's / discriminator's",
    "ada_p": "probability", "ada_sign": "mean sign, real", "path_length": "mean", "path_deviation": "deviation over the mean",
    "spread": "fakes' spread, 1 as the reals'",
    "skipped": "steps skipped, inf or NaN",
}  # fmt: skip
LOGARITHMIC = ("gradients", "gradient ratio", "penalties")
LEVELS = {"discriminator right": (0.5, "chance: 50 %"), "gradient ratio": (1.0, None), "spread": (1.0, None)}
BESIDE = ("step", "images", "seconds", "images_per_second", "skipped_in_a_row", "alarms")  # no curves


def panel_of(name: str) -> str | None:
    """The title under which a number of a log row is drawn: a metric's is its own name. None for what is not drawn."""
    if name in BESIDE:
        return None
    bare = name.rpartition("/")[2]  # "a/loss_d", of one of several pairs
    return next((title for title, names in PANELS.items() if bare in names), name)


def write_curves(log: Path, path: Path, model: str, seed: int) -> None:
    """The numbers of log.jsonl over the steps, as a PNG; shaded where an alarm went on. Rows may lack any number but the step.

    Raises: ValueError for a log without a line.
    """
    from matplotlib.figure import Figure

    rows = log_rows(log)
    panels: dict[str, dict[str, Curve]] = {title: {} for title in PANELS}
    for name, curve in _curves(rows).items():
        panels.setdefault(panel_of(name), {})[name] = curve
    panels = {title: curves for title, curves in panels.items() if curves}
    alarms = _alarms(rows)
    columns = 1 if len(panels) <= 2 else 2
    lines = math.ceil(len(panels) / columns)
    width, height = 8 if columns == 1 else 13, 2.6 * lines + 0.8
    figure = Figure(figsize=(width, height))
    # In inches; a layout engine would draw everything twice.
    figure.subplots_adjust(0.7 / width, 0.9 / height, 1 - 0.2 / width, 1 - 0.3 / height, wspace=0.12, hspace=0.22)
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False).flatten()
    for axes, (title, curves) in zip(grid, panels.items()):
        _panel(axes, title, curves)
        for i, spans in enumerate(alarms.values()):
            for first, last in spans:
                axes.axvspan(first, last, facecolor=f"C{i + 4}", edgecolor=f"C{i + 4}", alpha=0.15)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    if alarms:
        marks = [grid[0].fill([], [], color=f"C{i + 4}", alpha=0.3)[0] for i in range(len(alarms))]
        figure.legend(marks, [f"alarm: {name.replace('_', ' ')}" for name in alarms], loc="lower center", ncols=4, frameon=False)
    figure.savefig(path, format="png", dpi=110, metadata=about(model, seed))


def write_loss(path: Path, losses: Sequence[float], fields: dict[str, str]) -> None:
    """One loss over the steps of a search, as a PNG with `fields` as its text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(range(1, len(losses) + 1), losses, linewidth=1)
    axes.set(xlabel="step", ylabel="unlike by")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100, metadata=fields)


def _panel(axes, title: str, curves: dict[str, Curve]) -> None:
    for name, (steps, values) in curves.items():
        alone = title not in PANELS or len(values) < 3 or any(map(math.isnan, values))  # a number between gaps is no line
        axes.plot(steps, values, label=LABELS.get(name, name), marker="." if alone else None)
    if title in LEVELS:
        level, label = LEVELS[title]
        axes.axhline(level, color="grey", linewidth=1, linestyle="--", label=label)
    positive = [value for _, values in curves.values() for value in values if value > 0]
    if title in LOGARITHMIC and positive and max(positive) > 10 * min(positive):
        axes.set_yscale("log")
        axes.minorticks_off()  # half the time to draw
    if title == "discriminator right":
        axes.set_ylim(-0.02, 1.02)
    axes.set_title(title, fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    if title in PANELS:
        axes.legend(fontsize="small")


def log_rows(log: Path) -> list[dict]:
    """The lines of a log.jsonl, without one that was cut off when its run was killed."""
    rows = []
    for line in log.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed
            continue
    if not rows:
        _checks.fail("write_curves", f"{log} has no line, wants at least one", "The run ended before log_every steps")
    return rows


def _curves(rows: list[dict]) -> dict[str, Curve]:
    """Name -> its curve over the rows that have the number. Null stands for a number that was not finite, and becomes NaN, a gap."""
    found: dict[str, Curve] = {}
    for row in rows:
        for name, value in (row | _ratio(row)).items():
            if panel_of(name) is not None and (value is None or isinstance(value, int | float)):
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(math.nan if value is None else float(value))
    return {name: curve for name, curve in found.items() if name != "skipped" or any(curve[1])}


def _ratio(row: dict) -> dict[str, float]:
    d, g = row.get("grad_d"), row.get("grad_g")
    return {"ratio": g / d} if d and g is not None else {}


def _alarms(rows: list[dict]) -> dict[str, list[tuple[int, int]]]:
    """Name -> the first and last step of each period in which the alarm was on; a row names all that are on."""
    found: dict[str, list[tuple[int, int]]] = {}
    before: list[str] = []
    for row in rows:
        for name in row.get("alarms") or []:
            spans = found.setdefault(name, [])
            first = spans.pop()[0] if name in before else row["step"]
            spans.append((first, row["step"]))
        before = row.get("alarms") or []
    return found
