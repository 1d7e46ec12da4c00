"""What the trainer adds to a step: python -m benchmarks.loop_overhead [--width 64] [--batch 64] [--rounds 9] [--out FILE.json]

`bare` is the step of DCGAN-64 written by hand on the trainer's own networks, optimizers and data: batch, forwards, losses, backwards, Adam.
`trainer` is Trainer.step: the same with phases, the guard against gradients that are not finite, their norms, the averaged generator and
the meters. The two take turns in one process; the overhead is the ratio of their medians less 1. A log line, with its alarms, comes
once in log_every steps and is timed apart. `parts` is what the guard, the norms and the average take by themselves: milliseconds that
the noise of two whole steps hides.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

import ganfast.functional as GF
from benchmarks.machine import commit, device_name
from ganfast._timing import interleaved_medians
from ganfast.train import Trainer
from ganfast.train.command_line import recipes
from ganfast.train.command_line.recipes import Recipe


def bare(trainer: Trainer) -> None:
    generator, discriminator, optimizers = trainer.generator, trainer.discriminator, trainer.optimizers
    real, _ = trainer.source.open(trainer.source.next(), trainer.draws)
    latent = trainer.draws.normal(len(real), *trainer.latent_shape)
    with trainer.precision.autocast():
        fake = generator(latent)
        loss_d = GF.discriminator_loss(discriminator(real), discriminator(fake.detach()))
    optimizers["discriminator"].zero_grad()
    loss_d.backward()
    optimizers["discriminator"].step()
    spared = set(discriminator.parameters()) - set(generator.parameters())
    for p in spared:
        p.requires_grad_(False)
    with trainer.precision.autocast():
        loss_g = GF.generator_loss(discriminator(fake))
    optimizers["generator"].zero_grad()
    loss_g.backward()
    optimizers["generator"].step()
    for p in spared:
        p.requires_grad_(True)


def parts(trainer: Trainer, rounds: int = 15) -> float:
    """Seconds of both guarded optimizer steps with the average, less those of the bare ones."""
    updates, optimizers = trainer.updates, trainer.optimizers

    def guarded() -> None:
        with updates.guard as guard:
            guard.step(optimizers["discriminator"])
            guard.step(optimizers["generator"], ema=updates.averages["generator"], decay=0.999)

    def plain() -> None:
        for optimizer in optimizers.values():
            optimizer.step()

    seconds = interleaved_medians({"guarded": guarded, "plain": plain}, rounds)
    return seconds["guarded"] - seconds["plain"]


def measure(precision: str, width: int, batch: int, rounds: int, folder: str) -> dict:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (512, 3, 64, 64), dtype=torch.uint8)
    sizes = {"image_size": 64, "channels": 3, "latent_dim": 100, "width": width, "condition": "none", "noise": 0.0}
    config = Recipe(run_dir=f"{folder}/{precision}", batch_size=batch, precision=precision, sample_every=0, **sizes)
    trainer = Trainer(*recipes.networks(config, 0), images, config)
    seconds = interleaved_medians({"bare": lambda: bare(trainer), "trainer": trainer.step}, rounds)
    alone = parts(trainer)
    lines = []
    for _ in range(3):
        trainer.step()
        start = time.perf_counter()
        trainer.log()
        lines.append(time.perf_counter() - start)
    line = statistics.median(lines)
    share = line / config.log_every / seconds["bare"]
    found = {"precision": precision, "seconds": seconds, "overhead": seconds["trainer"] / seconds["bare"] - 1}
    return found | {"parts_seconds": alone, "parts_share": alone / seconds["bare"], "log_line_seconds": line, "log_lines_share": share}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop_overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=None)
    wanted = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            row = measure(precision, wanted.width, wanted.batch, wanted.rounds, folder)
            rows.append(row)
            s = row["seconds"]
            print(
                f"DCGAN-64, width {wanted.width}, batch {wanted.batch}, {precision}: bare {s['bare'] * 1e3:.1f} ms, trainer "
                f"{s['trainer'] * 1e3:.1f} ms, overhead {row['overhead']:+.1%}, of it the parts {row['parts_share']:.2%}; "
                f"a log line {row['log_line_seconds'] * 1e3:.0f} ms, "
                f"{row['log_lines_share']:.2%} of the steps between two",
                flush=True,
            )
    if wanted.out:
        about = {"commit": commit(), "device": device_name(), "width": wanted.width, "batch": wanted.batch, "rows": rows}
        wanted.out.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
