"""The summary of a results file, for docs/benchmarks.md, and its full table, as Markdown."""

from benchmarks import family_table
from benchmarks.ratios import against, best, geometric_mean, groups, known, like_for_like, ratio, title
from benchmarks.steps import tables as steps
from benchmarks.targets import findings

_DTYPES = ("fp32", "bf16")
RESULTS = "../benchmarks/results/"  # from docs/


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _same_layout(row: dict, layout: str) -> str:
    """Like for like: the median of the rounds' own ratios with its interval; without rounds to pair, the medians' ratio."""
    if layout in row.get("paired", {}):
        low, median, high = row["paired"][layout]
        return f"{median:.2f}x ({low:.2f} to {high:.2f})"
    return _times(like_for_like(row).get(layout))


def _pair(row: dict, cell) -> str:
    """Eager's and ganfast's value of the faster layouts, "a / b"."""
    found = [best(row, who) for who in ("eager", "ganfast")]
    return " / ".join("-" if rival is None else cell(rival[1]) for rival in found)


def _percent(rival: dict) -> str:
    parts = [f"{rival[key]:.0f} {word}" for key, word in (("percent_copy", "c"), ("percent_matrix", "m")) if key in rival]
    return ", ".join(parts) or "-"


def _row(row: dict) -> str:
    cells = [row["op"], f"{row['case']} b{row['batch']}{'*' if row['noisy'] else ''}", row["dtype"], row["mode"]]
    for who in ("eager", "ganfast"):
        rival = best(row, who)
        cells.append("failed" if rival is None else f"{rival[1]['median'] * 1e3:.3f}" + (f" ({rival[0]})" if rival[0] else ""))
    cells += [_times(ratio(row)), _same_layout(row, "nchw"), _same_layout(row, "nhwc")]
    cells += [_times(ratio(row, "compile")), _times(ratio(row, "max-autotune"))]
    cells += [_pair(row, _percent), _pair(row, lambda r: str(r["launches"])), _pair(row, lambda r: f"{r['peak_bytes'] / 2**20:.1f}")]
    costs = row["overhead_us"]
    cells.append(f"{costs['eager']:.0f} / {costs['ganfast']:.0f}" if costs else "")
    launch = best(row, "ganfast")[1].get("launch")
    cells.append(best(row, "ganfast")[1]["clock"].split(" (")[0] + ("" if launch is None else f", +{launch * 1e6:.0f} us launch"))
    return "| " + " | ".join(cells) + " |"


