"""The tuner behind `auto`: of a few ways to run one op on one shape, the one that was fastest on this machine.

Lazy: a question is measured the first time it is asked, on the caller's own tensors, and answered from memory and disk after
that. The default (the static rule) is always a candidate and wins ties, so a choice is never slower than it beyond noise.
"""

import contextlib
import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ganfast import _native, _timing, _tune_cache, _tune_check
from ganfast._memo import Memo
from ganfast._place import place
from ganfast._tell import tell
from ganfast._tune_cache import Choice

MOST = 6  # candidates a question
MARGIN = 0.03  # the default stays unless another is faster by more: below that, noise decides
_ROUNDS, _SECONDS = 5, 0.25  # per question: that many rounds, none begun after that many seconds
_MOST_ROUNDS, _SPREAD = 40, 0.03  # short calls: more rounds, over so many seconds that a bad moment does not fill them
_HOPELESS = 1.5  # times the best after the first round: not run again
_LONG = 5.0  # times the fastest first call, and 100 ms (libraries initialise): not even that
MOST_SHAPES = 8  # questions a family: sizes that are new with every call must not be measured for ever

_choices: dict[str, Choice] = {}  # question -> choice, of this process and the cache file
_answers: dict[str, str] = {}  # question -> what this process runs, or the run it goes on with ran
_families: dict[str, dict[str, str]] = {}  # what a question is about but for the size of x -> its questions' answers
_loaded: set[Path] = set()
_lock = threading.RLock()  # models run in threads, and one candidate may ask a question of its own


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


def choose(
    question: str,
    candidates: Mapping[str, Callable[[], object]],
    x: torch.Tensor,
    family: str = "",
    check: _tune_check.Check | None = None,
    margin: float = MARGIN,
) -> tuple[str, bool]:
    """(name of the candidate to run, whether that is final). `candidates`: at most MOST calls without side effects, the default
    first; `question` is op, pass, shapes, dtype, layout: all but the machine, which is added here. x: a tensor the calls read.
    `family`: the question without the size of x; from its MOST_SHAPES-th question on the commonest earlier answer is taken.
    `check` sees what each first call gave; where all are wrong the answer is its fallback. `margin`: by what share of the default's
    time another one must be faster.

    Raises: ValueError for more than MOST candidates; what the default raises, where every candidate fails.
    """
    if len(candidates) > MOST:
        raise ValueError(f"choose: {len(candidates)} candidates for {question}, at most {MOST}")
    default = next(iter(candidates))
    if len(candidates) == 1 or off_reason():
        return default, True
    with _lock:
        where = place(x.device)
        question, family = f"{question} | {where}", f"{family or question} | {where}"
        fallback = (check and check.fallback) or default
        if _answers.get(question) in (*candidates, fallback):
            return _answers[question], True
        path = _tune_cache.cache_file(x.device)
        _load(path)
        known, answers = _choices.get(question), _families.setdefault(family, {})
        if known is not None and known.name in (*candidates, fallback):
            _answers[question] = known.name
            if len(answers) < MOST_SHAPES:  # a full family stays as it is, so that what follows from it does
                answers[question] = known.name
            return known.name, True
        if _must_not_measure(x):
            return default, False
        if len(answers) >= MOST_SHAPES:
            right = [name for name in candidates if name not in _wrong(answers)]
            others = () if fallback in candidates else (fallback,)
            common = (name for name, _ in Counter(answers.values()).most_common() if name in (*right, *others))
            return next(common, right[0] if right else fallback), True
        choice = _measure(question, candidates, x.device, check, margin)
        if any(why.startswith("OutOfMemoryError") for why in choice.failed.values()):
            return choice.name, False  # with more memory free another one may win
        _choices[question] = choice
        _answers[question] = answers[question] = choice.name
        _tune_cache.save(path, question, choice)
        return choice.name, True


def settled(question: str, x: torch.Tensor) -> str | None:
    """The answer that this process, or the run it goes on with, has to a question of `choose`; None where it was not asked."""
    return _answers.get(f"{question} | {place(x.device)}")


def settle(question: str, name: str, x: torch.Tensor, family: str) -> None:
    """An answer that was found without measuring: it stands while this process runs, and in a run that goes on."""
    if not off_reason():
        with _lock:
            where = place(x.device)
            _answers[f"{question} | {where}"] = name
            _families.setdefault(f"{family} | {where}", {})[f"{question} | {where}"] = name


def chosen() -> dict[str, Choice]:
    """Every choice of this process and of the cache file of the devices it asked about."""
    with _lock:
        return dict(_choices)


def choices() -> dict:
    """What this process runs, in strings and dicts, for `adopt` in a process that must compute the same bits."""
    with _lock:
        families = {family: dict(answers) for family, answers in _families.items()}
        return {"off": off_reason() or "", "answers": dict(_answers), "families": families}


def together(earlier: dict, later: dict) -> dict:
    """Two results of `choices` as one; the later stands where they differ."""
    families = {family: earlier["families"].get(family, {}) | answers for family, answers in later["families"].items()}
    return {"off": later["off"], "answers": earlier["answers"] | later["answers"], "families": earlier["families"] | families}


def answered() -> int:
    """How many questions this process has an answer to: a number that grows with every choice, cheap enough to ask for at each step."""
    return len(_answers)


