"""Does a GAN help a classifier that has few labelled images? The system `augmentation` in every setting, over seeds, two runs at a time.

    python -m benchmarks.augmentation [--results benchmarks/results] [--seeds 5] [--first 1000]

Writes augmentation-<device>-<date>.json with every run's numbers. Exit status 1 where a run failed.
"""

import argparse
import datetime
import itertools
import json
import math
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks import gallery, machine, results_file
from ganfast.systems.augmentation import ARMS

SETTINGS = {
    "plain": (), "transfer": ("--transfer",), "permuted": ("--permuted",), "permuted, transfer": ("--permuted", "--transfer"),
}  # fmt: skip
PER_CLASS = (5, 20, 100)
# Student's t by the number of seeds, where 2.5 % lie above it.
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def chance(t: float, degrees: int) -> float:
    """Share of Student's t that lies at least as far from 0. Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(abs(t) / math.sqrt(degrees))
    if degrees == 1:
        return 1 - 2 * angle / math.pi
    start = 2 + degrees % 2
    terms = itertools.accumulate(range(start, degrees, 2), lambda term, i: term * (i - 1) / i * math.cos(angle) ** 2, initial=1.0)
    if degrees % 2 == 0:
        return 1 - math.sin(angle) * sum(terms)
    return 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * sum(terms))


def difference(runs: list[dict], gain: str) -> tuple[float, float, float]:
    """Of a gain over the seeds: mean, half of its 95 % interval, and how likely chance alone takes the mean so far from 0."""
    gains = [run["figures"][gain] for run in runs]
    mean, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
    return mean, T[len(gains)] * error, chance(mean / error, len(gains) - 1) if error else float(mean == 0)


def differences(cells: list[dict], gain: str) -> list[tuple[float, float, str]]:
    """Cell by cell the mean, half of its 95 % interval, and a word, helped, hurt or no difference: chance alone gives one of the first two
    anywhere among the cells at most five times in a hundred. Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    found, words = [difference(cell["runs"], gain) for cell in cells], ["no difference"] * len(cells)
    for left, (p, at) in zip(range(len(cells), 0, -1), sorted((p, at) for at, (*_, p) in enumerate(found))):
        if p > 0.05 / left:
            break
        words[at] = "helped" if found[at][0] > 0 else "hurt"
    return [(mean, half, word) for (mean, half, _), word in zip(found, words)]


def verdict(cells: list[dict], gain: str) -> str:
    """helped in transfer with 5 (+1.2); no difference in plain with 5 (+0.1), ...; hurt nowhere"""
    found = {"helped": [], "no difference": [], "hurt": []}
    for cell, (mean, _, word) in zip(cells, differences(cells, gain)):
        found[word].append(f"{cell['setting']} with {cell['per_class']} ({100 * mean:+.1f})")
    return "; ".join(f"{word} in {', '.join(places)}" if places else f"{word} nowhere" for word, places in found.items())


def section(results: dict, link: str) -> str:
    """Markdown of a results file."""
    cells, seeds = results["cells"], len(results["cells"][0]["runs"])
    added = {
        "classical added to real": "gain of classical", "GAN added to real": "gain", "GAN in place of classical": "gain against classical",
        "GAN added to classical": "gain over classical",
    }  # fmt: skip
    lines = [
        f"{results['device']}, {results['processes']} runs at a time, {results['seconds'] / 60:.0f} minutes in all, commit",
        f"{results['commit'][:12]}, {results['date']}: {link}. Accuracy in %, means over {seeds} seeds; what was added",
        "in points, with its 95 % interval (Student's t, of the seeds' paired differences). Words are corrected for the",
        f"column's {len(cells)} rows (Holm): where nothing makes a difference anywhere, a column has a *helped* or *hurt* by chance",
        "at most 1 time in 20.",
        "",
        f"- **The GAN's images, added to real ones: {verdict(cells, 'gain')}.**",
        f"- **In place of classical augmentation: {verdict(cells, 'gain against classical')}.**",
        f"- **Added to classical augmentation: {verdict(cells, 'gain over classical')}.**", "",
        f"| setting | real images a class | {' | '.join([*ARMS, *added])} |", f"|---|---:|{'---:|' * len(ARMS)}{'---|' * len(added)}",
    ]  # fmt: skip
    columns = zip(*(differences(cells, gain) for gain in added.values()))
    for cell, found in zip(cells, columns):
        row = [cell["setting"], str(cell["per_class"])]
        row += [f"{100 * statistics.fmean(run['figures'][arm] for run in cell['runs']):.1f}" for arm in ARMS]
        row += [f"{100 * mean:+.1f} ± {100 * half:.1f}, {word}" for mean, half, word in found]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=Path, default=Path("runs/augmentation"), help="for the runs and logs; those of the same seed go")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each setting, 2 to 10")
    parser.add_argument("--first", type=int, default=1000, help="the first seed; others than those that settings were tried with")
    parser.add_argument("options", nargs="*", help="after --: options that every run gets")
    asked = parser.parse_args(arguments)
    if asked.seeds not in T:
        parser.error(f"--seeds got {asked.seeds}, wants 2 to 10")
    for folder in (asked.results, asked.runs):
        results_file.check_writable(folder)
    torch.set_num_threads(1)
    facts, began = machine.facts(), time.monotonic()
    cells = [{"setting": setting, "per_class": count, "runs": []} for setting in SETTINGS for count in PER_CLASS]

    def run(job: tuple[dict, int]) -> dict | str:
        cell, seed = job
        row = ("augmentation", *SETTINGS[cell["setting"]], "--per-class", str(cell["per_class"]))
        return gallery.run(row, " ".join(row), seed, asked.runs, asked.options)

    jobs = [(cell, seed) for cell in cells for seed in range(asked.first, asked.first + asked.seeds)]
    with ThreadPoolExecutor(gallery.PROCESSES) as pool:
        for (cell, _), found in zip(jobs, pool.map(run, jobs), strict=True):
            cell["runs"].append(found)
    if any(isinstance(found, str) for cell in cells for found in cell["runs"]):
        return 1
    whole = {name: facts[name] for name in ("device", "kind", "versions", "commit")} | {
        "date": str(datetime.date.today()), "processes": gallery.PROCESSES, "seconds": time.monotonic() - began, "arms": list(ARMS),
        "cells": cells,
    }  # fmt: skip
    path = results_file.write(asked.results, f"augmentation-{results_file.stem(whole)}.json", json.dumps(whole, indent=1) + "\n")
    print(f"written: {path}\n\n{section(whole, path.name)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(results_file.guarded(main, "augmentation"))
