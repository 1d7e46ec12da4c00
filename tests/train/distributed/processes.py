"""What test_distributed.py runs in several processes, and once more in its own: small trainings whose results are compared.

As a script, under torchrun: processes.py FOLDER does them all, leaves FOLDER/<rank>.pt, and ends with an error in the last process.
"""

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ganfast import accelerate, models
from ganfast.nn import BatchNormAct2d
from ganfast.train import Network, Phase, TrainConfig, Trainer, adversarial, autoencoding
from ganfast.train.data import unpaired
from ganfast.train.distributed.sync_batch_norm import synchronise
from ganfast.train.distributed.world import World

COMMON = {"device": "cpu", "precision": "fp32", "latent_dim": 6, "batch_size": 8, "steps": 6, "log_every": 2, "noise": 0.1, "fused": False}
CASES = {
    "mlp": {"loss": "relativistic", "r1": 0.5, "r2": 0.2, "penalty_every": 2, "n_critic": 2, "spectral_norm": True},
    "images": {"loss": "wasserstein", "gradient_penalty": 10.0, "augment": "color,translation,cutout", "flip": True},
    "norms": {"loss": "hinge", "sync_batch_norm": True, "r1": 0.5},
    "labels": {"sync_batch_norm": True, "loss": "lsgan", "flip": True},
    "adaptive": {"augment": "ada", "ada_speed": 40, "ada_target": -0.99, "r1": 0.5},
    "skipped": {"precision": "fp16", "r1": 0.5},
    "autoencoder": {"loss": "hinge", "r1": 0.5},
}  # fmt: skip


