"""No path of the convolutions reads or writes outside its tensors, or gives a wrong number: thousands of random calls.

    python -m benchmarks.prove_heap [--cases 20000] [--seed 0] [--first 0] [--jobs 2] [--results benchmarks/results]

Shapes of 1 to 3 dimensions, strides, dilations, groups, paddings, layouts, dtypes, one and two threads, every way to run each op
(`heap_cases.py`), to the second order: in processes under glibc's checking malloc, compared with float64. A process that ends early has
its cases halved until one ends it by itself. Case i of a seed is the same everywhere: `--seed 0 --first 1234 --cases 1` is that one
again. Writes prove-heap-<device>-<date>.json; exit status 1 where something was found.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, results_file
from benchmarks.heap_cases import Case, made

CHUNK = 250  # cases a process
SECONDS = 600  # a process may take: a call that never returns is a fault too
REPEAT = 20  # runs of a case that is looked at by itself: threads break a heap by chance
# The environment variable alone misses some overruns.
CHECKING = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "128"}


@dataclasses.dataclass
class Found:
    """`cases`: one; more where no smaller part of them ends a process by itself."""

    first: int  # index of the first of them
    what: str
    cases: list[Case]

    def __str__(self) -> str:
        shapes = "\n".join(f"  {self.first + i}: {case}" for i, case in enumerate(self.cases))
        return f"{self.what}, case{'s' if len(self.cases) > 1 else ''}\n{shapes}"


def checked(*command: str, given: str = "", seconds: float = SECONDS, **environment: str) -> subprocess.CompletedProcess:
    """Python under the checking malloc."""
    return subprocess.run(
        [sys.executable, *command], cwd=machine.ROOT, env={**os.environ, **CHECKING, **environment}, input=given, capture_output=True,
        text=True, timeout=seconds,
    )  # fmt: skip


def refusal() -> str | None:
    """Why heaps cannot be checked here; None where they can."""
    if sys.platform != "linux":
        return "needs Linux and glibc"
    done = checked("-c", "print('here')")
    return None if done.stdout == "here\n" and "cannot be preloaded" not in done.stderr else "needs glibc's libc_malloc_debug.so.0"


def _attempt(cases: list[Case], repeat: int) -> tuple[int | None, str, dict[int, str]]:
    """(the case at which the process ended, or None; how it ended; what is wrong with which case)"""
    given = json.dumps([dataclasses.asdict(case) for case in cases])
    with tempfile.TemporaryDirectory() as folder:  # the tuner's answers must not reach the next process
        try:
            done = checked("-m", "benchmarks.heap_cases", "--repeat", str(repeat), given=given, GANFAST_TUNE="1", GANFAST_CACHE=folder)
            out, ended = done.stdout, f"exit status {done.returncode}, {done.stderr.strip()[-300:] or 'no word'}"
        except subprocess.TimeoutExpired as error:
            out, ended = (error.stdout or b"").decode(), f"no end in {SECONDS} s"
    at, wrong = 0, {}
    for line in out.splitlines():
        word, _, rest = line.partition(" ")
        if word == "at":
            at = int(rest)
        elif word == "wrong":
            wrong[at] = rest
    return (None if out.endswith("sound\n") and done.returncode == 0 else at), ended, wrong


def look(cases: list[Case], first: int = 0, repeat: int = 1) -> list[Found]:
    """What is wrong with these cases; `first` is the index of the first of them."""
    found: list[Found] = []
    while cases:
        at, ended, wrong = _attempt(cases, repeat)
        found += [Found(first + i, text, [cases[i]]) for i, text in wrong.items()]
        if at is None:
            break
        # A heap broken by one case may end the process at a later one.
        start, stop = _halved(cases[: at + 1])
        found.append(Found(first + start, ended, cases[start:stop]))
        cases, first = cases[at + 1 :], first + at + 1
    return found


def _halved(cases: list[Case]) -> tuple[int, int]:
    """The smallest part [start, stop) found that ends a process."""
    start, stop = 0, len(cases)
    if _attempt(cases[-1:], REPEAT)[0] is not None:
        return stop - 1, stop
    while stop - start > 1:
        middle = (start + stop + 1) // 2
        if _attempt(cases[middle:stop], REPEAT)[0] is not None:
            start = middle
        elif _attempt(cases[start:middle], REPEAT)[0] is not None:
            stop = middle
        else:
            break
    return start, stop


def hunt(seed: int, first: int, cases: int, jobs: int, tell=lambda line: None) -> list[Found]:
    """Cases [first, first + cases) of the seed, in `jobs` processes at a time."""
    starts = range(first, first + cases, CHUNK)
    chunk = lambda start: look([made(seed, i) for i in range(start, min(start + CHUNK, first + cases))], start)
    found, done = [], 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for start, new in zip(starts, pool.map(chunk, starts)):
            found += new
            done = min(start + CHUNK, first + cases) - first
            for one in new:
                tell(str(one))
            tell(f"{done} of {cases} cases, {len(found)} found")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args(arguments)
    results_file.check_writable(asked.results)
    if reason := refusal():
        raise results_file.Unusable(f"heaps cannot be checked here: {reason}")
    facts, began = machine.facts(), time.monotonic()
    result = {name: facts[name] for name in ("device", "kind", "versions", "commit")} | {"date": str(datetime.date.today())}
    found = hunt(asked.seed, asked.first, asked.cases, asked.jobs, lambda line: print(line, flush=True))
    cases = [made(asked.seed, i) for i in range(asked.first, asked.first + asked.cases)]
    counts = collections.Counter(f"{case.op} {case.path} {case.dtype} {case.threads}t" for case in cases)
    result |= {"onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "")}  # what was kept from torch's convolutions, if anything
    result |= {"seed": asked.seed, "first": asked.first, "cases": asked.cases, "seconds": round(time.monotonic() - began)}
    result |= {"found": [dataclasses.asdict(one) for one in found], "counts": dict(sorted(counts.items()))}
    path = results_file.write(asked.results, f"prove-heap-{results_file.stem(result)}.json", json.dumps(result, indent=1) + "\n")
    print(f"{asked.cases} cases in {result['seconds']} s, {len(found)} found; written: {path}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(results_file.guarded(main, "prove_heap"))
