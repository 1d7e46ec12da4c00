"""What the tables, plots and comparisons read off a row."""

import math
import statistics
from collections.abc import Callable, Iterable

from benchmarks.rivals import who_and_layout


def times(row: dict, who: str) -> dict[str, float]:
    """Layout -> median seconds, of the rivals that ran."""
    return {who_and_layout(n)[1]: r["median"] for n, r in row["rivals"].items() if who_and_layout(n)[0] == who and "median" in r}


def best(row: dict, who: str) -> tuple[str, dict] | None:
    """(layout, the rival's entry) of the faster layout, or None where it did not run."""
    found = times(row, who)
    if not found:
        return None
    layout = min(found, key=found.get)
    return layout, row["rivals"][f"{who}-{layout}" if layout else who]


def ratio(row: dict, who: str = "eager") -> float | None:
    """The rival's better layout's time over ganfast's better one; None where the rival did not run."""
    rival = best(row, who)
    return None if rival is None else rival[1]["median"] / best(row, "ganfast")[1]["median"]


def against_channels_last(row: dict) -> float | None:
    """Eager's channels_last time (its only layout in 1-D) over ganfast's better one."""
    found = times(row, "eager")
    eager = found.get("nhwc") if len(found) != 1 else next(iter(found.values()))
    return None if eager is None else eager / best(row, "ganfast")[1]["median"]


def like_for_like(row: dict) -> dict[str, float]:
    """Layout -> eager's time over ganfast's in that same layout."""
    eager, ours = times(row, "eager"), times(row, "ganfast")
    return {layout: eager[layout] / ours[layout] for layout in eager if layout in ours}


def surely_below(row: dict, limit: float) -> bool:
    """Whether the whole interval of a layout's paired ratio to eager lies below the limit."""
    return any(high < limit for _, _, high in row.get("paired", {}).values())


def against(rows: list[dict], who: str) -> str:
    """How ganfast stands against a rival: "1.20x, 3 won, 1 lost" of the rows in which it ran, and in how many it failed."""
    values = known(rows, lambda row: ratio(row, who))
    failed = sum(who_and_layout(name)[0] == who and "failed" in rival for row in rows for name, rival in row["rivals"].items())
    words = [f"{geometric_mean(values):.2f}x, {sum(v > 1 for v in values)} won, {sum(v < 1 for v in values)} lost"] if values else []
    return ", ".join(words + ([f"{failed} failed"] if failed else []))


def geometric_mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def groups(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return found


def title(op: str, size: str | None) -> str:
    """What a group of rows is called: small networks are told apart from those that people train."""
    return f"{op}, small" if size == "small" else op


def known(rows: list[dict], value: Callable[[dict], float | None]) -> list[float]:
    return [v for row in rows if (v := value(row)) is not None]


def added_overhead(rows: list[dict]) -> tuple[float, float] | None:
    """(plain's, ganfast's) microseconds a call, medians over the rows that have them."""
    costs = [row["overhead_us"] for row in rows if row["overhead_us"]]
    return tuple(statistics.median(c[who] for c in costs) for who in ("eager", "ganfast")) if costs else None
