"""`python -m ganfast.demo`: eager against ganfast, then a conditional DCGAN on real digits in minutes, with a report."""

import argparse
import copy
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import ganfast
from ganfast._timing import interleaved_medians
from ganfast.models import DCGANGenerator
from ganfast.train import Trainer
from ganfast.train.command_line import presets, recipes
from ganfast.train.command_line.recipes import Recipe
from ganfast.train.data.folders import digits
from ganfast.train.parts import to_float
from ganfast.train.precision import Precision
from ganfast.train.saving import checkpoint
from ganfast.train.watch import curves, grids, metrics

MARKER = "made-by-ganfast-demo"
TARGETS = {"precision": 0.60, "recall": 0.75, "digit_read": 0.95}


def train_pass(generator: DCGANGenerator, latent: Tensor) -> list[Tensor]:
    """Forward and backward; [images, gradients of all parameters]."""
    images = generator(latent)
    return [images, *torch.autograd.grad(images.square().mean(), list(generator.parameters()))]


def largest_error(got: list[Tensor], exact: list[Tensor]) -> float:
    """Over all tensors: the largest difference, as a share of the exact tensor's largest entry."""
    return max(((g.double() - e).abs().max() / e.abs().max()).item() for g, e in zip(got, exact, strict=True))


def typical_error(network: DCGANGenerator, exact: DCGANGenerator, latents: list[Tensor]) -> float:
    """Median over the latents of `largest_error`. A pre-activation within rounding of 0 may fall to either side of ReLU's
    kink, in torch as in ganfast, and changes gradients by far more than rounding does: a few latents in ten meet one.
    """
    return statistics.median(largest_error(train_pass(network, z), train_pass(exact, z.double())) for z in latents)


def compare_generator(device: torch.device, batch: int = 16, repeats: int = 7) -> dict:
    """DCGAN-64, train mode, forward + backward, float32, contiguous: the same weights and latents in torch and in ganfast."""
    torch.manual_seed(0)
    networks = {"eager": DCGANGenerator().to(device), "ganfast": ganfast.accelerate(DCGANGenerator().to(device))}
    networks["ganfast"].load_state_dict(networks["eager"].state_dict())
    exact = copy.deepcopy(networks["eager"]).double()
    few = [torch.randn(4, exact.latent_dim, device=device) for _ in range(5)]
    errors = {name: typical_error(network, exact, few) for name, network in networks.items()}
    latent = torch.randn(batch, exact.latent_dim, device=device)
    seconds = interleaved_medians({name: lambda n=network: train_pass(n, latent) for name, network in networks.items()}, repeats)
    return {"batch": batch, "seconds": seconds, "errors": errors, "ratio": seconds["eager"] / seconds["ganfast"]}


