"""pix2pix: a picture becomes another, learned from pairs of both: layers become portraits.

Without data of your own: drawn people. The input says by numbers, shown as false colours, which layer lies where, which of its colours and
which of its forms it has; the answer is the portrait, whose true colours, lines and shades must be learned. Nobody who is tested was in
the training.
Source: Isola, Zhu, Zhou & Efros 2017, "Image-to-image translation with conditional adversarial networks".
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast.models.cyclegan import ResnetGenerator
from ganfast.models.pix2pix import DOWNS, PairDiscriminator, UnetGenerator
from ganfast.systems import epochs, form
from ganfast.systems.sources import portraits
from ganfast.systems.sources.own import picture_at
from ganfast.systems.sources.paired import paired
from ganfast.systems.sources.weights import load_folder
from ganfast.train import Phase, Trainer
from ganfast.train.data import to_float, to_uint8
from ganfast.train.watch.grids import tile

# What an option that is not given means: on the portraits, and on a folder, where it is as users of pytorch-CycleGAN-and-pix2pix know it;
# n_epochs and n_epochs_decay mean that only where steps are not given either, and lr_d on a folder is lr.
PORTRAITS = {
    "n_epochs": 0, "n_epochs_decay": 0,
    "batch_size": 8, "lr": 1e-3, "lr_d": 2e-4, "beta2": 0.9, "netG": "unet_64", "ngf": 16, "ndf": 16, "n_layers_D": 2, "crop_size": 64,
}  # fmt: skip
FOLDER = {
    "n_epochs": 100, "n_epochs_decay": 100,
    "batch_size": 1, "lr": 2e-4, "lr_d": None, "beta2": 0.999, "netG": "unet_256", "ngf": 64, "ndf": 64, "n_layers_D": 3, "crop_size": 256,
}  # fmt: skip
PUBLISHED = {"generator": "latest_net_G.pth", "discriminator": "latest_net_D.pth"}
LOSSES = {"lsgan": "lsgan", "vanilla": "nonsaturating"}
STEPS = 2400
PEOPLE = {"train": 1500, "test": 300}  # of 19,440
COLOURS = (31, 51, 63)  # false ones: what a number in the maps of portraits is multiplied by, channel by channel
PIXELS = 2**20  # of the pictures that one forward of the measurement makes
EDGE = 0.3  # a step from a pixel to its neighbour that is an outline, of a range of 2


@dataclass(frozen=True)
class Options(epochs.Options):
    data: str | None = None
    """a folder with train and test of pictures that hold A and B side by side, or with trainA, trainB, testA, testB; none: portraits"""
    steps: int | None = None
    """length of the training, whose last quarter has falling rates: 2400, on a folder 100 + 100 epochs"""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA: the folder's B is the input, and its A the answer"""
    batch_size: int | None = None
    """pairs a step: 8, on a folder 1"""
    crop_size: int | None = None
    """side of the square that each picture is cut and resized to: 64, on a folder 256"""
    lr: float | None = None
    """learning rate of the generator: 1e-3, on a folder 2e-4"""
    lr_d: float | None = None
    """learning rate of the discriminator: 2e-4, on a folder as lr"""
    beta1: float = 0.5
    """Adam's decay of the mean of gradients"""
    beta2: float | None = None
    """Adam's decay of the mean of their squares: 0.9, on a folder 0.999"""
    gan_mode: Literal["vanilla", "lsgan"] = "vanilla"
    """adversarial loss: vanilla, by cross-entropy; lsgan, by squared errors"""
    lambda_L1: float = 100.0
    """weight of the mean absolute error"""
    netG: Literal["unet_32", "unet_64", "unet_128", "unet_256", "resnet_6blocks", "resnet_9blocks"] | None = None
    """generator: unet_64, on a folder unet_256; the number of a U-Net is the least crop_size"""
    netD: Literal["basic", "n_layers"] = "n_layers"
    """discriminator: n_layers has n_layers_D layers, basic has 3"""
    n_layers_D: int | None = None
    """layers of the discriminator: 2, on a folder 3"""
    ngf: int | None = None
    """channels of the generator next to the picture: 16, on a folder 64"""
    ndf: int | None = None
    """channels of the discriminator next to the picture: 16, on a folder 64"""
    norm: Literal["batch", "instance", "none"] = "batch"
    """normalisation in both networks"""
    no_dropout: bool = False
    """a generator without dropout"""
    weights: str | None = None
    """a folder with latest_net_G.pth to begin with, and latest_net_D.pth if there"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(batch_size=1, crop_size=1, lambda_L1=0, n_layers_D=1, ngf=1, ndf=1)
        self.layers(0)

    def whole(self) -> "Options":
        """With a value for what was not given."""
        usual = FOLDER if self.data else PORTRAITS
        given = {name: value for name in usual if (value := getattr(self, name)) is not None}
        whole = usual | given | {"n_layers_D": self.layers(usual["n_layers_D"])}
        if whole["lr_d"] is None:
            whole["lr_d"] = whole["lr"]
        if self.steps is not None:
            whole |= {"n_epochs": self.n_epochs, "n_epochs_decay": self.n_epochs_decay}
        whole = dataclasses.replace(self, **whole)
        layers, size = whole.n_layers_D, whole.crop_size
        fold, least = 2 ** DOWNS.get(whole.netG, 2), 3 * 2**layers
        whole.want("direction", self.data is not None or self.direction == "AtoB", "AtoB for the portraits")
        asked = "netG" if self.crop_size is None else "crop_size"
        whole.want(asked, size % fold == 0, f"a crop_size, now {size}, that is a multiple of {fold}, for {whole.netG}")
        asked = "n_layers_D" if self.crop_size is None else "crop_size"
        whole.want(asked, size >= least, f"a crop_size, now {size}, of at least {least}, for {layers} layers of the discriminator")
        return whole


@form.remembered("data", "crop_size", "direction")
def sets(o: Options) -> dict[str, Tensor]:
    """train_a, train_b, test_a, test_b, uint8 [N, 3, S, S]: inputs and answers."""
    if o.data is not None:
        found = paired(o.data, o.crop_size)
        a, b = ("b", "a") if o.direction == "BtoA" else ("a", "b")
        return {f"{part}_{new}": found[f"{part}_{old}"] for part in PEOPLE for new, old in (("a", a), ("b", b))}
    every = portraits.everyone()
    drawn = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))]
    found, colours = {}, torch.tensor(COLOURS, dtype=torch.uint8)[:, None, None]
    for part, people in zip(PEOPLE, drawn.split([*PEOPLE.values(), len(every) - sum(PEOPLE.values())])):
        found |= {f"{part}_a": portraits.maps(people, o.crop_size) * colours, f"{part}_b": portraits.render(people, o.crop_size)}
    return found


def l1(networks, batch) -> Tensor:
    return F.l1_loss(batch.fake(networks.generator), batch.real)


def build(options: Options) -> Trainer:
    o = options.whole()
    data = sets(o)
    if o.netG in DOWNS:
        generator = UnetGenerator(3, 3, DOWNS[o.netG], o.ngf, o.norm, not o.no_dropout)
    else:
        blocks = int(o.netG.removeprefix("resnet_").removesuffix("blocks"))
        generator = ResnetGenerator(3, 3, o.ngf, blocks, o.norm, not o.no_dropout)
    networks = {"generator": generator, "discriminator": PairDiscriminator(6, o.ndf, o.n_layers_D, o.norm)}
    if o.weights:
        load_folder("pix2pix", o.weights, PUBLISHED, networks, ("generator",))
    length = o.length(len(data["train_a"]), STEPS)
    adam = {"learning_rate": o.lr, "discriminator_learning_rate": o.lr_d, "betas": (o.beta1, o.beta2)}
    config = o.config(batch_size=o.batch_size, latent_dim=0, loss=LOSSES[o.gan_mode], **adam, **length)
    half = 1 if o.gan_mode == "lsgan" else 0.5  # the project halves the discriminator's loss; ganfast's lsgan is halved by itself
    learned = {"adversarial": 2 * half, "l1": (l1, o.lambda_L1)}
    phases = [Phase("d", "discriminator", {"adversarial": half}), Phase("g", "generator", learned, average=True)]
    pairs = {"a": data["train_a"], "b": data["train_b"]}
    return Trainer(**networks, data=pairs, config=config, phases=phases, condition="a", real="b")


def translated(trainer: Trainer, inputs: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] -> float in [-1, 1], on the CPU; large pictures a few at a time."""
    some = max(1, PIXELS // inputs.shape[2] ** 2)
    return torch.cat([trainer.sample(len(chunk), to_float(chunk)).cpu() for chunk in inputs.split(some)])


def outlines(images: Tensor) -> Tensor:
    """The rule: bool [N, H, W], where a channel's step to the pixel below or to the right is larger than EDGE; images in [-1, 1]."""
    steps = F.pad(images.diff(dim=2).abs(), (0, 0, 0, 1)).maximum(F.pad(images.diff(dim=3).abs(), (0, 1)))
    return steps.amax(1) > EDGE


def outline_f1(made: Tensor, true: Tensor) -> float:
    """Of the outlines' pixels, over all pictures; a pixel beside its place is wrong."""
    found, there = outlines(made), outlines(true)
    return (2 * (found & there).sum() / (found.sum() + there.sum()).clamp_min(1)).item()


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """On held-out people, images in [-1, 1]. l1: mean absolute error; l1_constant: that of the best constant picture, at each pixel the
    median of the training's answers; l1_ratio: of both. l1_other: the error of what is made from another's input. outline_f1: of the
    outlines of the made picture and the true one, without any tolerance, 1 for the true one; outline_f1_constant: of the constant one."""
    data = sets(options.whole())
    a, b = data["test_a"], to_float(data["test_b"])
    made, other = translated(trainer, a), translated(trainer, a.roll(1, 0))
    constant = to_float(data["train_b"].median(0).values).expand_as(b)
    figures = {"l1": F.l1_loss(made, b).item(), "l1_constant": F.l1_loss(constant, b).item(), "l1_other": F.l1_loss(other, b).item()}
    figures["l1_ratio"] = figures["l1"] / figures["l1_constant"] if figures["l1_constant"] else float("inf")
    return figures | {"outline_f1": outline_f1(made, b), "outline_f1_constant": outline_f1(constant, b)}


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Held-out people: inputs, what was made of them, the true pictures."""
    data = sets(options.whole())
    a, b = data["test_a"][:10], data["test_b"][:10]
    return to_uint8(tile(torch.cat([to_float(a), translated(trainer, a), to_float(b)]), len(a)))


def sample(trainer: Trainer, options: Options, *, count: int, seed: int) -> Tensor:
    """`count` held-out inputs, or all if they are fewer, which follow from the seed; what was made of each is beside it."""
    inputs = sets(options.whole())["test_a"]
    inputs = inputs[torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:count]]
    return torch.stack([tile(torch.stack(pair), 2) for pair in zip(to_float(inputs), translated(trainer, inputs))])


def applied(trainer: Trainer, options: Options, file: Path) -> dict[str, Tensor]:
    """A picture cut and resized as in the training beside what is made of it, and this alone."""
    image = picture_at(file, options.whole().crop_size, 3)[None]
    made = translated(trainer, image)
    return {"": tile(torch.cat([to_float(image), made]), 2), "-fake": made[0]}


SYSTEM = form.System(
    "pix2pix",
    "translates pictures, learned from pairs: layers become portraits",
    Options,
    build,
    measure,
    picture,
    goals={"l1_ratio": ("<=", 0.5), "outline_f1": (">=", 0.8)},
    needs=("robohash",),
    credit=lambda options: "" if options.data else portraits.CREDIT,
    sample=sample,
    applied=applied,
    fixed=("weights",),
    restored={"weights": None},
)
