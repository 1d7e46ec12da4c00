"""The known answers, whole: both mixtures over seeds, by the presets of `ganfast train`, and the theory on a line.

    python -m benchmarks.prove [--results benchmarks/results] [--pictures docs] [--seeds 5] [--threads 1] [--only ring8 grid25 line]

Prints as it goes; writes prove-<device>-<date>.json with every number, and known-answers.png. Exit status 1 where a mean misses its
target. A generator is measured once, at the end, on 2,500 samples of one seed; no checkpoint is chosen by its score.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine, results_file
from ganfast.train.command_line import presets, recipes
from ganfast.train.known_answers import densities, mixtures
from ganfast.train.watch import grids

SAMPLES = 2500
SECONDS = 240  # a run may take
# Lin et al. 2018, "PacGAN", table 1, its best rows.
PUBLISHED = {
    "ring8": {"modes": 7.9, "within_3_sigma": 0.956, "reverse_kl": 0.07},
    "grid25": {"modes": 24.8, "within_3_sigma": 0.936, "reverse_kl": 0.04},
}
TARGETS = {
    "ring8": {"modes": 8.0, "within_3_sigma": 0.95, "reverse_kl": 0.02},
    "grid25": {"modes": 25.0, "within_3_sigma": 0.92, "reverse_kl": 0.02},
    "line": {"error": 0.01, "value_gap": 0.002, "js": 0.01},
}
AT_LEAST = ("modes", "within_3_sigma")  # of others less is better


def learn_mixture(name: str, seed: int) -> tuple[dict, Tensor]:
    """The preset's whole run, its pictures, measurements and checkpoints in the time."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = recipes.trainer(presets.preset(name, run_dir=f"{folder}/run", device="cpu", seed=seed))
        trainer.fit(progress_bar=False)
    points = trainer.sample(SAMPLES, seed=1)
    speed = {"seconds": trainer.seconds, "steps": trainer.steps, "steps_per_second": trainer.steps / trainer.seconds}
    return {"seed": seed, **mixtures.MIXTURES[name].measure(points), **speed}, points


def learn_line(seed: int) -> tuple[dict, dict]:
    """error: the discriminator's distance from p / (p + q); value_gap: of the game's V from -log 4."""
    p, q = densities.DATA.density(), densities.FIXED.density()
    d = densities.logits_of(densities.fit_discriminator(seed=seed)).sigmoid()
    trainer, rows = densities.play(seed=seed)
    found = {"seed": seed, "error": densities.mean_error(p, q, d), "value_gap": abs(rows[-1]["value"] - densities.EQUILIBRIUM)}
    return found | rows[-1] | {"seconds": trainer.seconds}, {"p": p, "q": q, "d": d, "rows": rows}


def verdict(name: str, rows: list[dict]) -> dict:
    """Means over the seeds, whether each reached its target, and whether every run kept to its time."""
    means = {key: statistics.fmean(row[key] for row in rows) for key in TARGETS[name]}
    reached = {key: means[key] >= goal if key in AT_LEAST else means[key] <= goal for key, goal in TARGETS[name].items()}
    reached["seconds"] = max(row["seconds"] for row in rows) <= SECONDS
    return {"runs": rows, "mean": means, "target": TARGETS[name], "published": PUBLISHED.get(name), "reached": reached}


def draw(path: Path, points: dict[str, Tensor], line: dict, seed: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9), layout="constrained")
    (ring, grid), (left, right) = figure.subplots(2, 2)
    for axes, (name, fake) in zip((ring, grid), points.items()):
        real = mixtures.MIXTURES[name].sample(SAMPLES, torch.Generator().manual_seed(seed))
        grids.draw_points(axes, fake, real, f"{name}: {SAMPLES} samples")
    densities.draw_discriminator(left, line["p"], line["q"], line["d"])
    densities.draw_game(right, line["rows"])
    fields = grids.about("MLPGenerator, ganfast's presets ring8 and grid25; MLPGenerator on a line", seed)
    figure.savefig(path, format="png", dpi=110, metadata=fields)


def words(row: dict) -> str:
    return "  ".join(f"{key} {value:.5g}" for key, value in row.items())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--pictures", type=Path, default=Path("docs"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch; networks this small gain nothing from a second")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="no picture without all of them")
    asked = parser.parse_args(arguments)
    for folder in (asked.results, asked.pictures):
        results_file.check_writable(folder)
    torch.set_num_threads(asked.threads)
    facts = machine.facts()
    found = {name: facts[name] for name in ("device", "kind", "versions", "commit")} | {"date": str(datetime.date.today())}
    print(f"{found['device']}, commit {found['commit']}", flush=True)
    shown: dict = {}
    for name in asked.only:
        rows = []
        for seed in range(asked.seeds):
            row, made = learn_line(seed) if name == "line" else learn_mixture(name, seed)
            rows.append(row)
            shown.setdefault(name, made)  # of the first seed, not of the best
            print(f"{name}: {words(row)}", flush=True)
        found[name] = verdict(name, rows)
        missed = [key for key, good in found[name]["reached"].items() if not good]
        print(
            f"{name}, mean of {asked.seeds}: {words(found[name]['mean'])}; {'MISSED ' + ', '.join(missed) if missed else 'reached'}",
            flush=True,
        )
    # A part gives no picture and is told apart by its name, so that it does not stand for the whole.
    part = "" if len(shown) == len(TARGETS) else "-" + "-".join(asked.only)
    path = results_file.write(asked.results, f"prove{part}-{results_file.stem(found)}.json", json.dumps(found, indent=1) + "\n")
    if not part:
        line = shown.pop("line")
        draw(asked.pictures / "known-answers.png", shown, line, seed=0)
    print(f"written: {path}", flush=True)
    return 0 if all(all(found[name]["reached"].values()) for name in asked.only) else 1


if __name__ == "__main__":
    sys.exit(results_file.guarded(main, "prove"))
