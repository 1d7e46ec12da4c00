"""The whole networks of a results file, summed up, as Markdown: against eager, against torch.compile, and what the first call costs."""

import statistics

from benchmarks.ratios import geometric_mean, groups, known, ratio, surely_below
from benchmarks.targets import FAMILY_LEAST

_HEAD = """Networks of the families under `ganfast.accelerate`, at the size at which people train them and at a small one, whose call takes
under 2 ms. Over eager, over torch.compile: geometric means of the better layouts' times over ganfast's. Below: rows in which, in a layout,
the whole 95 % interval of the ratio to eager in that layout is below {least:g}x. torch.compile (Inductor, its own backward) ran where
the run named it, in channels_last where the network takes that; beside it, in how many rows which of the two was the faster. First
call: the median of seconds, of training with its backward, without the import of dynamo."""


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else ""


def _line(key: tuple, rows: list[dict]) -> str:
    over = known(rows, ratio)
    judged = [row for row in rows if row.get("paired")]
    slow = f"{sum(surely_below(row, FAMILY_LEAST) for row in judged)} of {len(judged)}" if judged else ""
    compiled = known(rows, lambda row: ratio(row, "compile"))
    cells = [*map(str, key), str(len(rows)), f"{geometric_mean(over):.2f}x" if over else "", slow]
    cells.append(f"{geometric_mean(compiled):.2f}x" if compiled else "")
    cells.append(f"{sum(r > 1 for r in compiled)} / {sum(r < 1 for r in compiled)}" if compiled else "")
    ours = [row["first_call"]["seconds"] for row in rows if "first_call" in row]
    theirs = [row["compile_first_call"] for row in rows if "compile_first_call" in row]
    return "| " + " | ".join([*cells, _seconds(ours), _seconds(theirs)]) + " |"


def section(rows: list[dict]) -> list[str]:
    """Lines; none where the run had no whole networks."""
    networks = [row for row in rows if row["op"] == "accelerate"]
    if not networks:
        return []
    columns = (
        "size", "mode", "dtype", "rows", "over eager", "below", "over torch.compile", "ganfast / torch.compile faster", "first call s",
        "torch.compile's s",
    )  # fmt: skip
    lines = ["", "## Whole networks", "", *_HEAD.format(least=FAMILY_LEAST).splitlines(), ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * 3 + "---:|" * (len(columns) - 3)]
    return lines + [_line(key, group) for key, group in groups(networks, "size", "mode", "dtype").items()]
