"""Two pictures of a results file: ratios as bars, and where the rows lie under this machine's roofs."""

import importlib.util
from pathlib import Path

from benchmarks.ratios import best, geometric_mean, groups, known, ratio, title
from benchmarks.results_file import Unusable

_COLOURS = {"fp32": "#33658a", "bf16": "#f6ae2d"}


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: dict, folder: Path, stem: str) -> list[str]:
    """Writes <stem>-bars.png and, where rows have FLOPs and bytes, <stem>-roofline.png; the names written. Raises Unusable."""
    import matplotlib

    matplotlib.use("Agg")
    names = {f"{stem}-bars.png": _bars(results)}
    if (figure := _roofline(results)) is not None:
        names[f"{stem}-roofline.png"] = figure
    try:
        for name, figure in names.items():
            figure.savefig(folder / name, dpi=90)
    except OSError as error:
        raise Unusable(f"cannot write to {folder}: {error}") from None
    return list(names)


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _bars(results: dict):
    """A bar per op, mode and dtype: the geometric mean over its cases, each case a dot."""
    found = {key: known(rows, ratio) for key, rows in groups(results["rows"], "op", "mode", "dtype", "size").items()}
    found = {key: values for key, values in found.items() if values}
    figure, axes = _figure(8, 1.2 + 0.28 * len(found))
    for y, ((_, _, dtype, _), values) in enumerate(found.items()):
        axes.barh(y, geometric_mean(values), color=_COLOURS.get(dtype, "grey"))
        axes.plot(values, [y] * len(values), "k.", markersize=3, alpha=0.6)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(found)), [f"{title(op, size)}, {mode}, {dtype}" for op, mode, dtype, size in found], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("eager's time over ganfast's: geometric mean, dots are cases")
    axes.set_title(f"{results['device']}, {results['date']}", fontsize=10)
    return figure


def _roofline(results: dict):
    """Achieved FLOP/s over FLOPs per byte, eager hollow and ganfast filled, under the calibration's roofs."""
    rows = [row for row in results["rows"] if row["flops"] and row["bytes"]]
    calibration = next((row["calibration"] for row in rows if row.get("calibration")), None)
    if not rows or calibration is None:
        return None
    figure, axes = _figure(8, 5)
    for row in rows:
        for who, fill in (("eager", "none"), ("ganfast", _COLOURS.get(row["dtype"], "grey"))):
            if (rival := best(row, who)) is not None:
                at = row["flops"] / row["bytes"], row["flops"] / rival[1]["median"]
                axes.plot(*at, "o", markersize=4, markerfacecolor=fill, markeredgecolor=_COLOURS.get(row["dtype"], "grey"))
    intensities = [row["flops"] / row["bytes"] for row in rows]
    for dtype, rate in calibration["matrix"].items():
        ends = [min(intensities) / 2, rate / calibration["copy"], max(max(intensities), rate / calibration["copy"]) * 2]
        roof = [min(x * calibration["copy"], rate) for x in ends]
        axes.plot(ends, roof, color=_COLOURS.get(dtype, "grey"), label=f"{dtype}: {rate / 1e9:.0f} GFLOP/s")
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="FLOP/s")
    axes.legend(title=f"hollow: eager, filled: ganfast; copy {calibration['copy'] / 1e9:.0f} GB/s", fontsize=8, title_fontsize=8)
    axes.set_title(f"{results['device']}, {results['date']}", fontsize=10)
    return figure
