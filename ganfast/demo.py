"""`python -m ganfast.demo`: eager against ganfast, then a conditional DCGAN on real digits in minutes, with a report."""

import copy
import json
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import ganfast
from ganfast._timing import interleaved_medians
from ganfast.models import DCGANGenerator
from ganfast.train import TrainConfig, Trainer, checkpoint, grids, metrics
from ganfast.train.data import digits, to_float

RUN = Path("runs/demo")
TARGETS = {"precision": 0.40, "recall": 0.70, "digit_read": 0.90}


def train_pass(generator: DCGANGenerator, latent: Tensor) -> list[Tensor]:
    """Forward and backward; [images, gradients of all parameters]."""
    images = generator(latent)
    return [images, *torch.autograd.grad(images.square().mean(), list(generator.parameters()))]


def largest_error(got: list[Tensor], exact: list[Tensor]) -> float:
    """Over all tensors: the largest difference, as a share of the exact tensor's largest entry."""
    return max(((g.double() - e).abs().max() / e.abs().max()).item() for g, e in zip(got, exact, strict=True))


def compare_generator(device: torch.device, batch: int = 16, repeats: int = 5) -> dict:
    """DCGAN-64, train mode, forward + backward, float32, contiguous: the same weights and latents in torch and in ganfast."""
    torch.manual_seed(0)
    eager = DCGANGenerator().to(device)
    fused = DCGANGenerator(fused=True).to(device)
    fused.load_state_dict(eager.state_dict())
    latent = torch.randn(batch, 100, device=device)
    exact = train_pass(copy.deepcopy(eager).double(), latent.double())
    errors = {"eager": largest_error(train_pass(eager, latent), exact), "ganfast": largest_error(train_pass(fused, latent), exact)}
    seconds = interleaved_medians({"eager": lambda: train_pass(eager, latent), "ganfast": lambda: train_pass(fused, latent)}, repeats)
    return {"batch": batch, "seconds": seconds, "errors": errors, "ratio": seconds["eager"] / seconds["ganfast"]}


def compare_loops(config: TrainConfig, steps: int = 10, repeats: int = 5) -> dict:
    """Images per second of the whole training step, the demo's networks: ganfast's layers and torch's, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"eager": False, "ganfast": True}
        runs = {
            name: Trainer(TrainConfig(**vars(config) | {"fused": fused, "run_dir": f"{folder}/{name}", "max_seconds": None}))
            for name, fused in settings.items()
        }

        def some_steps(trainer: Trainer) -> None:
            for _ in range(steps):
                trainer.step()

        seconds = interleaved_medians({name: lambda t=t: some_steps(t) for name, t in runs.items()}, repeats)
    return {name: steps * config.batch_size / s for name, s in seconds.items()}


def assess(path: Path, count: int = 1000, seed: int = 1) -> dict:
    """Samples of the averaged generator beside the real digits they were learned from."""
    sampler = checkpoint.load_sampler(path)
    real = digits(sampler.config.image_size)
    real_images, labels = to_float(real.images), torch.arange(count) % len(sampler.classes)
    fakes = sampler(labels, seed)
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
    generator, loop, found = report["generator"], report["images_per_second"], report["assessment"]
    goals = {name: f"{goal:.2f}, {'reached' if found[name] >= goal else 'MISSED'}" for name, goal in TARGETS.items()}
    precision, recall = found["real_halves"]
    return f"""# The demo's run

Synthetic digits by a conditional DCGAN, trained on the 1,797 real ones of scikit-learn. {report["machine"]}.

| measured | value | goal |
|---|---|---|
| precision of {found["samples"]} samples (k = 3, 8x8 pixels; two halves of the real data: {precision:.2f}) | {found["precision"]:.3f} | {goals["precision"]} |
| recall (two halves of the real data: {recall:.2f}) | {found["recall"]:.3f} | {goals["recall"]} |
| digit asked for is read (the classifier reads {found["reader_accuracy_on_held_out_real"]:.1%} of held-out real digits) | {found["digit_read"]:.1%} | {goals["digit_read"]} |
| discriminator right on real / fake, end of the run | {report["real_accuracy"]:.0%} / {report["fake_accuracy"]:.0%} | |
| training | {report["steps"]} steps, {report["train_seconds"]:.0f} s | |
| images per second, whole step, ganfast / plain torch | {loop["ganfast"]:.0f} / {loop["eager"]:.0f} = {loop["ganfast"] / loop["eager"]:.2f}x | |
| DCGAN-64 generator, forward + backward, batch {generator["batch"]}, ganfast / plain torch | {generator["seconds"]["ganfast"]:.3f} / {generator["seconds"]["eager"]:.3f} s = {generator["ratio"]:.2f}x | |
| its largest error against float64, ganfast / plain torch | {generator["errors"]["ganfast"]:.1e} / {generator["errors"]["eager"]:.1e} | |
"""


def end_accuracy(log: Path) -> dict[str, float]:
    """The discriminator's accuracy over the last quarter of the log."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = rows[-max(1, len(rows) // 4) :]
    return {name: sum(row[name] for row in rows) / len(rows) for name in ("real_accuracy", "fake_accuracy")}


def write_pictures(path: Path, seed: int) -> None:
    sampler = checkpoint.load_sampler(path)
    grids.write_grid(RUN / "samples.png", sampler, seed)
    frames = sorted((RUN / checkpoint.GRIDS).glob("*.png"))
    grids.write_gif(RUN / "learning.gif", frames, grids.about(f"DCGAN, {RUN}, steps 1 to {sampler.step}", sampler.config.seed))
    metrics.write_curves(RUN / checkpoint.LOG, RUN / "curves.png", sampler.name, sampler.config.seed)


def main() -> None:
    if (RUN / checkpoint.CONFIG).is_file():  # an earlier demo; anything else in its place is left alone
        shutil.rmtree(RUN)
    config = TrainConfig(run_dir=str(RUN), max_seconds=210, sample_every=50)
    device = config.torch_device()
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    report = {"machine": f"{machine}, torch {torch.__version__}, ganfast {ganfast.__version__}, float32, contiguous"}

    print("DCGAN-64 generator, train mode, forward + backward, float32, contiguous; error against float64:")
    generator = report["generator"] = compare_generator(device)
    for name, seconds in generator["seconds"].items():
        print(f"  {name:<8} {seconds * 1e3:8.1f} ms for {generator['batch']} images, largest error {generator['errors'][name]:.1e}")
    print(f"  eager / ganfast = {generator['ratio']:.2f}x\n\nTraining on the digits, at most {config.max_seconds:.0f} s:", flush=True)
    report["images_per_second"] = compare_loops(config)
    trainer = Trainer(config)
    trainer.fit()
    report |= {"steps": trainer.steps, "train_seconds": trainer.seconds} | end_accuracy(RUN / checkpoint.LOG)

    report["assessment"] = assess(RUN / checkpoint.CHECKPOINT)
    write_pictures(RUN / checkpoint.CHECKPOINT, seed=1)
    (RUN / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (RUN / "report.md").write_text(markdown(report))
    print("\n" + markdown(report))
    print(f"In {RUN}: samples.png, learning.gif, curves.png, report.md, report.json, checkpoint.pt")


if __name__ == "__main__":
    main()
