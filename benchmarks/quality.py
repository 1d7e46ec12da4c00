"""Quality against time: DCGAN, StyleGAN2 and R3GAN on the digits and on drawn portraits, 32x32, by `ganfast train`'s presets of the digits.

    python -m benchmarks.quality [--results benchmarks/results] [--seeds 3] [--first 1000] [--seconds 480] [--only digits/stylegan2 ...]

Each run has `--seconds` of training, two at a time, one thread each. Its averaged generator is kept at an eighth, a quarter, half and the
whole of that, and measured afterwards, on 1,000 samples: no checkpoint is chosen by its score. Precision and recall (k = 3, averages over
8x8 fields) are against the images it learned from. Writes quality-<device>-<date>.json. Exit status 1 where a run failed or a goal is
missed.
"""

import argparse
import copy
import datetime
import json
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks import machine, mixed_styles, results_file
from ganfast.systems.sources import portraits
from ganfast.train import Callback, Trainer
from ganfast.train.command_line import presets, recipes
from ganfast.train.data import ImageData, digits
from ganfast.train.parts import to_float
from ganfast.train.watch import metrics

DATA, MODELS, SHARES = ("digits", "portraits"), ("dcgan", "stylegan2", "r3gan"), (0.125, 0.25, 0.5, 1.0)
SAMPLES, PORTRAITS, PROCESSES = 1000, 3000, 2
GOALS = {"digits/stylegan2": {"precision": 0.70, "recall": 0.70}}  # at the end
DCGAN = {"portraits": {"noise": 0.4, "width": 16}}  # as the system of that name has it


def data_of(name: str) -> ImageData:
    if name == "digits":
        return digits(32)
    images, _ = portraits.pictures(PORTRAITS, seed=0, size=32)
    return ImageData(images, torch.zeros(len(images), dtype=torch.int64), [""])


class Kept(Callback):
    """Copies of the averaged generator when these shares of the time have passed; the log's path lengths' deviation."""

    def __init__(self, seconds: float) -> None:
        self.waiting, self.kept, self.deviations = [share * seconds for share in SHARES[:-1]], [], []

    def on_log(self, trainer: Trainer, row: dict) -> None:
        self.deviations += [row["path_deviation"]] if "path_deviation" in row else []

    def on_step(self, trainer: Trainer) -> None:
        while self.waiting and trainer.seconds >= self.waiting[0]:
            self.waiting.pop(0)
            self.on_end(trainer)

    def on_end(self, trainer: Trainer) -> None:
        self.kept.append((trainer.steps, trainer.seconds, copy.deepcopy(trainer.ema.state_dict())))


def learn(job: tuple[str, str, int, float]) -> dict:
    """One run: figures at each share of its time."""
    name, model, seed, seconds = job
    torch.set_num_threads(1)
    data = data_of(name)
    settings = {"device": "cpu", "seed": seed, "max_seconds": seconds, "run_dir": None, "steps": 10**6, "channels": data.images.shape[1]}
    settings |= DCGAN.get(name, {}) if model == "dcgan" else {}
    recipe = presets.preset("digits", model, 32, **settings, condition="vector" if name == "digits" else "none")
    classes = len(data.classes) if name == "digits" else 0
    kept = Kept(seconds)
    given = {"condition": recipes.condition_of(recipe, classes), "callbacks": [kept]}
    trainer = Trainer(*recipes.networks(recipe, classes), data, recipe, **given)
    trainer.fit(progress_bar=False)
    real, points = metrics.pixels8(to_float(data.images)), []
    for steps, spent, state in kept.kept:
        trainer.ema.load_state_dict(state)
        fakes = trainer.sample(SAMPLES, seed=1)
        precision, recall = metrics.precision_recall(real, metrics.pixels8(fakes))
        points.append({"steps": steps, "seconds": spent, "precision": precision, "recall": recall})
    run = {"seed": seed, "points": points}
    if model == "stylegan2":
        run["path_deviation"] = {"first": kept.deviations[0], "last": statistics.fmean(kept.deviations[-5:])}
    if model == "stylegan2" and name == "digits":
        run["mixed"] = mixed_styles.figures(trainer.sampler(), metrics.train_reader(to_float(data.images), data.labels))
    others = [run[key] for key in ("mixed", "path_deviation") if key in run]
    print(f"{name}/{model}, seed {seed}: {'; '.join(map(words, points))}", *others, flush=True)
    return run


def words(point: dict) -> str:
    return f"{point['seconds']:.0f} s {point['steps']} steps precision {point['precision']:.3f} recall {point['recall']:.3f}"


def means(runs: list[dict]) -> list[dict]:
    """Of the runs' figures, share by share."""
    columns = zip(*(run["points"] for run in runs), strict=True)
    return [{key: statistics.fmean(point[key] for point in column) for key in column[0]} for column in columns]


