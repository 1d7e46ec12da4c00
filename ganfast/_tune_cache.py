"""The tuner's answers on disk: one file for each set of versions, shared by processes."""

import contextlib
import functools
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ganfast import _native
from ganfast._tell import tell

SCHEMA = 1


class Choice(NamedTuple):
    """The candidate taken, the microseconds of each that ran, and why others did not."""

    name: str
    microseconds: dict[str, float]
    failed: dict[str, str]


@functools.cache
def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import ganfast

    found = {"ganfast": ganfast.__version__, "torch": torch.__version__, "extension": "none"}
    if _native.build_info() is not None:  # which build: a rebuilt kernel wants measuring anew
        stat = os.stat(sys.modules["ganfast._C"].__file__)
        found["extension"] = f"{stat.st_size}-{stat.st_mtime_ns}"
    files = sorted(Path(ganfast.__file__).parent.rglob("*.py"))
    found["sources"] = f"{len(files)}-{max(file.stat().st_mtime_ns for file in files)}"  # an edited kernel is another kernel
    with contextlib.suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    return found


def cache_folder() -> Path:
    """GANFAST_CACHE, else the user's cache folder."""
    if folder := os.environ.get("GANFAST_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganfast"


def cache_file(device: torch.device) -> Path | None:
    """One for each set of versions: environments that share a home do not take turns in wiping each other's. None without a home."""
    try:
        digest = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode()).hexdigest()[:12]
        return cache_folder() / f"tuning-{device.type}-{digest}.json"
    except RuntimeError as error:
        tell(f"no place for the tuning cache ({error}); set GANFAST_CACHE. Choices last for this process")
        return None


def read(path: Path) -> dict[str, Choice]:
    """The file's choices; nothing, with a word, where it is damaged, and nothing where it is of other versions."""
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA or content["versions"] != versions():
            return {}
        found = {}
        for question, (name, microseconds, failed) in content["choices"].items():
            found[question] = Choice(
                str(name), {str(k): float(v) for k, v in microseconds.items()}, {str(k): str(v) for k, v in failed.items()}
            )
        return found
    except FileNotFoundError:
        return {}
    except OSError as error:
        tell(f"the tuning cache cannot be read ({error}); tuning again")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        tell(f"the tuning cache {path} is damaged ({type(error).__name__}: {error}); starting a new one")
    return {}


def save(path: Path | None, question: str, choice: Choice) -> None:
    """Adds one choice under a lock, through a temporary file: readers see the old file or the new one, writers lose nothing."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            choices = read(path) | {question: choice}
            temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
            temporary.write_text(json.dumps({"schema": SCHEMA, "versions": versions(), "choices": choices}, indent=1) + "\n")
            os.replace(temporary, path)
    except OSError as error:
        tell(f"the tuning cache cannot be written ({error}); choices last for this process")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # no such lock on this system: a concurrent writer's choice may be lost, and is measured again
        yield
        return
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
