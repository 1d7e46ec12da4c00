"""Super-resolution: pictures four times as large, learned from large ones and the same made small.

Two generators learn in one run: `generator` by the mean absolute error and a discriminator, `plain` by that error alone, which makes it
nearer to the truth and less sharp. Without data of your own: one photograph to learn from, another one held out whole.
Source: Ledig et al. 2017, "Photo-realistic single image super-resolution" (content and adversarial loss); Wang et al. 2018, "ESRGAN";
    Blau & Michaeli 2018, "The perception-distortion tradeoff" (why one network does not reach both).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks
from ganfast.models.super_resolution import RRDBNet, Upscaler, enlarged, rrdbnet, sizes
from ganfast.systems import form
from ganfast.systems.inpainting import slope
from ganfast.systems.sources.own import picture_at
from ganfast.systems.sources.photographs import photographs
from ganfast.systems.sources.pictures import pictures
from ganfast.systems.sources.weights import state_dict
from ganfast.train import Network, Phase, Trainer
from ganfast.train.data import to_float, to_uint8
from ganfast.train.watch.grids import tile
from ganfast.train.watch.metrics import psnr

SHOWN = 96  # pixels, of the crops in the picture and in samples
TILE, MARGIN = 256, 32  # pixels of a small picture that are enlarged in one forward, and of those around them, which it sees too


@dataclass(frozen=True)
class Options(form.Options):
    data: str | None = None
    """a folder of pictures of your own, a tenth of which, 20 at most, is held out; none: two photographs"""
    steps: int = 600
    """length of the training; schedules end with it"""
    learn_from: Literal["china", "flower"] | None = None
    """photograph to learn from, china; the other one of the two is held out"""
    crop_size: int = 48
    """side in pixels of the squares that are learned from, a multiple of 4"""
    crops: int = 4096
    """squares that are cut before the training, from as many pictures at most"""
    enlarge: Literal["yes", "no"] | None = None
    """enlarge two thirds of these squares, 1.5 times or twice, which teaches less sharp edges too: yes, on a folder no"""
    batch_size: int = 16
    """squares a step"""
    network: Literal["residual", "rrdb"] | None = None
    """residual, a small network that begins as bicubic enlargement, or rrdb, ESRGAN's"""
    width: int | None = None
    """channels of the generators, 32; ESRGAN's has 64"""
    blocks: int | None = None
    """blocks of the generators, 6; ESRGAN's has 23"""
    growth: int | None = None
    """channels that each convolution in a block of rrdb adds; half of width"""
    weights: str | None = None
    """a file with the state dict of an RRDBNet of scale 4, as published for ESRGAN and Real-ESRGAN, to begin with; it says network, width,
    blocks and growth"""
    width_d: int = 16
    """channels of the discriminator's first layer"""
    learning_rate: float | None = None
    """learning rate of the generators: 1e-3, of an RRDBNet 1e-4"""
    learning_rate_d: float = 1e-3
    """learning rate of the discriminator"""
    l1: float = 1.0
    """weight of the mean absolute error"""
    adversarial: float = 0.1
    """weight of the adversarial loss"""
    r1: float = 0.001
    """weight of the discriminator's gradient penalty; 0: none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.want("crop_size", self.crop_size >= 16 and self.crop_size % 4 == 0, "a multiple of 4 of at least 16")
        for name in ("batch_size", "width", "blocks", "growth", "width_d"):
            self.want(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("l1", "adversarial", "r1"):
            self.want(name, getattr(self, name) >= 0, "at least 0")
        for name in ("network", "width", "blocks", "growth"):
            self.want(name, self.weights is None or getattr(self, name) is None, "none with weights, whose file says it")
        self.want("growth", self.growth is None or self.network == "rrdb", "none but with network rrdb")
        self.want("learn_from", self.data is None or self.learn_from is None, "none with data, of which a tenth is held out")
        self.want("crops", self.crops >= self.batch_size, f"at least batch_size, which is {self.batch_size}")


class Discriminator(nn.Module):
    """Pictures, and what they must look like when they are small, to logits of patches. It sees the small one enlarged."""

    def __init__(self, width: int, channels: int = 3) -> None:
        super().__init__()
        down = lambda a, b: (nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2))
        same = lambda a, b: (nn.Conv2d(a, b, 3, 1, 1), nn.LeakyReLU(0.2))
        at_all = *same(2 * channels, width), *down(width, 2 * width), *down(2 * width, 4 * width), *same(4 * width, 4 * width)
        self.layers = nn.Sequential(*at_all, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, images: Tensor, low: Tensor) -> Tensor:
        return self.layers(torch.cat([images, images - enlarged(low)], 1))


def shrunk(high: Tensor) -> Tensor:
    """A quarter as large, in training and measure alike: bicubic, antialiased, in bytes. uint8 [N, C, 4h, 4w] -> [N, C, h, w]."""
    return to_uint8(F.interpolate(to_float(high), scale_factor=0.25, mode="bicubic", antialias=True))


def crops(images: Sequence[Tensor], count: int, size: int, seed: int, enlarge: bool = True) -> dict[str, Tensor]:
    """Squares at random places of uint8 images [3, H, W], each image as often as the others, turned by random quarters: `high` uint8
    [count, 3, size, size], and `low`, a quarter as large. enlarge: a third of them 1.5 times, another one twice: of a single photograph
    all places are about as sharp, and what learned from these alone sharpens another one too much."""
    random, found = torch.Generator().manual_seed(seed), []
    draw = lambda n: torch.randint(n, (), generator=random).item()
    for i, image in enumerate(images):
        for _ in range(i, count, len(images)):
            side = 2 * size // (2 + draw(3)) if enlarge else size
            y, x = draw(image.shape[1] - side + 1), draw(image.shape[2] - side + 1)
            cut = to_float(image[None, :, y : y + side, x : x + side].rot90(draw(4), (2, 3)))
            found.append(to_uint8(F.interpolate(cut, size=(size, size), mode="bicubic")))
    high = torch.cat(found)
    return {"low": shrunk(high), "high": high}


@form.remembered("data", "crop_size", "crops", "learn_from")
def sets(o: Options) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Pictures to learn from, and held out: uint8 [3, H, W] each, H and W multiples of 4."""
    if o.data is not None:
        return pictures("super-resolution", o.data, o.crop_size, 4, o.crops)
    own = {photograph.name: photograph.image[:, :424, :640] for photograph in photographs()}
    return [own.pop(o.learn_from or "china")], list(own.values())