def section(results: dict, link: str) -> str:
    """Markdown of a results file: a table, the seconds across."""
    cells, seconds = results["cells"], [share * results["seconds"] for share in SHARES]
    lines = [
        f"{results['device']}, {PROCESSES} runs at a time, commit {results['commit'][:12]}, {results['date']}: {link}.",
        f"Precision / recall after so many seconds, means over {len(next(iter(cells.values())))} seeds; at the end also the lowest.", "",
        f"| data | network | {' | '.join(f'{s:.0f} s' for s in seconds)} | steps | lowest |", f"|---|---|{'---:|' * (len(seconds) + 2)}",
    ]  # fmt: skip
    for name, runs in cells.items():
        found, last = means(runs), [run["points"][-1] for run in runs]
        end = found[-1]["steps"]
        low = " / ".join(f"{min(point[key] for point in last):.2f}" for key in ("precision", "recall"))
        row = [*name.split("/"), *(f"{point['precision']:.2f} / {point['recall']:.2f}" for point in found)]
        lines.append(f"| {' | '.join([*row, f'{end:.0f}', low])} |")
    wanting = "; ".join(missed(cells))
    goals = "; ".join(f"{name} {key} {goal:g}" for name, wanted in GOALS.items() for key, goal in wanted.items())
    lines += ["", *told(cells), "", f"Goals at the end: {goals}; path lengths' deviation falls; mixing changes what it should."]
    lines[-1] += f" Missed: {wanting}." if wanting else " All reached."
    return "\n".join(lines)


def told(cells: dict[str, list[dict]]) -> list[str]:
    """What mixed styles change, and how path lengths' deviation moved, in lines."""
    found = []
    for name, runs in cells.items():
        if all("path_deviation" in run for run in runs):
            first, last = (statistics.fmean(run["path_deviation"][at] for run in runs) for at in ("first", "last"))
            found.append(f"- {name}: path lengths' deviation over their mean goes from {first:.2f} to {last:.2f}.")
        if all("mixed" in run for run in runs):
            mean = {key: statistics.fmean(run["mixed"][key] for run in runs) for key in runs[0]["mixed"]}
            found.append(
                f"- {name}, mixed, styles up to 8x8 pixels of one picture and the others of another digit's: read as the one's digit"
                f" {mean['shape_of_coarse']:.2f}, as the other's {mean['shape_of_fine']:.2f}; thickness follows the one's by"
                f" {mean['strokes_of_coarse']:.2f}, the other's by {mean['strokes_of_fine']:.2f} (coefficients of a fit); pixels change by"
                f" {mean['changed_by_coarse']:.2f} where the coarse styles are exchanged, by {mean['changed_by_fine']:.2f} where the fine"
                " ones are."
            )
    return found


def missed(cells: dict[str, list[dict]]) -> list[str]:
    """Goals that the means over the seeds do not reach."""
    found = []
    for name, runs in cells.items():
        end = means(runs)[-1]
        found += [f"{name} {key}" for key, goal in GOALS.get(name, {}).items() if end[key] < goal]
        for key, goal in mixed_styles.GOALS.items() if all("mixed" in run for run in runs) else ():
            found += [f"{name} {key}"] if statistics.fmean(run["mixed"][key] for run in runs) < goal else []
        if all("path_deviation" in run for run in runs):
            falls = statistics.fmean(run["path_deviation"]["last"] - run["path_deviation"]["first"] for run in runs)
            found += [f"{name} path_deviation"] if falls >= 0 else []
    return found


def main(arguments: list[str] | None = None) -> int:
    names = [f"{data}/{model}" for data in DATA for model in MODELS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=1000, help="the first seed; others than those that settings were tried with")
    parser.add_argument("--seconds", type=float, default=480, help="of training, a run")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    asked = parser.parse_args(arguments)
    results_file.check_writable(asked.results)
    facts = machine.facts()
    found = {name: facts[name] for name in ("device", "kind", "versions", "commit")} | {"date": str(datetime.date.today())}
    found |= {"seconds": asked.seconds, "shares": SHARES, "cells": {name: [] for name in asked.only}}
    jobs = [(*name.split("/"), asked.first + i, asked.seconds) for name in asked.only for i in range(asked.seeds)]
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        for (data, model, *_), run in zip(jobs, pool.map(learn, jobs), strict=True):
            found["cells"][f"{data}/{model}"].append(run)
    wanting = missed(found["cells"])
    part = "" if asked.only == names else "-part"
    path = results_file.write(asked.results, f"quality{part}-{results_file.stem(found)}.json", json.dumps(found, indent=1) + "\n")
    print(f"written: {path}; {'MISSED ' + ', '.join(wanting) if wanting else 'goals reached'}\n\n{section(found, path.name)}", flush=True)
    return 1 if wanting else 0


if __name__ == "__main__":
    sys.exit(results_file.guarded(main, "quality"))