def compare_loops(config: Recipe, steps: int = 10, repeats: int = 5) -> dict:
    """Images per second of the whole training step, the demo's networks: accelerated and in plain torch, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"eager": False, "ganfast": True}
        runs = {
            name: recipes.trainer(Recipe(**vars(config) | {"fused": fused, "run_dir": f"{folder}/{name}", "max_seconds": None}))
            for name, fused in settings.items()
        }

        def some_steps(trainer: Trainer) -> None:
            for _ in range(steps):
                trainer.step()

        seconds = interleaved_medians({name: lambda t=t: some_steps(t) for name, t in runs.items()}, repeats)
    return {name: steps * config.batch_size / s for name, s in seconds.items()}


def assess(path: Path, count: int = 1000, seed: int = 1) -> dict:
    """Samples of the averaged generator beside the real digits they were learned from."""
    sampler = recipes.load_sampler(path)
    labels = torch.arange(count) % len(sampler.classes)
    fakes = sampler.sample(count, labels, seed)
    real = digits(fakes.shape[-1])
    real_images = to_float(real.images)
    precision, recall = metrics.precision_recall(metrics.pixels8(real_images), metrics.pixels8(fakes))
    order = torch.randperm(len(real_images), generator=torch.Generator().manual_seed(0))
    halves = metrics.pixels8(real_images[order]).tensor_split(2)
    reader = metrics.train_reader(real_images, real.labels)
    return {
        "samples": count,
        "precision": precision,
        "recall": recall,
        "real_halves": metrics.precision_recall(*halves),
        "digit_read": reader.share_read(fakes, labels),
        "reader_accuracy_on_held_out_real": reader.accuracy,
    }


def markdown(report: dict) -> str:
    """Rows of (what was measured, value, goal)."""
    generator, loop, found = report["generator"], report["images_per_second"], report["assessment"]
    seconds, errors = generator["seconds"], generator["errors"]
    goals = {name: f"{goal:.2f}, {'reached' if found[name] >= goal else 'MISSED'}" for name, goal in TARGETS.items()}
    precision, recall = (f"; two halves of the real data: {value:.2f}" for value in found["real_halves"])
    held_out = found["reader_accuracy_on_held_out_real"]
    rows = [
        ("measured", "value", "goal"),
        ("---", "---", "---"),
        (f"precision of {found['samples']} samples (k = 3 on 8x8 pixels{precision})", f"{found['precision']:.3f}", goals["precision"]),
        (f"their recall{recall}", f"{found['recall']:.3f}", goals["recall"]),
        (f"digit asked for is read (of real ones held out: {held_out:.3f})", f"{found['digit_read']:.3f}", goals["digit_read"]),
        ("discriminator right on real / fake, last quarter", f"{report['real_accuracy']:.2f} / {report['fake_accuracy']:.2f}", ""),
        ("training", f"{report['steps']} steps, {report['train_seconds']:.0f} s", ""),
        ("training step, images per second: ganfast / plain torch", _ratio(loop["ganfast"], loop["eager"], ".0f"), ""),
        (f"DCGAN-64 generator, fp32, {generator['batch']} images: plain torch / ganfast, ms", _ratio(*_milliseconds(seconds), ".0f"), ""),
        ("its error against float64: ganfast / plain torch", f"{errors['ganfast']:.1e} / {errors['eager']:.1e}", ""),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = "Synthetic digits by a conditional DCGAN, trained on the 1,797 real ones that come with scikit-learn."
    return f"# The demo's run\n\n{text}\n{report['machine']}.\n\n{table}\n"


def _milliseconds(seconds: dict[str, float]) -> tuple[float, float]:
    return seconds["eager"] * 1e3, seconds["ganfast"] * 1e3


def _ratio(above: float, below: float, spec: str) -> str:
    return f"{above:{spec}} / {below:{spec}} = {above / below:.2f}x"


def end_accuracy(log: Path) -> dict[str, float]:
    """The discriminator's accuracy over the last quarter of the log."""
    rows = curves.log_rows(log)
    rows = rows[-max(1, len(rows) // 4) :]
    return {name: sum(row[name] for row in rows) / len(rows) for name in ("real_accuracy", "fake_accuracy")}


def write_pictures(run: Path, seed: int) -> None:
    grids.write_grid(run / "samples.png", recipes.load_sampler(run), seed)


def run_demo(config: Recipe) -> dict:
    """Compares, trains, assesses; leaves everything in config.run_dir and returns the report."""
    run, device = Path(config.run_dir), config.torch_device()
    if (run / MARKER).is_file():  # an earlier demo; any other run in its place is refused below
        shutil.rmtree(run)
    precision = Precision(config.precision, device).name
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    report = {"machine": f"{machine}, torch {torch.__version__}, ganfast {ganfast.__version__}, training in {precision}, contiguous"}

    print("DCGAN-64 generator, train mode, forward + backward, float32, contiguous; error against float64:")
    generator = report["generator"] = compare_generator(device)
    for name, seconds in generator["seconds"].items():
        print(f"  {name:<8} {seconds * 1e3:8.1f} ms for {generator['batch']} images, largest error {generator['errors'][name]:.1e}")
    print(f"  {_ratio(*_milliseconds(generator['seconds']), '.0f')}\n", flush=True)
    report["images_per_second"] = compare_loops(config)

    print(f"Training on the digits, {config.steps} steps, at most {config.max_seconds:.0f} s:", flush=True)
    trainer = recipes.trainer(config)
    (run / MARKER).touch()
    trainer.fit()
    report |= {"steps": trainer.steps, "train_seconds": trainer.seconds} | end_accuracy(run / checkpoint.LOG)
    report["assessment"] = assess(run)
    write_pictures(run, seed=1)
    (run / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (run / "report.md").write_text(markdown(report))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ganfast.demo", description=__doc__)
    parser.add_argument("--out", default="runs/demo", help="folder of the run; an earlier demo in it is replaced")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        report = run_demo(presets.preset("digits", run_dir=options.out, seed=options.seed, max_seconds=210, sample_every=50))
    except ValueError as error:
        parser.error(str(error))
    print("\n" + markdown(report))
    print(f"In {options.out}: samples.png, learning.gif, interpolation.gif, curves.png, report.md, report.json, checkpoints")


if __name__ == "__main__":
    main()
