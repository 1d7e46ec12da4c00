"""CycleGAN: pictures of one set become pictures of another, learned from two sets in which no picture has a partner.

Without data of your own: handwritten digits, and other digits inverted and blurred. That rule is known, and so is each right answer.
Source: Zhu, Park, Isola & Efros 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks"; the pool of
    earlier fakes: Shrivastava et al. 2017.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast.models.cyclegan import PatchDiscriminator, ResnetGenerator
from ganfast.systems import epochs, form, readers
from ganfast.systems.sources import blurred
from ganfast.systems.sources.own import picture_at
from ganfast.systems.sources.weights import load_folder
from ganfast.train import ImagePool, Network, Phase, Trainer, adversarial
from ganfast.train.data import folder, to_float, to_uint8, unpaired
from ganfast.train.data.folders import existing
from ganfast.train.watch.grids import tile

# What an option that is not given means: on the digits, and on a folder, where it is as users of pytorch-CycleGAN-and-pix2pix know it.
DIGITS = {
    "batch_size": 8, "lr": 1e-3, "lr_d": 1e-4, "beta2": 0.9, "lambda_A": 5.0, "lambda_B": 5.0, "lambda_identity": 0.0, "noise": 0.2,
    "netG": "resnet_2blocks", "ngf": 8, "ndf": 16, "n_layers_D": 2, "crop_size": 32,
}  # fmt: skip
FOLDER = {
    "batch_size": 1, "lr": 2e-4, "lr_d": 2e-4, "beta2": 0.999, "lambda_A": 10.0, "lambda_B": 10.0, "lambda_identity": 0.5, "noise": 0.0,
    "netG": "resnet_9blocks", "ngf": 64, "ndf": 64, "n_layers_D": 3, "crop_size": 256,
}  # fmt: skip
STEPS = 1400
FOLDERS = ("trainA", "trainB", "testA", "testB")
PUBLISHED = {"ab": "latest_net_G_A.pth", "ba": "latest_net_G_B.pth", "d_b": "latest_net_D_A.pth", "d_a": "latest_net_D_B.pth"}
LOSSES = {"lsgan": "lsgan", "vanilla": "nonsaturating"}


@dataclass(frozen=True)
class Options(epochs.Options):
    data: str | None = None
    """a folder with trainA, trainB, testA and testB; none: the digits"""
    steps: int | None = None
    """length of the training, whose last quarter has falling rates: 1400, if no epochs are given"""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA: the folder's A is called B, and its B is called A"""
    batch_size: int | None = None
    """8, on a folder 1"""
    crop_size: int | None = None
    """32, on a folder 256: of the square that each picture is cut and resized to"""
    lr: float | None = None
    """of the generators: 1e-3, on a folder 2e-4"""
    lr_d: float | None = None
    """of the discriminators: 1e-4, on a folder 2e-4"""
    beta1: float = 0.5
    beta2: float | None = None
    """0.9, on a folder 0.999"""
    gan_mode: Literal["lsgan", "vanilla"] = "lsgan"
    lambda_A: float | None = None
    """5, on a folder 10: weight of the way A -> B -> A"""
    lambda_B: float | None = None
    """5, on a folder 10: weight of the way B -> A -> B"""
    lambda_identity: float | None = None
    """0, on a folder 0.5; times lambda_A, lambda_B: weight of leaving alone what is in the right set, colours too"""
    pool_size: int = 50
    """earlier fakes that the discriminators are shown again; 0: none"""
    noise: float | None = None
    """0.2, on a folder 0: on all that the discriminators see"""
    netG: Literal["resnet_2blocks", "resnet_6blocks", "resnet_9blocks"] | None = None
    """resnet_2blocks, on a folder resnet_9blocks"""
    netD: Literal["basic", "n_layers"] = "n_layers"
    """discriminators: n_layers has n_layers_D layers, basic has 3"""
    n_layers_D: int | None = None
    """layers of the discriminators: 2, on a folder 3"""
    ngf: int | None = None
    """8, on a folder 64: channels of the generators next to the picture"""
    ndf: int | None = None
    """16, on a folder 64: of the discriminators"""
    norm: Literal["instance", "batch", "none"] = "instance"
    no_dropout: bool = True
    weights: str | None = None
    """a folder with latest_net_G_A.pth and latest_net_G_B.pth to begin with, and latest_net_D_A.pth, latest_net_D_B.pth if there"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(batch_size=1, crop_size=1, lambda_A=0, lambda_B=0, lambda_identity=0, pool_size=0, n_layers_D=1, ngf=1, ndf=1)
        self.layers(0)

    def whole(self) -> "Options":
        """With a value for what was not given."""
        usual = FOLDER if self.data else DIGITS
        given = {name: value for name in usual if (value := getattr(self, name)) is not None}
        whole = dataclasses.replace(self, **usual | given | {"n_layers_D": self.layers(usual["n_layers_D"])})
        layers, size = whole.n_layers_D, whole.crop_size
        least = max(16, 3 * 2**layers)
        whole.want("crop_size", self.data is not None or size == 32, "32 for the digits")
        whole.want("crop_size", size % 4 == 0, "a multiple of 4")
        asked = "n_layers_D" if self.crop_size is None else "crop_size"
        whole.want(asked, size >= least, f"crop_size >= {least} for n_layers_D={layers}")
        return whole


@form.remembered("data", "crop_size", "direction")
def sets(o: Options) -> dict[str, Tensor]:
    """train_a, train_b, test_a, test_b, uint8. Raises: ValueError for a folder without the four."""
    if o.data is None:
        return blurred.sets()
    root = existing(o.data)
    if missing := [name for name in FOLDERS if not (root / name).is_dir()]:
        raise ValueError(f"cyclegan: data {o.data!r} has no folder {', '.join(missing)}; wants {', '.join(FOLDERS)}, pictures in each.")
    a, b = ("B", "A") if o.direction == "BtoA" else ("A", "B")
    images = lambda name: folder(root / name, o.crop_size, 3).images
    return {"train_a": images(f"train{a}"), "train_b": images(f"train{b}"), "test_a": images(f"test{a}"), "test_b": images(f"test{b}")}


def cycle(there: str, back: str, real: str):
    def term(networks, batch):
        return F.l1_loss(networks[back](batch.fake(networks[there])), batch.data[real])

    return term


def identity(network: str, real: str):
    return lambda networks, batch: F.l1_loss(networks[network](batch.data[real]), batch.data[real])


def build(options: Options) -> Trainer:
    o = options.whole()
    data = sets(o)
    channels = data["train_a"].shape[1]
    blocks = int(o.netG.removeprefix("resnet_").removesuffix("blocks"))
    g = lambda: ResnetGenerator(channels, channels, o.ngf, blocks, o.norm, not o.no_dropout)
    d = lambda: PatchDiscriminator(channels, o.ndf, o.n_layers_D, o.norm)
    networks = {
        "ab": Network(g(), condition="a", real="b"), "ba": Network(g(), condition="b", real="a"),
        "d_a": Network(d(), learning_rate=o.lr_d, condition=None), "d_b": Network(d(), learning_rate=o.lr_d, condition=None),
    }  # fmt: skip
    if o.weights:
        load_folder("cyclegan", o.weights, PUBLISHED, {name: network.module for name, network in networks.items()}, ("ab", "ba"))
    length = o.length(max(len(data["train_a"]), len(data["train_b"])), STEPS)
    adam = {"learning_rate": o.lr, "betas": (o.beta1, o.beta2)}
    config = o.config(batch_size=o.batch_size, latent_dim=0, loss=LOSSES[o.gan_mode], noise=o.noise, **adam, **length)
    to_b = adversarial(config, generator="ab", discriminator="d_b", fake=ImagePool(o.pool_size))
    to_a = adversarial(config, generator="ba", discriminator="d_a", fake=ImagePool(o.pool_size))
    half = 1 if o.gan_mode == "lsgan" else 0.5  # the project halves a discriminator's loss; ganfast's lsgan is halved by itself
    full = 2 if o.gan_mode == "lsgan" else 1
    learned = {"adversarial_a": (to_a, full), "adversarial_b": (to_b, full)}
    learned |= {"cycle_a": (cycle("ab", "ba", "a"), o.lambda_A), "cycle_b": (cycle("ba", "ab", "b"), o.lambda_B)}
    if o.lambda_identity:
        learned["identity_a"] = identity("ba", "a"), o.lambda_A * o.lambda_identity
        learned["identity_b"] = identity("ab", "b"), o.lambda_B * o.lambda_identity
    phases = [
        Phase("d", ("d_a", "d_b"), {"adversarial_a": (to_a, half), "adversarial_b": (to_b, half)}),
        Phase("g", ("ab", "ba"), learned, average=True),
    ]
    return Trainer(networks=networks, data=unpaired(a=data["train_a"], b=data["train_b"]), config=config, phases=phases)


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """On digits of neither set. l1_ab: of the translation and the rule; l1_ba: of the translation and the digit that the rule was given;
    read: the share of translations to digits that are read right, by a reader of which `reader` is right about the digits themselves.
    On a folder, where no answer is known: the way there and back alone. Images in [-1, 1]."""
    data = sets(options.whole())
    a, b = to_float(data["test_a"]), to_float(data["test_b"])
    ab, ba = trainer.sample(len(a), a, network="ab"), trainer.sample(len(b), b, network="ba")
    figures = {
        "cycle_a": F.l1_loss(trainer.sample(len(a), ab, network="ba"), a).item(),
        "cycle_b": F.l1_loss(trainer.sample(len(b), ba, network="ab"), b).item(),
    }
    if options.data is None:
        reader, own = readers.of_digits(data["reads"], data["read_labels"], data["test_a"], data["labels"])
        right = lambda images: readers.agreement(reader.read(images), data["labels"][:, None], ["digit"])["all"]
        figures |= {"l1_ab": F.l1_loss(ab, b).item(), "l1_ba": F.l1_loss(ba, a).item(), "read": right(ba), "reader": own}
        figures |= {"inverted_l1": F.l1_loss(-b, a).item(), "inverted_read": right(-b)}
    return figures


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Four rows of held-out pictures: A, as B; B, as A."""
    data = sets(options.whole())
    columns = min(10, len(data["test_a"]), len(data["test_b"]))
    a, b = to_float(data["test_a"][:columns]), to_float(data["test_b"][-columns:])
    rows = torch.cat([a, trainer.sample(columns, a, network="ab"), b, trainer.sample(columns, b, network="ba")])
    return to_uint8(tile(rows, columns)).expand(3, -1, -1)


def applied(trainer: Trainer, options: Options, file: Path) -> dict[str, Tensor]:
    """A picture cut and resized as in the training beside what it is as B, if it is taken for A, and as A, if it is taken for B; and each
    of these alone, under the endings that pytorch-CycleGAN-and-pix2pix gives them."""
    image = to_float(picture_at(file, options.whole().crop_size, 3 if options.data else 1)[None])
    b, a = (trainer.sample(1, image, network=name).cpu() for name in ("ab", "ba"))
    return {"": tile(torch.cat([image, b, a]), 3), "-fake_B": b[0], "-fake_A": a[0]}


SYSTEM = form.System(
    "cyclegan",
    "translates between two sets of pictures without pairs: digits, and digits inverted and blurred",
    Options,
    build,
    measure,
    picture,
    goals={"l1_ab": ("<=", 0.05), "l1_ba": ("<=", 0.05), "read": (">=", 0.985)},
    needs=("scikit-learn",),
    credit=lambda options: "" if options.data else "digits: Alpaydin & Kaynak 1998, UCI, as bundled with scikit-learn",
    applied=applied,
    fixed=("weights",),
    restored={"weights": None},
)
