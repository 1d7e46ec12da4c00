"""Turns pytest-benchmark's JSON into a results file, a full table beside it, and the README's summary.

python benchmarks/report.py runs/bench.json --results benchmarks/results --readme README.md
"""

import argparse
import json
import math
import platform
import re
import sys
from pathlib import Path

SCHEMA = 1
NOISY = 0.3
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    return f"{match[1] if match else platform.processor()}, {torch.get_num_threads()} threads"


def compact(raw: dict) -> dict:
    """The rows and what they were measured on; nothing of the machine's name or paths."""
    import torch

    if "benchmarks" not in raw or not all("rivals" in b.get("extra_info", {}) for b in raw["benchmarks"]):
        raise SystemExit("report: this is no benchmark file of this suite (rows without rivals); make one with `make bench`")
    commit = raw.get("commit_info", {})
    return {
        "schema": SCHEMA,
        "device": device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.get("id", "unknown") + (" + uncommitted changes" if commit.get("dirty") else ""),
        "date": raw["datetime"][:10],
        "rows": [b["extra_info"] for b in raw["benchmarks"]],
    }


def best(row: dict, who: str) -> tuple[str, float]:
    """(layout, seconds) of the faster layout."""
    times = {name: r["median"] for name, r in row["rivals"].items() if name.split("-")[0] == who}
    name = min(times, key=times.get)
    return name.partition("-")[2], times[name]


def ratio(row: dict) -> float:
    """The better eager layout's time over ganfast's better one."""
    return best(row, "eager")[1] / best(row, "ganfast")[1]


def like_for_like(row: dict) -> dict[str, float]:
    rivals = row["rivals"]
    return {n[6:]: r["median"] / rivals[f"ganfast-{n[6:]}"]["median"] for n, r in rivals.items() if n.startswith("eager-")}


def noisy(row: dict) -> bool:
    return max(r["spread"] for r in row["rivals"].values()) > NOISY


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def full_table(results: dict) -> str:
    lines = [
        f"# {results['device']}, {results['date']}", "",
        f"torch {results['torch']}, Python {results['python']}, commit {results['commit']}. Milliseconds are medians of interleaved runs;",
        "a ratio above 1 means ganfast is faster. `best` compares the faster layout of each side, `nchw` and `nhwc` like for like.",
        "Rows marked * had a spread (p80 - p20 over median) above 30 %.", "",
        "| op | case | dtype | mode | eager ms | ganfast ms | best | nchw | nhwc |", "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in results["rows"]:
        (el, e), (gl, g) = best(row, "eager"), best(row, "ganfast")
        same = like_for_like(row)
        cells = [f"{same[layout]:.2f}x" if layout in same else "" for layout in ("nchw", "nhwc")]
        where = lambda layout: f" ({layout})" if layout else ""
        lines.append(
            f"| {row['op']} | {row['case']}{'*' if noisy(row) else ''} | {row['dtype']} | {row['mode']} | {e * 1e3:.3f}{where(el)} |"
            f" {g * 1e3:.3f}{where(gl)} | {e / g:.2f}x | {cells[0]} | {cells[1]} |"
        )
    return "\n".join(lines) + "\n"


def summary(results: dict, table: str) -> str:
    groups: dict[tuple, list[dict]] = {}
    for row in results["rows"]:
        groups.setdefault((row["op"], row["dtype"], row["mode"]), []).append(row)
    lines = [
        f"{results['device']}; torch {results['torch']}; commit {results['commit'][:12]}; {results['date']}. Each ratio is the faster",
        "eager layout over the faster ganfast layout, medians of interleaved runs, same dtype; every case in",
        f"[{table}](benchmarks/results/{table}).",
        "", "| op | dtype | mode | cases | geometric mean | total time | slowest case |", "|---|---|---|---:|---:|---:|---|",
    ]  # fmt: skip
    for (op, dtype, mode), rows in groups.items():
        ratios = [ratio(r) for r in rows]
        total = sum(best(r, "eager")[1] for r in rows) / sum(best(r, "ganfast")[1] for r in rows)
        worst = min(rows, key=ratio)
        cells = f"{geometric_mean(ratios):.2f}x | {total:.2f}x | {worst['case']} {ratio(worst):.2f}x"
        lines.append(f"| {op} | {dtype} | {mode} | {len(rows)} | {cells} |")
    losing = [f"{r['op']} {r['case']} {r['dtype']} {r['mode']} ({ratio(r):.2f}x)" for r in results["rows"] if ratio(r) < 1]
    lines += ["", "Below 1.0x: " + ("; ".join(losing) if losing else "none") + "."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path, help="pytest-benchmark's JSON, or a results file of this suite")
    parser.add_argument("--results", type=Path, help="folder that receives <device>-<date>.json and .md")
    parser.add_argument("--readme", type=Path, help="file whose marked section is rewritten")
    arguments = parser.parse_args()
    try:
        raw = json.loads(arguments.raw.read_text())
    except (OSError, ValueError) as error:
        print(f"report: cannot read {arguments.raw}: {error}", file=sys.stderr)
        return 2
    if raw.get("schema", SCHEMA) != SCHEMA:
        print(f"report: {arguments.raw} has schema {raw['schema']}, this reads {SCHEMA}; measure again with `make bench`", file=sys.stderr)
        return 2
    results = raw if "schema" in raw else compact(raw)
    stem = re.sub(r"[^a-z0-9]+", "-", results["device"].split(",")[0].lower()).strip("-") + "-" + results["date"]
    if arguments.results:
        try:
            arguments.results.mkdir(parents=True, exist_ok=True)
            (arguments.results / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
            (arguments.results / f"{stem}.md").write_text(full_table(results))
        except OSError as error:
            print(f"report: cannot write to {arguments.results}: {error}", file=sys.stderr)
            return 2
    text = summary(results, f"{stem}.md")
    if arguments.readme:
        page = arguments.readme.read_text()
        if BEGIN not in page or END not in page:
            print(f"report: {arguments.readme} lacks the markers {BEGIN} and {END}", file=sys.stderr)
            return 2
        head, _, rest = page.partition(BEGIN)
        arguments.readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
