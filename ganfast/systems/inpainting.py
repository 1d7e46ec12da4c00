"""Inpainting: what is missing in a picture is filled in, from what is left of it.

The generator sees the picture without the hole's pixels, and where the hole is; the discriminator sees whole pictures, real or completed.
Without data of your own: handwritten digits.
Source: Pathak, Krähenbühl, Donahue, Darrell & Efros 2016, "Context encoders" (the losses); Ronneberger, Fischer & Brox 2015 (the U-Net).
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.systems import form, readers
from ganfast.systems.sources.masks import masks, of_folder
from ganfast.train import Network, Phase, Trainer
from ganfast.train.data import digits, folder, to_float, to_uint8, unpaired
from ganfast.train.watch.grids import tile

MASKS = 4096  # as many are drawn before the training, and meet the pictures anew in each epoch


@dataclass(frozen=True)
class Options(form.Options):
    steps: int = 800
    mask: Literal["block", "border", "free"] = "block"
    """what is missing: a square, all around a square, or strokes as of a brush"""
    hole: int = 14
    """side of the square in pixels; of strokes: they cover about as much"""
    masks: str | None = None
    """a folder of masks of your own, image_size x image_size pixels, white where a picture is missing"""
    image_size: int = 32
    """a power of two; pictures of your own are cut and resized to it"""
    batch_size: int = 32
    width: int = 24
    """of the networks at the second highest resolution"""
    learning_rate: float = 1e-3
    l1: float = 1.0
    """weight of the mean absolute error in the hole"""
    adversarial: float = 0.05
    """weight of the adversarial loss"""
    r1: float = 0.1
    """weight of the discriminator's gradient penalty; 0 leaves it out"""
    noise: float = 0.1
    """on all that the discriminator sees"""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.image_size
        self.want("image_size", size >= 16 and size & (size - 1) == 0, "a power of two of at least 16")
        self.want("image_size", self.data is not None or size == 32, "32 for the digits")
        for name in ("l1", "adversarial", "r1", "noise"):
            self.want(name, getattr(self, name) >= 0, "at least 0")
        self.want("hole", 0 < self.hole < size, f"1 to {size - 1}, as the pictures have {size} x {size} pixels")


def _conv(c_in: int, c_out: int, down: bool = False) -> nn.Module:
    size, stride = (4, 2) if down else (3, 1)
    return nn.Sequential(nn.Conv2d(c_in, c_out, size, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2))


class UNet(nn.Module):
    """known [N, C, S, S], 0 where mask [N, 1, S, S] is 1 -> the picture, with the known pixels as they are."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        c = [width // 2] + [width * min(2**i, 4) for i in range((size // 4).bit_length() - 1)]
        self.first = _conv(channels + 1, c[0])
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b, True), _conv(b, b)) for a, b in itertools.pairwise(c))
        self.whole = nn.Sequential(  # of 4x4: each place of it sees all others
            nn.Conv2d(c[-1], 2 * c[-1], 4), nn.LeakyReLU(0.2), nn.ConvTranspose2d(2 * c[-1], c[-1], 4), nn.LeakyReLU(0.2)
        )  # fmt: skip
        self.up = nn.ModuleList(_conv(2 * b, a) for a, b in itertools.pairwise(c))
        self.last = nn.Sequential(_conv(2 * c[0], c[0]), nn.Conv2d(c[0], channels, 3, 1, 1), nn.Tanh())

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        x = self.first(torch.cat([known, mask], 1))
        skipped = [x]
        for down in self.down:
            x = down(x)
            skipped.append(x)
        x = self.whole(x)
        for up in reversed(self.up):
            x = F.interpolate(up(torch.cat([x, skipped.pop()], 1)), scale_factor=2.0, mode="bilinear")
        return known + mask * self.last(torch.cat([x, skipped.pop()], 1))


class Discriminator(nn.Module):
    """Whole pictures, and where they were completed, to logits."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        c = [channels + 1] + [width * min(2**i, 8) for i in range((size // 4).bit_length() - 1)]
        down = [nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)) for a, b in itertools.pairwise(c)]
        self.layers = nn.Sequential(*down, nn.Conv2d(c[-1], 1, 4))

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        return self.layers(torch.cat([images, mask], 1)).flatten(1)


