"""What a row was measured on: device, versions, commit, size of the last cache; nothing of the machine's name or paths."""

import functools
import importlib.metadata
import importlib.util
import platform
import re
import subprocess
from pathlib import Path

import torch

import ganfast
from ganfast import _backends, _place

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT = Path(__file__).resolve().parent.parent


def device_name() -> str:
    if DEVICE == "cuda":
        return torch.cuda.get_device_name()
    return f"{_place.cpu()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    triton = "none"
    if importlib.util.find_spec("triton") is not None:
        try:
            triton = importlib.metadata.version("triton")
        except importlib.metadata.PackageNotFoundError:
            triton = "unknown"
    found = {"torch": torch.__version__, "triton": triton, "ganfast": ganfast.__version__, "python": platform.python_version()}
    return found | {"cuda": torch.version.cuda or "none"}


@functools.cache
def commit() -> str:
    """The commit measured; "unknown" outside a clone."""
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + (" + uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def cache_bytes() -> int:
    """Of the last-level cache, which a repeated call may find its tensors in; 0 where unknown."""
    if DEVICE == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes if re.fullmatch(r"\d+[KM]", size)), default=0)


def missing() -> list[str]:
    """A word for each fused backend of this device that cannot run: `auto` then measures another one under ganfast's name."""
    wanted = ("triton", "cuda") if DEVICE == "cuda" else ("cpu",)
    states = _backends.backends()
    return [f"backend {name}: {states[name].reason}" for name in wanted if not states[name].available]


def facts(measured_commit: str | None = None) -> dict:
    """The part of a row that is the same for all rows of a run."""
    precision = "tf32" if DEVICE == "cuda" and torch.backends.cudnn.allow_tf32 else "ieee"
    return {
        "device": device_name(), "kind": DEVICE, "versions": versions(), "commit": measured_commit or commit(), "fp32": precision,
        "missing": missing(),
    }  # fmt: skip
