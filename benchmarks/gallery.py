"""The gallery: every system of ganfast.systems trained, measured and drawn over seeds, two single-threaded runs at a time.

    python -m benchmarks.gallery [--results benchmarks/results] [--pictures docs/gallery] [--seeds 1] [--first 1000] [--only NAME ...]

Writes gallery-<device>-<date>.json with every number, and the picture of the first seed, not of the best. Of systems that are left out the
newest file has the word, whatever device it is of: each row says its own. Exit status 1 where a run failed or a mean missed its goal.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks import gallery_table, machine, results_file
from ganfast import systems
from ganfast.systems import form, running
from ganfast.systems.form import System

PROCESSES = 2
MORE = (("text-to-image", "--data", "portraits"),)  # rows of other data that a system brings, as `ganfast run` takes them


def run(row: tuple[str, ...], title: str, seed: int, folder: Path, options: list[str]) -> dict | str:
    """What result.json of the run says; the last line of its log where it failed. An earlier run of that seed is replaced."""
    place = folder / f"{gallery_table.file_of(title)}-seed{seed}"
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{place.name}.log"
    command = [sys.executable, "-m", "ganfast", "run", row[0], "--run-dir", str(place), "--seed", str(seed), *options, *row[1:]]
    with open(log, "w") as file:
        variables = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=variables, check=False)
    if done.returncode or not (place / running.RESULT).exists():
        lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), f"exit status {done.returncode}")
        print(f"{place.name} FAILED: {reason}", flush=True)
        return reason
    result = json.loads((place / running.RESULT).read_text())
    print(f"{place.name}: {result['seconds']:.0f} s, {words(result['figures'])}", flush=True)
    return result


def words(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def summed_up(system: System, runs: list[dict], facts: dict) -> dict:
    """Means over the seeds, and which goals they reach."""
    names = runs[0]["figures"]
    mean = {name: statistics.fmean(one["figures"][name] for one in runs) for name in names}
    return {
        "does": system.does, "credit": runs[0]["credit"], "goals": runs[0]["goals"], "mean": mean,
        "reached": form.reached(mean, runs[0]["goals"]), "seconds": statistics.fmean(one["seconds"] for one in runs), "runs": runs, **facts,
    }  # fmt: skip


def told(name: str, found: dict) -> str:
    missed = [key for key, good in found["reached"].items() if not good]
    how = f"MISSED {', '.join(missed)}" if missed else "reached" if found["reached"] else "no goals"
    return f"{name}, mean of {len(found['runs'])}: {words(found['mean'])}; {how}"


def newest(folder: Path) -> dict:
    """The systems of the newest file, each with the device it was measured on; none without one."""
    found = sorted(folder.glob("gallery-*.json"), key=lambda path: (path.stem[-len("2026-01-31") :], path.name))
    if not found:
        return {}
    whole = results_file.load_json(found[-1])
    return {name: {"device": whole["device"]} | row for name, row in whole["systems"].items()}


def ordered(found: dict[str, dict]) -> dict[str, dict]:
    """Rows in the order of the systems' names, those of users' own files last."""
    order = {name: place for place, name in enumerate(systems.NAMES)}
    return {title: found[title] for title in sorted(found, key=lambda title: order.get(title.split()[0], len(order)))}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/gallery"))
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"), help="for the runs and their logs; those of the same seed go")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each system")
    parser.add_argument("--first", type=int, default=1000, help="the first seed; others than those that settings were tried with")
    parser.add_argument("--only", nargs="+", default=list(systems.NAMES), metavar="NAME", help="these systems alone, with all their rows")
    parser.add_argument("options", nargs="*", help="after --: options that every run gets")
    asked = parser.parse_args(arguments)
    if not asked.only:
        print("there are no systems yet")
        return 0
    for folder in (asked.results, asked.pictures, asked.runs):
        results_file.check_writable(folder)
    torch.set_num_threads(1)
    facts = machine.facts()
    date, rows = str(datetime.date.today()), [row for name in asked.only for row in ((name,), *MORE) if row[0] == name]
    loaded = {row: systems.load(row[0]) for row in rows}
    titles = {row: " ".join([system.name, *row[1:]]) for row, system in loaded.items()}
    jobs = [(row, titles[row], seed) for row in rows for seed in range(asked.first, asked.first + asked.seeds)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(lambda job: run(*job, asked.runs, asked.options), jobs))
    found, failed = newest(asked.results), []
    for row, system in loaded.items():
        title, runs = titles[row], [result for job, result in zip(jobs, results, strict=True) if job[0] == row]
        if any(isinstance(result, str) for result in runs):
            failed.append(title)
            continue
        found[title] = summed_up(system, runs, {"commit": facts["commit"], "date": date, "device": facts["device"]})
        name = gallery_table.file_of(title)
        shutil.copy(asked.runs / f"{name}-seed{asked.first}" / running.PICTURE, asked.pictures / f"{name}.png")
        print(told(title, found[title]), flush=True)
    if len(failed) == len(loaded):
        return 1
    whole = {name: facts[name] for name in ("device", "kind", "versions", "commit")} | {
        "date": date,
        "processes": PROCESSES,
        "systems": ordered(found),
    }
    path = results_file.write(asked.results, f"gallery-{results_file.stem(whole)}.json", json.dumps(whole, indent=1) + "\n")
    print(f"written: {path}", flush=True)
    return 0 if not failed and all(all(found[title]["reached"].values()) for title in titles.values()) else 1


if __name__ == "__main__":
    sys.exit(results_file.guarded(main, "gallery"))