def without_holes(item: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return item["images"] * (1 - item["masks"]), item["masks"]


def in_hole(values: Tensor, mask: Tensor) -> Tensor:
    """Their mean where the mask is 1."""
    return (values * mask).sum() / (mask.sum() * values.shape[1])


def l1(networks, batch) -> Tensor:
    return in_hole((batch.fake(networks.generator) - batch.real).abs(), batch.data["masks"])


@form.remembered("data", "image_size")
def sets(o: Options) -> dict[str, Tensor]:
    """train and test, uint8, of digits with their labels."""
    data = digits(32) if o.data is None else folder(o.data, o.image_size, 3)
    shuffle = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    held = min(300, -(-len(shuffle) // 10)) if o.data else 300
    train, test = shuffle[:-held], shuffle[-held:]
    return {"train": data.images[train], "test": data.images[test], "train_labels": data.labels[train], "test_labels": data.labels[test]}


def build(options: Options) -> Trainer:
    o = options
    images = sets(o)["train"]
    channels = images.shape[1]
    config = o.config(batch_size=o.batch_size, latent_dim=0, learning_rate=o.learning_rate, noise=o.noise, r1=o.r1)
    learned, told = {"l1": (l1, o.l1), "adversarial": o.adversarial}, {"adversarial": 1} | ({"r1": 1} if o.r1 else {})
    phases = [Phase("d", "discriminator", told), Phase("g", "generator", learned, average=True)]
    missing = masks(o.mask, MASKS, o.image_size, o.hole, seed=o.seed) if o.masks is None else of_folder(o.masks, o.image_size)
    data = unpaired(images=images, masks=missing)
    discriminator = Network(Discriminator(channels, o.image_size, o.width), condition="masks")
    generator = UNet(channels, o.image_size, o.width)
    return Trainer(generator, discriminator, data, config, phases=phases, condition=without_holes, real="images")


def completed(trainer: Trainer, o: Options, images: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures with holes filled, and the holes: the same for every seed of a run."""
    if o.masks is None:
        holes = masks(o.mask, len(images), o.image_size, o.hole)
    else:
        own = of_folder(o.masks, o.image_size)
        holes = own[torch.arange(len(images)) % len(own)]
    return trainer.sample(len(images), {"images": images, "masks": holes}), holes


def slope(images: Tensor) -> Tensor:
    """How steep brightness is at each pixel."""
    down, right = F.pad(images.diff(dim=2), (0, 0, 0, 1)), F.pad(images.diff(dim=3), (0, 1))
    return (down.square() + right.square()).sqrt()


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """On held-out pictures, in the hole, images in [-1, 1]. l1: mean absolute error; sharpness: mean slope over that of the true
    picture, sharpness_off: how far that is from 1; read: the share of completed digits that are read right, by a reader of which `reader`
    is right about whole ones, and `read_with_hole` about those with nothing filled in."""
    data = sets(options)
    images = to_float(data["test"])
    made, holes = completed(trainer, options, images)
    sharpness = in_hole(slope(made), holes) / in_hole(slope(images), holes)
    figures = {
        "l1": in_hole((made - images).abs(), holes).item(),
        "sharpness": sharpness.item(),
        "sharpness_off": abs(sharpness.item() - 1),
    }
    if options.data is None:
        reader, own = readers.of_digits(data["train"], data["train_labels"], data["test"], data["test_labels"])
        right = lambda images: readers.agreement(reader.read(images), data["test_labels"][:, None], ["digit"])["all"]
        figures |= {"read": right(made), "reader": own, "read_with_hole": right(images * (1 - holes))}
    return figures


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Held-out pictures: with the hole, completed, as they were."""
    images = to_float(sets(options)["test"][:10])
    made, holes = completed(trainer, options, images)
    return to_uint8(tile(torch.cat([images * (1 - holes), made, images]), len(images))).expand(3, -1, -1)


SYSTEM = form.System(
    "inpainting",
    "fills holes in pictures: digits of which a square is missing",
    Options,
    build,
    measure,
    picture,
    goals={"l1": ("<=", 0.16), "read": (">=", 0.97), "sharpness_off": ("<=", 0.05)},
    needs=("scikit-learn",),
    credit=lambda options: "" if options.data else "digits: Alpaydin & Kaynak 1998, UCI, as bundled with scikit-learn",
)
