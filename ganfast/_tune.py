"""The tuner behind `auto`: of a few ways to run one op on one shape, the one that was fastest on this machine.

Lazy: a question is measured the first time it is asked, on the caller's own tensors, and answered from memory and disk after
that. The default (the static rule) is always a candidate and wins ties, so a choice is never slower than it beyond noise.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ganfast import _native, _timing

SCHEMA = 1
MOST = 6  # candidates a question
MARGIN = 0.03  # the default stays unless another is faster by more: below that, noise decides
_ROUNDS, _SECONDS = 5, 0.25  # per question: that many rounds, none begun after that many seconds
_MOST_ROUNDS, _SPREAD = 40, 0.03  # short calls: more rounds, over so many seconds that a bad moment does not fill them
_HOPELESS = 1.5  # times the best after the first round: not run again
_LONG = 5.0  # times the fastest first call, and 100 ms (libraries initialise): not even that
MOST_SHAPES = 8  # questions a family: sizes that are new with every call must not be measured for ever

_choices: dict[str, "Choice"] = {}  # question -> choice, of this process and the cache file
_families: dict[str, dict[str, str]] = {}  # what a question is about but for the size of x -> its questions' answers
_loaded: set[Path] = set()
_told: set[str] = set()
_lock = threading.RLock()  # models run in threads, and one candidate may ask a question of its own


class Choice(NamedTuple):
    """The candidate taken, the microseconds of each that ran, and why others did not."""

    name: str
    microseconds: dict[str, float]
    failed: dict[str, str]


def off_reason() -> str | None:
    """Why `auto` keeps to its static rule here, or None where it measures."""
    if os.environ.get("GANFAST_TUNE", "1") == "0":
        return "GANFAST_TUNE=0"
    if torch.are_deterministic_algorithms_enabled():
        return "torch.use_deterministic_algorithms is on: a choice by time could change the bits"
    if torch.backends.cudnn.deterministic:
        return "torch.backends.cudnn.deterministic is on: a choice by time could change the bits"
    return None


def _must_not_measure(x: torch.Tensor) -> bool:
    """Tracing, a graph capture or a dispatch mode would record the measurement; fake tensors have nothing to measure."""
    if not _native.is_plain(x):
        return True
    with _on(x.device):
        return x.is_cuda and torch.cuda.is_current_stream_capturing()


def choose(question: str, candidates: Mapping[str, Callable[[], object]], x: torch.Tensor, family: str = "") -> tuple[str, bool]:
    """(name of the candidate to run, whether that is final). `candidates`: at most MOST calls without side effects, the default
    first; `question` is op, pass, shapes, dtype, layout: all but the machine, which is added here. x: a tensor the calls read.
    `family`: the question without the size of x; from its MOST_SHAPES-th question on the commonest earlier answer is taken.

    Raises: ValueError for more than MOST candidates; what the default raises, where every candidate fails.
    """
    if len(candidates) > MOST:
        raise ValueError(f"choose: {len(candidates)} candidates for {question}, at most {MOST}")
    default = next(iter(candidates))
    if len(candidates) == 1 or off_reason():
        return default, True
    with _lock:
        place = _place(x.device)
        question, family = f"{question} | {place}", f"{family or question} | {place}"
        path = cache_file(x.device)
        _load(path)
        known = _choices.get(question)
        if known is not None and known.name in candidates:
            _families.setdefault(family, {})[question] = known.name
            return known.name, True
        if _must_not_measure(x):
            return default, False
        answers = _families.setdefault(family, {})
        if len(answers) >= MOST_SHAPES:
            return next((name for name, _ in Counter(answers.values()).most_common() if name in candidates), default), True
        choice = _measure(candidates, x.device)
        if any(why.startswith("OutOfMemoryError") for why in choice.failed.values()):
            return choice.name, False  # with more memory free another one may win
        _choices[question], answers[question] = choice, choice.name
        _save(path, question, choice)
        return choice.name, True


def chosen() -> dict[str, Choice]:
    """Every choice of this process and of the cache file of the devices it asked about."""
    with _lock:
        return dict(_choices)


def _measure(candidates: Mapping[str, Callable[[], object]], device: torch.device) -> Choice:
    with torch.no_grad(), _on(device):
        alive, failed = _first_calls(candidates, device)
        measure = _timing.QueueClock() if device.type == "cuda" else _timing.wall_clock
        samplers = {name: measure(candidates[name]) for name in alive}
        times: dict[str, list[float]] = {name: [] for name in alive}
        began = time.perf_counter()
        for r in range(_MOST_ROUNDS):
            for name in alive[r % len(alive) :] + alive[: r % len(alive)]:
                times[name].append(samplers[name].sample())
            best = min(map(min, times.values()))
            alive = [name for name in alive if min(times[name]) <= _HOPELESS * best]
            elapsed = time.perf_counter() - began
            if elapsed > _SECONDS or (r + 1 >= _ROUNDS and elapsed > _SPREAD):
                break
    # The fastest run of each: noise only ever adds.
    fastest = {name: min(samples) for name, samples in times.items()}
    default, winner = next(iter(candidates)), min(fastest, key=fastest.get)
    if default in fastest and fastest[winner] > (1 - MARGIN) * fastest[default]:
        winner = default
    return Choice(winner, {name: round(seconds * 1e6, 1) for name, seconds in fastest.items()}, failed)


def _first_calls(candidates: Mapping[str, Callable[[], object]], device: torch.device) -> tuple[list[str], dict[str, str]]:
    """(those worth timing, why others are not), each called once: compilers run side by side, torch's own kernels alone."""
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    on_stream = contextlib.nullcontext
    if device.type == "cuda":  # a thread of the pool has the default stream, not the caller's
        on_stream = functools.partial(torch.cuda.stream, torch.cuda.current_stream(device))

    def attempt(name: str) -> None:
        try:
            with torch.no_grad(), _on(device), on_stream():
                known = len(_choices)
                began = time.perf_counter()
                candidates[name]()
                if len(_choices) > known:  # it asked a question of its own, whose measuring is no part of its time
                    began = time.perf_counter()
                    candidates[name]()
        except Exception as error:  # whatever a candidate cannot do rules out that candidate alone
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            seconds[name] = time.perf_counter() - began

    compiled = [name for name in candidates if name.startswith("triton/")]
    for name in candidates:
        if name not in compiled:
            attempt(name)
    if compiled:
        with ThreadPoolExecutor(len(compiled)) as pool:
            list(pool.map(attempt, compiled))
    if not seconds:
        default = next(iter(candidates))
        candidates[default]()  # raises its own error, unless that has passed
        return [default], failed
    long = max(_LONG * min(seconds.values()), 0.1) if device.type == "cpu" else float("inf")
    return [name for name in candidates if name in seconds and seconds[name] <= long], failed


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _place(device: torch.device) -> str:
    """What an answer depends on besides the question and the cache file's versions."""
    if device.type == "cuda":
        tf32 = torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.benchmark
        return f"{_device_name(device)}, conv {tf32[0]}, cudnn.benchmark {tf32[1]}"
    return f"{_device_name(device)}, {torch.get_num_threads()} threads"