class Partly(nn.Module):
    """A discriminator with a buffer that it uses, and a parameter that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = models.MLPDiscriminator(2, 16, 2), nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.rand(2) + 0.5)

    def forward(self, x):
        return self.body(x * self.scale)


def networks(case: str) -> tuple[nn.Module, nn.Module]:
    if case in ("images", "adaptive"):
        up = nn.ConvTranspose2d(6, 8, 4), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 1, 4, 4), nn.Tanh()
        return nn.Sequential(nn.Unflatten(1, (6, 1, 1)), *up), accelerate(models.DCGANDiscriminator(16, 4, 1, norm=False))
    if case == "autoencoder":
        layers = nn.Conv2d(1, 4, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1)
        return nn.Sequential(*layers), models.DCGANDiscriminator(16, 4, 1, norm=False)
    if case in ("norms", "labels"):
        given = {"num_classes": 3} if case == "labels" else {}
        generator, discriminator = models.DCGANGenerator(16, 6, 4, 1, **given), models.DCGANDiscriminator(16, 4, 1, **given)
        return accelerate(generator), accelerate(discriminator) if case == "norms" else discriminator
    return models.MLPGenerator(6, 2, 16, 2), Partly()


def data(case: str) -> object:
    draw = torch.Generator().manual_seed(5)
    if case in ("mlp", "skipped"):
        return torch.randn(27, 2, generator=draw)
    images = torch.randint(0, 256, (27, 1, 16, 16), generator=draw, dtype=torch.uint8)
    return (images, torch.arange(27) % 3) if case == "labels" else images


def made(case: str, rank: int, interfere=None, **changes) -> tuple[Trainer, list[dict]]:
    """Built from another seed in each process. `interfere(trainer, phase, loss)` gives the loss."""
    torch.manual_seed(rank)
    config, rows, found = TrainConfig(**COMMON | CASES[case] | changes), [], []
    plain = adversarial(config)

    def objective(phase, generator, discriminator, batch):
        loss, numbers = plain(phase, generator, discriminator, batch)
        return interfere(found[0], phase, loss), numbers

    own = autoencoding(config, perceptual="random", start=3) if case == "autoencoder" else None
    more = {"objective": objective if interfere else own, "condition": case == "labels"}
    trainer = Trainer(*networks(case), data(case), config, callbacks=[lambda _, row: rows.append(dict(row))], **more)
    found.append(trainer)
    return trainer, rows


def spoil(trainer: Trainer, phase, loss):
    """In the third step, of the last process alone."""
    return loss * float("nan") if trainer.steps == 3 and trainer.world.rank == trainer.world.size - 1 and phase.name == "d" else loss


def outcome(trainer: Trainer, rows: list[dict]) -> dict:
    states = {name: getattr(trainer, name).state_dict() for name in ("generator", "discriminator", "ema")}
    moments = {
        f"{name}.{i}.{key}": value
        for name, optimizer in trainer.optimizers.items()
        for i, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    scales = {name: scaler.state_dict() for name, scaler in trainer.precision.scalers.items()}
    return states | {"moments": moments, "rows": rows, "scales": scales, "images": trainer.images_seen}


def run(case: str, rank: int) -> dict:
    trainer, rows = made(case, rank, spoil if case == "skipped" else None)
    trainer.fit(progress_bar=False)
    return outcome(trainer, rows)


def averages(world: World) -> list:
    """Of parameters that have a gradient in both processes, in one, in none."""
    parameters = [nn.Parameter(torch.zeros(2, 3, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.float32, torch.float32)]
    for i, p in enumerate(parameters[:3]):
        if i < 2 or world.rank:
            p.grad = torch.full((3, 2), i + 1.0 + world.rank, dtype=p.dtype).t()
    world.average(parameters)
    return [p.grad for p in parameters]


def stopped(folder: Path, rank: int) -> dict:
    """A run that a SIGTERM to the last process stops in its third step, then gone on with, twice: by fit, and from its checkpoint."""

    def stop(trainer, phase, loss):
        if trainer.steps == 3 and trainer.world.rank == 1 and phase.name == "g":
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    trainer, rows = made("mlp", rank, stop, run_dir=str(folder), sample_every=100)
    trainer.fit(progress_bar=False)
    found = {"steps": trainer.steps, "stopped": trainer.stopped, "files": sorted(path.name for path in folder.glob("*.pt"))}
    trainer.fit(progress_bar=False)
    torch.manual_seed(50 + rank)
    loaded = Trainer.load(folder / "checkpoint-0000003.pt", *networks("mlp"), data("mlp"), replace(trainer.config, run_dir=None))
    loaded.fit(progress_bar=False)
    return found | {"again": outcome(trainer, rows), "loaded": outcome(loaded, rows)}


def by_name(**changes) -> dict[str, torch.Tensor]:
    """Two networks of one phase, unpaired domains, penalties of a named discriminator: the weights after a run, and where it stopped."""
    torch.manual_seed(3)
    config = TrainConfig(**COMMON | {"latent_dim": 0, "r1": 0.5, "loss": "hinge", "noise": 0.0} | changes)
    term = {"b": (adversarial(config, generator="ab", discriminator="d"), 1)}
    cycle = lambda networks, batch: (networks.ba(batch.fake(networks.ab)) - batch.data["a"]).abs().mean()
    net = lambda out: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, out))
    draw = torch.Generator().manual_seed(6)
    domains = unpaired(a=torch.randn(27, 2, generator=draw), b=torch.randn(14, 2, generator=draw))
    trainer = Trainer(
        networks={
            "ab": Network(net(2), condition="a", real="b"),
            "ba": Network(net(2), condition="b", real="a"),
            "d": Network(net(1), condition=None),
        },
        data=domains,
        config=config,
        phases=[Phase("d", "d", term), Phase("g", ("ab", "ba"), term | {"cycle": (cycle, 2)}, average=True)],
        callbacks=[lambda trainer, row: trainer.stop("enough") if row["step"] == changes.get("log_every") else None],
    )
    trainer.fit(progress_bar=False)
    weights = {f"{name}.{key}": value.clone() for name, part in trainer.parts.items() for key, value in part.state_dict().items()}
    return weights | {"steps": torch.tensor(trainer.steps), "stopped": trainer.stopped}


def norms(world: World) -> dict[str, float]:
    """Largest differences from one batch norm over the whole batch: outputs, gradients, gradients of a gradient penalty, statistics."""
    found = {}
    momenta = {"plain": 0.3, "cumulative": None, "act": 0.1}
    kinds = {"plain": nn.BatchNorm1d, "cumulative": nn.BatchNorm2d, "act": partial(BatchNormAct2d, act="prelu")}
    for name, kind in kinds.items():
        shape = (8, 3) if name == "plain" else (8, 3, 4, 2)
        whole, part = (kind(3, momentum=momenta[name]).double() for _ in range(2))
        draw = torch.Generator().manual_seed(1)
        whole.weight.data, x = torch.rand(3, generator=draw).double(), torch.randn(shape, generator=draw).double() * 2 + 5
        target = torch.randn(shape, generator=draw).double()
        part.load_state_dict(whole.state_dict())
        synchronise(part)
        mine = slice(world.rank * 4, world.rank * 4 + 4)
        results = []
        for norm, rows in ((whole, slice(None)), (part, mine)):
            image = x[rows].clone().requires_grad_()
            y = norm(image)
            loss = (y.tanh() * target[rows]).sum()
            (inner,) = torch.autograd.grad(loss, image, create_graph=True)
            (inner.square().sum() + loss).backward()
            results.append((y, inner, image.grad))
        world.average(list(part.parameters()))
        vectors = [(p.grad, 2 * q.grad) for p, q in zip(whole.parameters(), part.parameters(), strict=True)]
        images = [(a[mine], b) for a, b in zip(*results)]
        buffers = zip(whole.buffers(), part.buffers(), strict=True)
        found[name] = max((a - b).abs().max().item() for a, b in (*vectors, *images, *buffers))
    return found


def refused() -> str:
    try:
        made("mlp", 0, batch_size=7)
    except ValueError as error:
        return str(error)
    return ""


def fail(trainer: Trainer, phase, loss):
    if trainer.steps == 2 and trainer.world.rank == 1:
        raise ZeroDivisionError("planted")
    return loss


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = World.from_environment("cpu")
    results = {case: run(case, world.rank) for case in CASES}
    results |= {"averages": averages(world), "batch norms": norms(world), "refused": refused()}
    results |= {"by name": by_name(), "enough": by_name(log_every=3)}
    results["stopped"] = stopped(folder / "run", world.rank)
    torch.save(results, folder / f"{world.rank}.pt")
    made("mlp", world.rank, fail)[0].fit(progress_bar=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
