"""The README's table: what ganfast gains, in few lines, and where it loses."""

import re
from collections.abc import Callable

from benchmarks.ratios import geometric_mean, groups, known, ratio

LAYERS = (
    "conv_transpose_act", "conv_transpose+batch_norm", "conv_act", "upsample_conv_act", "batch_norm_act", "instance_norm_act", "bias_act",
)  # fmt: skip
STEP = {"cpu": 64, "cuda": 128}  # the batch of DCGAN-64's step
UNKNOWN = "not measured"
_HEAD = ["| device | dtype | what | over the best eager layout | over `torch.compile` |", "|---|---|---|---:|---:|"]
_TAIL = (
    "The other's time over ganfast's, geometric means: above 1 ganfast is faster. Every row, with the losing ones and the reasons:"
    " [docs/benchmarks.md](docs/benchmarks.md)."
)


def newest(suites: list[dict], kind: str, wanted: Callable[[dict], bool]) -> tuple[str, list[dict]]:
    """(device, the rows that are wanted) of the newest results of that kind of device that have any; suites: newest first."""
    for results in suites:
        if results["kind"] == kind and (rows := [row for row in results["rows"] if wanted(row)]):
            return results["device"], rows
    return "", []


def fullest(suites: list[dict], kind: str, wanted: Callable[[dict], bool]) -> tuple[str, list[dict]]:
    """The same of the results that have most of them, the newest of equals."""
    found = [newest([results], kind, wanted) for results in suites]
    return max(found, key=lambda one: len(one[1]), default=("", []))


def newest_of_each(suites: list[dict], wanted: Callable[[dict], bool]) -> dict[str, dict]:
    """Device -> its newest results that have any of the rows."""
    found: dict[str, dict] = {}
    for results in suites:
        if any(map(wanted, results["rows"])):
            found.setdefault(results["device"], results)
    return found


def _short(device: str) -> str:
    """Without threads, trade marks and what every name ends in."""
    return re.sub(r"\(R\)| Processor\b|, \d+ threads", "", device)


def _mean(rows: list[dict], who: str) -> str:
    """The geometric mean, and of how many rows, where the rival ran in some of them alone."""
    values = known(rows, lambda row: ratio(row, who))
    if not values:
        return UNKNOWN
    return f"{geometric_mean(values):.2f}x" + (f" ({len(values)} of {len(rows)})" if len(values) < len(rows) else "")


def _line(device: str, dtype: str, what: str, parts: list[list[dict]]) -> str:
    """A line of the table; of several parts each has its value in both columns."""
    cells = [_short(device), dtype, what]
    for who in ("eager", "compile"):
        values = [_mean(rows, who) for rows in parts]
        cells.append(UNKNOWN if set(values) == {UNKNOWN} else " / ".join(values))
    return f"| {' | '.join(cells)} |"


def _step(suites: list[dict], kind: str, dtype: str) -> str | None:
    device, rows = newest(suites, kind, lambda r: (r["op"], r["case"], r["batch"], r["dtype"]) == ("step", "dcgan64", STEP[kind], dtype))
    what = f"DCGAN-64, training step, drop-in, batch {STEP[kind]}"
    return _line(device, dtype, what, [rows]) if rows else None


def gains(suites: list[dict]) -> str:
    """At most eight lines: DCGAN-64's step, whole networks under the drop-in, fused layers, a GPU, and the slowest network.

    suites: results files as `results_file.read` gives them, newest first; each line is of the newest that has its rows, that of whole
    networks of the one that has most, the slowest of all devices' newest.
    """
    lines = []
    for dtype in ("fp32", "bf16"):
        lines.append(_step(suites, "cpu", dtype) or _line("CPU", dtype, f"DCGAN-64, training step, drop-in, batch {STEP['cpu']}", [[]]))
    networks = lambda r: r["op"] == "accelerate" and r.get("size") == "trained"
    for dtype in ("fp32", "bf16"):
        device, rows = fullest(suites, "cpu", lambda r, dtype=dtype: networks(r) and r["dtype"] == dtype)
        by_mode = {mode: group for (mode,), group in groups(rows, "mode").items()}
        what = f"{len({r['case'] for r in rows})} networks, drop-in, training / inference"
        lines.append(_line(device or "CPU", dtype, what, [by_mode.get("train", []), by_mode.get("inference", [])]))
    for dtype in ("fp32", "bf16"):
        fused = lambda r, dtype=dtype: r["op"] in LAYERS and r["mode"] == "fwd+bwd" and r["dtype"] == dtype
        device, rows = newest(suites, "cpu", fused)
        lines.append(_line(device or "CPU", dtype, f"{len(rows)} fused layers, forward and backward", [rows]))
    lines.append(_step(suites, "cuda", "bf16") or f"| GPU | | not measured yet | {UNKNOWN} | {UNKNOWN} |")
    whole = lambda r: r["op"] == "accelerate" and "size" in r and ratio(r) is not None
    cpus = newest_of_each([results for results in suites if results["kind"] == "cpu"], whole)
    rows = [(row, device) for device, results in cpus.items() for row in results["rows"] if whole(row)]
    if rows:
        slow, device = min(rows, key=lambda one: ratio(one[0]))
        what = f"slowest of {len(rows)} rows: {slow['case']}, {slow['mode']}"
        lines.append(_line(device, slow["dtype"], what, [[slow]]))
    return "\n".join([*_HEAD, *lines, "", _TAIL])