@functools.cache
def _versions() -> dict[str, str]:
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
        digest = hashlib.sha256(json.dumps(_versions(), sort_keys=True).encode()).hexdigest()[:12]
        return cache_folder() / f"tuning-{device.type}-{digest}.json"
    except RuntimeError as error:
        _tell(f"no place for the tuning cache ({error}); set GANFAST_CACHE. Choices last for this process")
        return None


def _tell(message: str) -> None:
    if message not in _told:
        _told.add(message)
        print(f"ganfast: {message}", file=sys.stderr)


def _read(path: Path) -> dict[str, Choice]:
    """The file's choices; nothing, with a word, where it is damaged, and nothing where it is of other versions."""
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA or content["versions"] != _versions():
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
        _tell(f"the tuning cache cannot be read ({error}); tuning again")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _tell(f"the tuning cache {path} is damaged ({type(error).__name__}: {error}); starting a new one")
    return {}


def _load(path: Path | None) -> None:
    if path is not None and path not in _loaded:
        _loaded.add(path)
        for question, choice in _read(path).items():
            _choices.setdefault(question, choice)


def _save(path: Path | None, question: str, choice: Choice) -> None:
    """Adds one choice under a lock, through a temporary file: readers see the old file or the new one, writers lose nothing."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            choices = _read(path) | {question: choice}
            temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
            temporary.write_text(json.dumps({"schema": SCHEMA, "versions": _versions(), "choices": choices}, indent=1) + "\n")
            os.replace(temporary, path)
    except OSError as error:
        _tell(f"the tuning cache cannot be written ({error}); choices last for this process")


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


def report() -> str:
    """What `ganfast doctor --tuning` prints: where the caches lie and every choice in them."""
    lines = [f"tuning: {off_reason() or 'on'}; {len(_versions())} versions: " + ", ".join(f"{k} {v}" for k, v in _versions().items())]
    for kind in ("cpu", "cuda"):
        path = cache_file(torch.device(kind))
        if path is None:
            continue
        found = _read(path)
        lines.append(f"{path}: {len(found)} choices" + ("" if found else " of these versions"))
        for question, choice in sorted(found.items()):
            times = ", ".join(f"{name} {us:.0f}" for name, us in sorted(choice.microseconds.items(), key=lambda item: item[1]))
            lines.append(f"  {question}\n    -> {choice.name}  (microseconds: {times})")
            lines += [f"    {name} did not run: {why}" for name, why in choice.failed.items()]
    return "\n".join(lines)