def adopt(choices: dict) -> None:
    """From now on these answers stand before the cache file's and before measuring, where a question is the same: the same device,
    threads and switches among others. What was settled for earlier calls is asked again."""
    here = off_reason() or ""
    if bool(here) != bool(choices["off"]):
        was, now = (f"off ({reason})" if reason else "on" for reason in (choices["off"], here))
        tell(f"tuning is {now}, in the run that goes on it was {was}: kernels may differ, and the last digits with them")
    with _lock:
        _answers.update(choices["answers"])
        for family, answers in choices["families"].items():
            _families[family] = _families.get(family, {}) | answers
        Memo.forget_all()


def _wrong(questions: Iterable[str]) -> set[str]:
    """The candidates that gave wrong results for one of these."""
    found = [_choices[question].failed for question in questions if question in _choices]
    return {name for failed in found for name, why in failed.items() if why.startswith(_tune_check.WRONG)}


def _measure(question: str, candidates: Mapping[str, Callable[[], object]], device: torch.device, check, margin: float) -> Choice:
    guard = _tune_check.Guard(check, question)
    with torch.no_grad(), _on(device):
        alive, failed = _first_calls(candidates, device, guard)
        if wrong := guard.wrong():
            left = [name for name in candidates if name not in wrong and name not in failed]
            last = None if left else check.fallback or next(iter(candidates))
            if last is not None and last not in wrong and (why := guard.fallback_off()):
                wrong[last] = why
            _tune_check.warn(question, wrong, left, last)
            failed |= {name: f"{_tune_check.WRONG}: {why}" for name, why in wrong.items()}
            if last is not None:
                return Choice(last, {}, failed | guard.failed)
            alive = [name for name in alive if name in left] or left
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
    if default in fastest and fastest[winner] > (1 - margin) * fastest[default]:
        winner = default
    return Choice(winner, {name: round(seconds * 1e6, 1) for name, seconds in fastest.items()}, failed | guard.failed)


def _first_calls(candidates: Mapping[str, Callable[[], object]], device: torch.device, guard) -> tuple[list[str], dict[str, str]]:
    """(those worth timing, why others are not), each called once: compilers run side by side, torch's own kernels alone."""
    guard.prepare()
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    on_stream = contextlib.nullcontext
    if device.type == "cuda":  # a thread of the pool has the default stream, not the caller's
        on_stream = functools.partial(torch.cuda.stream, torch.cuda.current_stream(device))

    def attempt(name: str) -> None:
        try:
            with torch.no_grad(), _on(device), on_stream():
                _bind(device)
                known = len(_choices)
                began = time.perf_counter()
                result = candidates[name]()
                took = time.perf_counter() - began
                guard.see(name, result)
                del result
                if len(_choices) > known:  # it asked a question of its own, whose measuring is no part of its time
                    began = time.perf_counter()
                    candidates[name]()
                    took = time.perf_counter() - began
        except Exception as error:  # whatever a candidate cannot do rules out that candidate alone
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            seconds[name] = took

    compiled = [name for name in candidates if name.startswith("triton/")]
    for name in candidates:
        if name not in compiled:
            attempt(name)
    if compiled:
        with ThreadPoolExecutor(len(compiled)) as pool:
            list(pool.map(attempt, compiled))
        for name in [name for name in compiled if name in failed]:  # what a thread of the pool lacked, the caller's may have
            del failed[name]
            attempt(name)
    if not seconds:
        default = next(iter(candidates))
        candidates[default]()  # raises its own error, unless that has passed
        return [default], failed
    long = max(_LONG * min(seconds.values()), 0.1) if device.type == "cpu" else float("inf")
    return [name for name in candidates if name in seconds and seconds[name] <= long], failed


def _bind(device: torch.device) -> None:
    """Makes the device's context this thread's: a new thread has none before its first call into CUDA's runtime, and Triton's encoder of
    tensor maps, which is no such call, fails without."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).query()


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _load(path: Path | None) -> None:
    if path is not None and path not in _loaded:
        _loaded.add(path)
        for question, choice in _tune_cache.read(path).items():
            _choices.setdefault(question, choice)


def report() -> str:
    """What `ganfast doctor --tuning` prints: where the caches lie and every choice in them."""
    versions = _tune_cache.versions()
    lines = [f"tuning: {off_reason() or 'on'}; {len(versions)} versions: " + ", ".join(f"{k} {v}" for k, v in versions.items())]
    for kind in ("cpu", "cuda"):
        path = _tune_cache.cache_file(torch.device(kind))
        if path is None:
            continue
        found = _tune_cache.read(path)
        lines.append(f"{path}: {len(found)} choices" + ("" if found else " of these versions"))
        for question, choice in sorted(found.items()):
            times = ", ".join(f"{name} {us:.0f}" for name, us in sorted(choice.microseconds.items(), key=lambda item: item[1]))
            lines.append(f"  {question}\n    -> {choice.name}  (microseconds: {times})")
            for name, why in choice.failed.items():
                verb = "is not used" if why.startswith(_tune_check.WRONG) else "did not run"
                verb = "runs, as no way is right" if name == choice.name else verb
                lines.append(f"    {name} {verb}: {why}")
    return "\n".join(lines)