def l1(network: str):
    return lambda networks, batch: F.l1_loss(batch.fake(networks[network]), batch.data["high"])


def generator(o: Options) -> nn.Module:
    """Raises: ValueError for weights of a network that does not take colours."""
    width, blocks = o.width or 32, o.blocks or 6
    if not o.weights:
        return RRDBNet(3, width, blocks, o.growth or max(1, width // 2), signed=True) if o.network == "rrdb" else Upscaler(3, width, blocks)
    network = rrdbnet(state_dict("super-resolution", o.weights), signed=True)
    if (channels := network.conv_last.out_channels) != 3:
        _checks.fail("super-resolution", f"weights got {o.weights!r}, a network of {channels} channels, wants 3, as pictures have colours")
    return network


def held_in(options: Options, state: Mapping) -> dict[str, object]:
    """Options that put a run back without the file of its weights, by the sizes of the networks in a checkpoint."""
    return {"weights": None, "network": "rrdb", **sizes(state["networks"]["generator"])} if options.weights else {}


def build(options: Options) -> Trainer:
    o = options
    train, _ = sets(o)
    g = functools.partial(generator, o)
    networks = {"generator": Network(g()), "plain": Network(g()), "discriminator": Network(Discriminator(o.width_d), o.learning_rate_d)}
    usual = 1e-4 if o.weights or o.network == "rrdb" else 1e-3
    rate = usual if o.learning_rate is None else o.learning_rate
    config = o.config(batch_size=o.batch_size, latent_dim=0, flip=True, learning_rate=rate, decay_from=0.5, r1=o.r1)
    both = {"l1": (l1("generator"), o.l1), "adversarial": o.adversarial}
    phases = [
        Phase("d", "discriminator", {"adversarial": 1} | ({"r1": 1} if o.r1 else {})),
        Phase("g", "generator", both, average=True),
        Phase("plain", "plain", {"plain_l1": (l1("plain"), 1.0)}, average=True),
    ]
    data = crops(train, o.crops, o.crop_size, o.seed, o.enlarge == "yes" if o.enlarge else o.data is None)
    return Trainer(networks=networks, data=data, config=config, phases=phases, condition="low", real="high")


def made(trainer: Trainer, high: Tensor) -> dict[str, Tensor]:
    """What is made of large pictures uint8 [N, 3, H, W] made small: float in [-1, 1], by the generator, by the plain one, bicubically."""
    low = shrunk(high)
    by = {name: trainer.sample(len(high), low, network=name).clamp(-1, 1).cpu() for name in ("generator", "plain")}
    return by | {"bicubic": enlarged(to_float(low))}


def whole(trainer: Trainer, low: Tensor) -> Tensor:
    """uint8 [3, h, w] of any size -> float [3, 4h, 4w] in [-1, 1], tile by tile, as a large picture as a whole fills the memory."""
    height, width = low.shape[1:]
    found = torch.empty(3, 4 * height, 4 * width)
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            top, left, bottom, right = max(0, y - MARGIN), max(0, x - MARGIN), y + TILE, x + TILE
            seen = low[None, :, top : bottom + MARGIN, left : right + MARGIN]
            some = trainer.sample(1, seen, network="generator").clamp(-1, 1)[0].cpu()
            found[:, 4 * y : 4 * bottom, 4 * x : 4 * right] = some[:, 4 * (y - top) :, 4 * (x - left) :][:, : 4 * TILE, : 4 * TILE]
    return found


def w1(a: Tensor, b: Tensor) -> float:
    """How far the distributions of slopes are apart: the Wasserstein-1 distance, of as many pixels."""
    return (slope(a).flatten().sort()[0] - slope(b).flatten().sort()[0]).abs().mean().item()


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """On held-out pictures, of your own the middle 640 x 640 pixels, means over them. psnr, of the plain generator psnr_l1, of bicubic
    enlargement psnr_bicubic, dB; gain_l1: of the plain one over bicubic; below_bicubic: what the adversarial one falls short of it. w1,
    w1_l1, w1_bicubic: how far the distribution of slopes is from the real one, images in [-1, 1]; w1_ratio, w1_ratio_l1: to bicubic's."""
    _, test = sets(options)
    sums: dict[str, float] = {}
    for picture in test:
        real = to_float(picture[None])
        for name, image in made(trainer, picture[None]).items():
            end = {"generator": "", "plain": "_l1", "bicubic": "_bicubic"}[name]
            for key, value in ((f"psnr{end}", psnr(image, real)), (f"w1{end}", w1(image, real))):
                sums[key] = sums.get(key, 0.0) + value / len(test)
    sums["gain_l1"], sums["below_bicubic"] = sums["psnr_l1"] - sums["psnr_bicubic"], sums["psnr_bicubic"] - sums["psnr"]
    bicubic = sums["w1_bicubic"]  # of plain pictures rounding alone
    return sums | {f"w1_ratio{end}": sums[f"w1{end}"] / bicubic if bicubic > 1e-6 else float("inf") for end in ("", "_l1")}


def detailed(image: Tensor, size: int) -> Tensor:
    """The squares that a uint8 picture [3, H, W] consists of, [N, 3, size, size], those with the steepest slopes first."""
    squares = image.unfold(1, size, size).unfold(2, size, size).flatten(1, 2).transpose(0, 1)
    return squares[slope(to_float(squares)).mean((1, 2, 3)).argsort(descending=True)]


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Held-out crops, each in a row: made small, bicubic, ours, real."""
    test = [image for image, _ in zip(sets(options)[1], range(4))]
    size = min(SHOWN, *(side for image in test for side in image.shape[1:]))
    high = torch.cat([detailed(image, size)[: 4 // len(test)] for image in test])
    by, near = made(trainer, high), F.interpolate(to_float(shrunk(high)), scale_factor=4.0)
    rows = torch.stack([near, by["bicubic"], by["generator"], to_float(high)], 1)
    return to_uint8(tile(rows.flatten(0, 1), 4))


def sample(trainer: Trainer, options: Options, *, count: int, seed: int) -> Tensor:
    """`count` crops of held-out pictures, or all if they are fewer, which follow from the seed: made small, and ours beside it."""
    test = sets(options)[1]
    size = min(SHOWN, *(side for image in test for side in image.shape[1:]))
    squares = torch.cat([detailed(image, size) for image in test])
    low = shrunk(squares[torch.randperm(len(squares), generator=torch.Generator().manual_seed(seed))[:count]])
    near, ours = F.interpolate(to_float(low), scale_factor=4.0), trainer.sample(len(low), low, network="generator").clamp(-1, 1).cpu()
    return torch.stack([tile(torch.stack(pair), 2) for pair in zip(near, ours)])


def applied(trainer: Trainer, options: Options, file: Path) -> dict[str, Tensor]:
    """A picture of any size, four times as large."""
    return {"-x4": whole(trainer, picture_at(file, None, 3))}


SYSTEM = form.System(
    "super-resolution",
    "makes pictures four times as large",
    Options,
    build,
    measure,
    picture,
    goals={"gain_l1": (">=", 0.3), "w1_ratio": ("<=", 0.6), "below_bicubic": ("<=", 0.4)},
    needs=("scikit-learn",),
    credit=lambda options: "" if options.data else "; ".join(photograph.credit for photograph in photographs()),
    sample=sample,
    applied=applied,
    fixed=("weights", "learn_from"),
    restored=held_in,
)
