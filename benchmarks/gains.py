"""The README's table: what ganfast gains, in few lines, and where it loses."""

import re
import statistics
from collections.abc import Callable

from benchmarks.ratios import geometric_mean, known, ratio
from benchmarks.results_file import name_of

LAYERS = (
    "conv_transpose_act", "conv_transpose+batch_norm", "conv_act", "upsample_conv_act", "batch_norm_act", "instance_norm_act", "bias_act",
    "group_norm_act", "modulated norm",
)  # fmt: skip
STEP = {"cpu": (16, 64), "cuda": (128,)}  # the batches of DCGAN-64's step
UNKNOWN = "not measured"
_DTYPES = ("fp32", "bf16")
_HEAD = ["| device | dtype | what | over the best eager layout | over `torch.compile` |", "|---|---|---|---:|---:|"]
_TAIL = (
    "The other's time over ganfast's, geometric means: above 1 ganfast is faster. Networks run with the drop-in alone; the step's rival is"
    " eager without the gradients that nobody uses. Every row, the losing ones and the reasons:"
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


def newest_of_each(suites: list[dict], wanted: Callable[[dict], bool]) -> dict[str, list[tuple[dict, dict]]]:
    """Device -> its rows that are wanted, each with the newest results that have it; suites: newest first. So a part that is measured anew
    takes the place of that part alone."""
    found: dict[str, dict[str, tuple[dict, dict]]] = {}
    for results in suites:
        for row in filter(wanted, results["rows"]):
            found.setdefault(results["device"], {}).setdefault(name_of(row), (row, results))
    return {device: list(rows.values()) for device, rows in found.items()}


def _short(device: str) -> str:
    """Without threads, trade marks and what every name ends in."""
    return re.sub(r"Intel\(R\) |\(R\)| Processor\b|, \d+ threads", "", device)


def _mean(rows: list[dict], who: str) -> str:
    """The geometric mean, and of how many rows, where the rival ran in some of them alone."""
    values = known(rows, lambda row: ratio(row, who))
    if not values:
        return UNKNOWN
    return f"{geometric_mean(values):.2f}x" + (f" (of {len(values)})" if len(values) < len(rows) else "")


def _line(device: str, dtype: str, what: str, parts: list[list[dict]], plain: str = "eager") -> str:
    """A line of the table; of several parts each has its value in both columns."""
    cells = [_short(device), dtype, what]
    for who in (plain, "compile"):
        values = [_mean(rows, who) for rows in parts]
        cells.append(UNKNOWN if set(values) == {UNKNOWN} else " / ".join(values))
    return f"| {' | '.join(cells)} |"


def _step(suites: list[dict], kind: str, dtype: str) -> str | None:
    """Against eager that leaves out the same gradients; `ratio` of eager that does not would credit ganfast with that."""
    is_step = lambda r: (r["op"], r["case"], r["dtype"]) == ("step", "dcgan64", dtype) and r["batch"] in STEP[kind]
    device, rows = newest(suites, kind, is_step)
    rows = sorted(rows, key=lambda row: row["batch"])
    what = f"DCGAN-64 step, drop-in + fused losses, batch {' / '.join(str(row['batch']) for row in rows)}"
    return _line(device, dtype, what, [[row] for row in rows], "eager-frozen") if rows else None


def _networks(suites: list[dict], size: str, dtype: str) -> list[str]:
    """A line of the networks of a size, none where none ran; the median in brackets, as a few networks make the mean."""
    device, rows = fullest(suites, "cpu", lambda r: r["op"] == "accelerate" and r.get("size") == size and r["dtype"] == dtype)
    if not rows:
        return [_line("CPU", dtype, "whole networks, drop-in", [[]])] if size == "trained" else []
    of = [[row for row in rows if row["mode"] == mode] for mode in ("train", "inference")]
    middle = " / ".join(f"{statistics.median(known(part, ratio)):.2f}x" for part in of if known(part, ratio))
    what = f"{len({row['case'] for row in rows})} {'small ' * (size == 'small')}networks, train / inference"
    line = _line(device, dtype, what, of)
    head, over, compiled = line.rsplit(" | ", 2)
    return [f"{head} | {over}, median {middle} | {compiled}"]


def gains(suites: list[dict]) -> str:
    """At most eight lines: DCGAN-64's step, whole networks under the drop-in, small ones, fused layers, a GPU, and the slowest network.

    suites: results files as `results_file.read` gives them, newest first; each line is of the newest that has its rows, that of whole
    networks of the one that has most, the slowest of every device's rows, each row as it was measured last.
    """
    lines = [_step(suites, "cpu", dtype) or _line("CPU", dtype, "DCGAN-64 step, drop-in + fused losses", [[]]) for dtype in _DTYPES]
    for dtype in _DTYPES:
        lines += _networks(suites, "trained", dtype)
    lines += _networks(suites, "small", "fp32")
    fused = lambda r: r["op"] in LAYERS and r["mode"] == "fwd+bwd" and r["dtype"] in _DTYPES
    device, rows = newest(suites, "cpu", fused)
    of = [[row for row in rows if row["dtype"] == dtype] for dtype in _DTYPES]
    lines.append(_line(device or "CPU", " / ".join(_DTYPES), f"{len(of[0])} fused layers, forward + backward", of))
    lines.append(_step(suites, "cuda", "bf16") or f"| GPU | | not measured yet | {UNKNOWN} | {UNKNOWN} |")
    whole = lambda r: r["op"] == "accelerate" and "size" in r and ratio(r) is not None
    cpus = newest_of_each([results for results in suites if results["kind"] == "cpu"], whole)
    rows = [(row, device) for device, pairs in cpus.items() for row, _ in pairs]
    if rows:
        slow, device = min(rows, key=lambda one: ratio(one[0]))
        what = f"slowest of {len(rows)} rows: {slow['case']}, {slow['mode']}"
        lines.append(_line(device, slow["dtype"], what, [[slow]]))
    rows = fullest(suites, "cpu", lambda r: r["op"] == "accelerate" and r.get("size") == "trained" and r["dtype"] == "fp32")[1]
    values = known([row for row in rows if row["mode"] == "train"], ratio)
    gain, lose = sum(v >= 1.05 for v in values), sum(v < 0.97 for v in values)
    said = f" Of {len(values)} networks training in fp32, {gain} gain 5 % or more and {lose} lose more than 3 %." if values else ""
    return "\n".join([*_HEAD, *lines, "", _TAIL + said])
