"""The results file: its schema, and reading and writing it with words instead of tracebacks.

    {"schema": 2, "device", "kind": "cpu" | "cuda", "date", "commit", "versions": {...}, "rows": [...]}

A row: op, case, batch, dtype, mode, source, device, kind, versions, commit, calibration, fp32 (ieee or tf32), missing (fused
backends that cannot run here), bytes and flops (or null), rivals, overhead_us ({"eager", "ganfast"} or null), noisy, fits_cache
(moves less than four times the last cache holds),
chosen (by a tuner), seconds, paired (layout -> [low, median, high] of eager's time over ganfast's in the same round); of a training step
also floor (seconds) and note; of a whole network also size ("trained" or "small"), layers, first_call ({"seconds", "compile", "groups"})
and, if torch.compile ran, compile_first_call (seconds). A rival: median p20 p80 spread launch (seconds),
rounds, clock, launches, peak_bytes, percent_copy, percent_matrix, of_floor; or {"failed": reason}.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

SCHEMA = 2
_ROW_KEYS = (
    "op", "case", "batch", "dtype", "mode", "device", "kind", "versions", "commit", "bytes", "flops", "rivals", "overhead_us", "noisy",
    "fits_cache",
)  # fmt: skip
_RIVAL_KEYS = ("median", "spread", "clock", "launches", "peak_bytes")


class Unusable(Exception):
    """A file or folder that cannot serve; the message says which and why."""


def guarded(main: Callable[[], int], program: str) -> int:
    """Exit status of `main`; 2 after a word where a file cannot serve."""
    try:
        return main()
    except Unusable as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2


def load_json(path: Path) -> object:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"cannot read {path}: {error}") from None
    if not text.strip():
        raise Unusable(f"{path} is empty; the run that should have written it did not finish")
    try:
        return json.loads(text)
    except ValueError as error:
        raise Unusable(f"{path} is no JSON, or cut off: {error}") from None


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def check_row(row: object, where: str) -> None:
    if not isinstance(row, dict):
        raise Unusable(f"{where} is no row but a {type(row).__name__}")
    absent = [key for key in _ROW_KEYS if key not in row]
    if absent:
        raise Unusable(f"{where} lacks {', '.join(absent)}; it is of another suite or version: measure again with `make bench`")
    rivals = row["rivals"]
    if not isinstance(rivals, dict) or not all(isinstance(r, dict) for r in rivals.values()):
        raise Unusable(f"{where}: rivals is no table of rivals")
    for name, rival in rivals.items():
        if "failed" not in rival and not (all(k in rival for k in _RIVAL_KEYS) and _positive(rival["median"])):
            raise Unusable(f"{where}: rival {name} has neither times nor a reason why it failed")
    if not any(name.startswith("ganfast") and "median" in rival for name, rival in rivals.items()):
        raise Unusable(f"{where}: no time of ganfast")


def name_of(row: dict) -> str:
    return f"{row['op']} {row['case']} b{row['batch']} {row['dtype']} {row['mode']}"


def read(path: Path) -> dict:
    """A results file, every row checked. Raises Unusable."""
    found = load_json(path)
    if not isinstance(found, dict) or "schema" not in found:
        raise Unusable(f"{path} is no results file; `benchmarks/report.py` makes one of a benchmark run's JSON")
    if found["schema"] != SCHEMA:
        raise Unusable(f"{path} has schema {found['schema']!r}, this reads {SCHEMA}; measure again with `make bench`")
    absent = [key for key in ("device", "kind", "date", "commit", "versions", "rows") if key not in found]
    if absent:
        raise Unusable(f"{path} lacks {', '.join(absent)}; it was cut or edited")
    if not isinstance(found["rows"], list) or not found["rows"]:
        raise Unusable(f"{path} has no rows")
    for i, row in enumerate(found["rows"]):
        check_row(row, f"{path}: row {i + 1}")
    return found


def from_runs(paths: list[Path]) -> dict:
    """Results from pytest-benchmark's JSON of one or several runs on one device and commit. Raises Unusable."""
    rows, date = [], ""
    for path in paths:
        raw = load_json(path)
        if not isinstance(raw, dict) or not isinstance(raw.get("benchmarks"), list) or not isinstance(raw.get("datetime"), str):
            raise Unusable(f"{path} is neither a results file nor pytest-benchmark's JSON")
        if not raw["benchmarks"]:
            raise Unusable(f"{path} has no rows: every benchmark failed, was skipped or deselected")
        for i, entry in enumerate(raw["benchmarks"]):
            row = entry.get("extra_info") if isinstance(entry, dict) else None
            check_row(row, f"{path}: row {i + 1}")
            rows.append(row)
        date = max(date, raw["datetime"][:10])
    for key in ("device", "commit"):
        different = sorted({row[key] for row in rows})
        if len(different) > 1:
            raise Unusable(f"the rows are of more than one {key}: {'; '.join(different)}; report each by itself")
    same = {key: rows[0][key] for key in ("device", "kind", "commit", "versions")}
    return {"schema": SCHEMA, "date": date, **same, "rows": rows}


def from_files(paths: list[Path]) -> dict:
    """A results file, or the runs that make one. Raises Unusable."""
    if len(paths) == 1:
        first = load_json(paths[0])
        if isinstance(first, dict) and "schema" in first:
            return read(paths[0])
    return from_runs(paths)


def stem(results: dict) -> str:
    """<device>-<date>, without the device's number of threads."""
    return re.sub(r"[^a-z0-9]+", "-", results["device"].split(",")[0].lower()).strip("-") + "-" + results["date"]


def check_writable(folder: Path) -> None:
    """Before a run of minutes, not after it. Raises Unusable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Unusable(f"cannot write to {folder}: {error}") from None


def write(folder: Path, name: str, text: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    except OSError as error:
        raise Unusable(f"cannot write to {folder}: {error}") from None
    return folder / name


def as_text(results: dict) -> str:
    """JSON with a line per row: small, and readable in a diff."""
    head = json.dumps({key: value for key, value in results.items() if key != "rows"}, indent=1)
    rows = ",\n".join("  " + json.dumps(row) for row in results["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'
