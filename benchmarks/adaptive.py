"""Few images: 200 of the digits, learned with ADA, without augmentation and with DiffAugment, over seeds, for equally many seconds.

    python -m benchmarks.adaptive [--results benchmarks/results] [--seeds 3] [--first 1000] [--seconds 160] [--threads 1] [--only none ada]

Writes adaptive-<device>-<date>.json with every run's numbers and its log. Exit status 1 where ADA's mean recall is not GOAL above that
without augmentation. Measured once, at the end: recall and precision of the averaged generator against the digits that no run saw,
by averages over 8x8 fields, as many fakes as there are of these.
"""

import argparse
import datetime
import json
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine, results_file
from ganfast.train import Trainer
from ganfast.train.command_line import presets, recipes
from ganfast.train.data import folders
from ganfast.train.parts import to_float
from ganfast.train.watch.metrics import pixels8, scores

IMAGES = 200  # that are learned from
GOAL = 0.1  # of recall, over no augmentation
# The digits are scans of 8x8 pixels: at 16x16, not the preset's 32x32, a CPU has the time to learn them by heart.
SETTINGS = {"run_dir": None, "device": "cpu", "image_size": 16, "width": 16, "steps": 10**6, "sample_every": 0}
# The paper's 500,000 images from p = 0 to 1 are a 50th of its runs; these see some 200,000 in all.
ARMS = {
    "none": {},
    "ada": {"augment": "ada", "ada_speed": 50_000},
    "diffaugment": {"augment": "color,translation,cutout"},
}
KEPT = ("step", "real_accuracy", "fake_accuracy", "ada_sign", "ada_p", "spread")


def halves(seed: int, size: int) -> tuple[Tensor, Tensor]:
    """uint8: the images learned from, another choice for each seed, and all others."""
    images = folders.digits(size).images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:IMAGES]], images[order[IMAGES:]]


def learn(arm: str, seed: int, seconds: float, **changes) -> dict:
    """`ganfast train --data digits` without classes, for so many seconds."""
    recipe = presets.preset("digits", seed=seed, condition="none", max_seconds=seconds, **SETTINGS | ARMS[arm] | changes)
    learned, held_out = halves(seed, recipe.image_size)
    log: list[dict] = []
    keep = lambda trainer, row: log.append({name: row[name] for name in KEPT if name in row})
    trainer = Trainer(*recipes.networks(recipe, 0), learned, recipe, callbacks=[keep])
    trainer.fit(progress_bar=False)
    if trainer.stopped:
        sys.exit(f"adaptive: {arm} with seed {seed} was stopped by {trainer.stopped}, and tells nothing")
    fakes = pixels8(trainer.sample(len(held_out), seed=1))
    found = scores(pixels8(to_float(held_out)), fakes) | {"seconds": trainer.seconds, "steps": trainer.steps}
    return {"seed": seed, **found, "p": log[-1].get("ada_p", 0.0), "log": log[:: max(1, len(log) // 40)]}


def verdict(arms: dict[str, list[dict]]) -> dict:
    """Means over the seeds, and whether ADA's recall is GOAL above that without augmentation; None where one of both was not run."""
    means = {arm: {key: statistics.fmean(row[key] for row in rows) for key in ("recall", "precision", "kid")} for arm, rows in arms.items()}
    gain = means["ada"]["recall"] - means["none"]["recall"] if {"ada", "none"} <= means.keys() else None
    return {"arms_over_seeds": means, "gain": gain, "goal": GOAL, "reached": None if gain is None else gain >= GOAL}


def section(content: dict, link: str) -> str:
    """The table of docs/benchmarks.md: each arm's mean over the seeds, and its seeds' recall."""
    c, seconds = content, f"{content['seconds']:.0f} s"
    lines = [
        f"{c['device']}, commit {c['commit'][:12]}, {c['date']}: {link}. {c['images']} images, {seconds} a run, means over the seeds.", "",
        "| augment | seeds | recall (of each seed) | precision | KID | steps | real logits' mean sign at the end | p at the end |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for arm, rows in c["adaptive"].items():
        of, mean = c["arms_over_seeds"][arm], lambda key, rows=rows: statistics.fmean(row[key] for row in rows)
        each = ", ".join(f"{row['recall']:.3f}" for row in rows)
        sign = statistics.fmean(2 * row["log"][-1]["real_accuracy"] - 1 for row in rows)
        numbers = f"{of['precision']:.3f} | {of['kid']:.4f} | {mean('steps'):.0f} | {sign:.2f} | {mean('p'):.2f}"
        lines.append(f"| {arm} | {len(rows)} | {of['recall']:.3f} ({each}) | {numbers} |")
    if c["gain"] is not None:
        met = "reached" if c["reached"] else "missed"
        lines += ["", f"ADA's recall over that without augmentation: {c['gain']:+.3f}; the goal is {c['goal']:+.1f}: {met}."]
    return "\n".join(lines)


def words(row: dict) -> str:
    return "  ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, int | float))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=1000, help="seed; the settings were tried with seed 0")
    parser.add_argument("--seconds", type=float, default=160.0, help="of training, for each run")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    asked = parser.parse_args(arguments)
    results_file.check_writable(asked.results)
    torch.set_num_threads(asked.threads)
    facts = machine.facts()
    found = {name: facts[name] for name in ("device", "kind", "versions", "commit")} | {"date": str(datetime.date.today())}
    print(f"{found['device']}, commit {found['commit']}", flush=True)
    runs: dict[str, list[dict]] = {arm: [] for arm in asked.only}
    for seed in range(asked.first, asked.first + asked.seeds):  # the arms in turn, so that what else the machine does falls on all of them
        for arm, rows in runs.items():
            rows.append(learn(arm, seed, asked.seconds))
            print(f"{arm}: {words(rows[-1])}", flush=True)
    found |= {"images": IMAGES, "seconds": asked.seconds, "adaptive": runs, **verdict(runs)}
    for arm, means in found["arms_over_seeds"].items():
        print(f"{arm}, mean of {asked.seeds}: {words(means)}", flush=True)
    if found["gain"] is not None:
        print(f"recall: {found['gain']:+.3f}, wanted {GOAL:+.3f}: {'reached' if found['reached'] else 'MISSED'}", flush=True)
    # A part is told apart by its name, so that it does not stand for the whole.
    part = "" if len(runs) == len(ARMS) else "-" + "-".join(asked.only)
    path = results_file.write(asked.results, f"adaptive{part}-{results_file.stem(found)}.json", json.dumps(found, indent=1) + "\n")
    print(f"written: {path}", flush=True)
    return 1 if found["reached"] is False else 0


if __name__ == "__main__":
    sys.exit(results_file.guarded(main, "adaptive"))
