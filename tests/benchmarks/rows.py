"""Rows and files as a run would leave them, for tests that measure nothing."""

import json
from pathlib import Path

MACHINE = {
    "device": "Stub 9000, 2 threads", "kind": "cpu", "commit": "c0ffee",
    "calibration": {"copy": 1e10, "matrix": {"fp32": 1e11, "bf16": 2e11}},
    "versions": {"torch": "2.13.0", "triton": "none", "ganfast": "0.1.0", "python": "3.11", "cuda": "none"}, "fp32": "ieee", "missing": [],
}  # fmt: skip


def rival(seconds: float, **changes) -> dict:
    return {
        "median": seconds, "p20": seconds, "p80": seconds, "spread": 0.02, "launch": None, "rounds": 15, "clock": "wall", "launches": 3,
        "peak_bytes": 1 << 20,
    } | changes  # fmt: skip


def row(times: dict[str, float] | None = None, **changes) -> dict:
    """Eager needs 2 ms and 4 ms, ganfast 3 ms and 1 ms, in NCHW and channels_last, unless `times` says otherwise."""
    times = times or {"eager-nchw": 2e-3, "ganfast-nchw": 3e-3, "eager-nhwc": 4e-3, "ganfast-nhwc": 1e-3}
    return MACHINE | {
        "op": "conv_transpose_act", "case": "layer", "batch": 4, "dtype": "fp32", "mode": "fwd+bwd", "source": "a paper", "c_in": 256,
        "bytes": 10**6, "flops": 10**9, "rivals": {name: rival(t) for name, t in times.items()},
        "overhead_us": {"eager": 10.0, "ganfast": 30.0}, "noisy": False, "fits_cache": False, "chosen": None, "seconds": 1.0,
    } | changes  # fmt: skip


def results(*rows: dict, **changes) -> dict:
    same = {key: MACHINE[key] for key in ("device", "kind", "commit", "versions")}
    return {"schema": 2, "date": "2026-01-31", **same, "rows": list(rows)} | changes


def raw(*rows: dict) -> dict:
    """pytest-benchmark's JSON."""
    return {"datetime": "2026-01-31T12:00:00", "benchmarks": [{"name": "test", "extra_info": r} for r in rows]}


def save(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