def full(results: dict, plots: list[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    calibration = results["rows"][0].get("calibration")
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in calibration["matrix"].items()) if calibration else "none"
    columns = (
        "op", "case and batch", "dtype", "mode", "eager ms", "ganfast ms", "best", "nchw", "nhwc", "compile", "max-autotune",
        "% of calibration", "launches", "peak MiB", "call us", "clock",
    )  # fmt: skip
    lines = [
        f"# {results['device']}, {results['date']}", "", f"Commit {results['commit']}; {versions}.", "",
        "Milliseconds are medians of interleaved runs; a ratio above 1 means ganfast is faster. `best` compares the faster layout of",
        "each side; `nchw` and `nhwc` like for like, the median of the rounds' own ratios with its 95 % interval; `compile` and",
        "`max-autotune` those rivals in channels_last with ganfast's faster one.",
        "Pairs are eager / ganfast. % of calibration: c of a large copy's bandwidth, m of a square matrix product's rate, both of this",
        f"same run (copy {calibration['copy'] / 1e9:.1f} GB/s; {rates}); in a cache a row exceeds the copy." if calibration else "",
        "Launches: kernels on a GPU, operators on a CPU. Peak: beyond what lay in memory before the call. Call: the same on tiny tensors.",
        "The oracle saw every row first, with an upstream gradient of zero where a relu-like pre-activation lies within rounding of its",
        "kink; the steps' gradients, which kinks flip in either rival, it saw at bfloat16's precision.",
        "Rows marked * had a rival with a spread (p80 - p20 over median) above 30 %: too noisy a machine to believe small ratios.", "",
        *[f"![{name}]({name})" for name in plots], *([""] if plots else []),
        "| " + " | ".join(columns) + " |", "|" + "---|" * 4 + "---:|" * 11 + "---|",
        *[_row(row) for row in results["rows"]],
    ]  # fmt: skip
    failures = [f"- {r['op']} {r['case']} b{r['batch']} {r['dtype']} {r['mode']}, {name}: {rival['failed']}"
                for r in results["rows"] for name, rival in r["rivals"].items() if "failed" in rival]  # fmt: skip
    events = sorted({rival["clock"] for r in results["rows"] for rival in r["rivals"].values() if " (" in rival.get("clock", "")})
    lines += family_table.section(results["rows"]) + steps.section(results["rows"])
    lines += ["", "## Rivals that did not run", "", *failures] if failures else []
    lines += ["", "## Timed by events", "", *[f"- {clock}" for clock in events]] if events else []
    sources = sorted({f"- {row['case']}: {row['source']}" for row in results["rows"] if row.get("source")})
    return "\n".join([*lines, "", "## Sources", "", *sources]) + "\n"


def below(rows: list[dict], limit: float = 1.0) -> list[str]:
    """Cases slower than eager, by name, a line for each op, dtype and mode."""
    found = []
    for (op, dtype, mode), group in groups(rows, "op", "dtype", "mode").items():
        slow = [f"{r['case']} {ratio(r):.2f}" for r in group if ratio(r) is not None and ratio(r) < limit]
        if slow:
            found.append(f"{op} {dtype} {mode}: {', '.join(slow)}")
    return found


def summary(results: dict, table: str, plots: list[str]) -> str:
    rows = results["rows"]
    noisy = sum(row["noisy"] for row in rows)
    versions = ", ".join(f"{name} {results['versions'][name]}" for name in ("torch", "triton", "cuda"))
    lines = [
        f"{results['device']}; {versions}; commit {results['commit'][:12]}; {results['date']}. Each ratio is the faster eager layout",
        "over the faster ganfast layout, medians of interleaved runs, same dtype, as a geometric mean over the cases; every case, with",
        f"memory, launches and rates: [{table}]({RESULTS}{table}).",
        *([f"{noisy} of {len(rows)} rows had a spread above 30 %: small ratios of this run are not to be believed."] if noisy else []),
        *[f"Without {word}." for word in rows[0].get("missing", [])], "",
        "| op | mode | cases | fp32 | bf16 | slowest case | against torch.compile |", "|---|---|---:|---:|---:|---|---|",
    ]  # fmt: skip
    for (op, mode, size), group in groups(rows, "op", "mode", "size").items():
        means = []
        for dtype in _DTYPES:
            values = known([r for r in group if r["dtype"] == dtype], ratio)
            means.append(f"{geometric_mean(values):.2f}x" if values else "")
        compared = [r for r in group if ratio(r) is not None]
        worst = min(compared, key=ratio) if compared else None
        last = "" if worst is None else f"{worst['case']} {worst['dtype']} {ratio(worst):.2f}x"
        cells = [title(op, size), mode, str(len({(r["case"], r["batch"]) for r in group})), *means, last, against(group, "compile")]
        lines.append("| " + " | ".join(cells) + " |")
    found = findings(results)
    measured, others = [f for f in found if f.met is not None], [f for f in found if f.met is None]
    if measured:
        lines += ["", "| goal | measured | wanted | |", "|---|---:|---:|---|"]
        lines += [f"| {f.text} | {f.value} | {f.goal} | {'reached' if f.met else 'missed'} |" for f in measured]
    unmeasured = "; ".join(f"{f.text} ({f.goal})" for f in others)
    lines += ["", f"Goals that this run did not measure: {unmeasured}."] if others else []
    slow = below(rows)
    lines += ["", "Slower than eager, below 1.0x:" if slow else "Slower than eager, below 1.0x: none.", *[f"- {line}" for line in slow]]
    lines += ["", *[f"![{name}]({RESULTS}{name})" for name in plots]] if plots else []
    return "\n".join(lines)
