"""Portraits: a folder of pictures in, many variations out, numbered on a contact sheet; of those that somebody picks, large files.

So was made what is known as the first picture by a GAN that an auction house sold, in 2018: a DCGAN on a folder of painted portraits, and
somebody who chose among its pictures. Without data of your own: composed portraits of 19,440 people, most of whom it never sees.
Source: Radford, Metz & Chintala 2015 (DCGAN); Kynkäänniemi et al. 2019 (precision and recall).
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks
from ganfast.models import DCGANDiscriminator, DCGANGenerator
from ganfast.systems import form
from ganfast.systems.sources import portraits as source
from ganfast.train import Trainer
from ganfast.train.data import ImageData, folder, to_float, to_uint8
from ganfast.train.randomness import mixed
from ganfast.train.watch.metrics import pixels8, precision_recall

MEASURED = 1000  # at most so many pictures are generated and compared with as many held-out ones
LEAST = 50  # of so many at least; precision and recall of fewer are chance
LINE = 13  # pixels of a line of Pillow's default font
HOW = "ganfast sample RUN --pick 3,7,12 writes these large"


@dataclass(frozen=True)
class Options(form.Options):
    steps: int = 2500
    image_size: int = 64
    """a power of two; pictures of your own are cut and resized to it"""
    width: int = 16
    """channels of both networks next to the picture"""
    batch_size: int = 32
    noise: float = 0.4
    """on all that the discriminator sees, without which it soon knows the pictures by heart"""
    r1: float = 0.0
    """weight of the gradient penalty on real pictures, in whose place the discriminator otherwise has batch norm"""
    augment: str = ""
    """DiffAugment of what the discriminator sees, such as color,translation: for some hundred pictures or fewer"""
    pictures: int = 5000
    """how many portraits are composed for the training, where there are no data of your own"""
    variations: int = 60
    """how many pictures the contact sheet shows; they follow from the run's seed"""
    enlarge: int = 8
    """how many times as wide and as high a picture is that `ganfast sample RUN --pick` writes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.image_size
        self.want("image_size", size >= 16 and size & (size - 1) == 0, "a power of two of at least 16")
        self.want("image_size", self.data is not None or size <= 256, "at most 256 for composed portraits")
        for name in ("width", "batch_size", "variations", "enlarge"):
            self.want(name, getattr(self, name) >= 1, "at least 1")
        self.want("pictures", 64 <= self.pictures <= 20_000, "64 to 20000")
        self.of_own_data("pictures")


@functools.lru_cache(maxsize=1)  # training, measure and picture read the same
def sets(data: str | None, size: int, pictures: int, seed: int) -> dict[str, Tensor | list[str]]:
    """train and held, uint8 [N, C, S, S], and of composed portraits `people`, whom train shows, int64 [N, 8]: none of them is in held. Of a
    folder of fewer than 500 pictures none are held out; `broken` says what is left out of it, as it cannot be read.

    Raises: ValueError for a folder of fewer than 16 pictures.
    """
    if data is None:
        people, others = (source.attributes(n, mixed(seed, what)) for n, what in ((pictures, "train"), (16 * MEASURED, "held")))
        others = others[~torch.isin(_number(others), _number(people))][: 2 * MEASURED]
        return {"train": source.render(people, size), "held": source.render(others, size), "people": people}
    found = folder(data, size, 3, classes=False)
    images = found.images
    if len(images) < 16:
        cause = f"{len(found.broken)} cannot be read, the first: {found.broken[0]}" if found.broken else ""
        _checks.fail("portraits", f"data {data!r} has {len(images)} pictures that can be read, wants at least 16", cause)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    held = min(2 * MEASURED, max(2 * LEAST, len(images) // 10)) if len(images) >= 10 * LEAST else 0
    return {"train": images[held:], "held": images[:held], "broken": found.broken}


def _number(people: Tensor) -> Tensor:
    """int64 [N] of attributes [N, 8]: each of the people that can be drawn has a number."""
    numbers = torch.zeros(len(people), dtype=torch.int64)
    for column, names in zip(people.T, source.parts().values(), strict=True):
        numbers = numbers * len(names) + column
    return numbers


def _sets(o: Options) -> dict[str, Tensor]:
    return sets(o.data, o.image_size, o.pictures, o.seed)


def build(options: Options) -> Trainer:
    o = options
    data = _sets(o)
    images = data["train"]
    config = o.config(batch_size=o.batch_size, noise=o.noise, r1=o.r1, augment=o.augment)  # all else as the trainer has it
    channels = images.shape[1]
    shown = ImageData(images, torch.zeros(len(images), dtype=torch.int64), [""], data.get("broken", []))
    generator = DCGANGenerator(o.image_size, config.latent_dim, o.width, channels)
    return Trainer(generator, DCGANDiscriminator(o.image_size, o.width, channels, norm=not o.r1), shown, config)


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """compared: how many generated pictures are compared with as many held-out ones; 0 where too few are held out, and nothing else is
    measured. precision_pixels8, recall_pixels8: theirs, by 8x8 area averages; precision_pixels8_real, recall_pixels8_real: of the held-out
    pictures and as many others of them. distinct: different people of 1,000 generated, each taken for the nearest of all that can be drawn;
    distinct_real: of 1,000 held-out ones; new: the share of those whom no training picture shows; l1: mean error against the nearest,
    images in [-1, 1]."""
    data = _sets(options)
    count = len(data["held"]) // 2
    if not count:
        print("precision and recall are not measured: of fewer than 500 pictures none are held out")
        return {"compared": 0.0}
    real, others = to_float(data["held"][: 2 * count]).chunk(2)
    made = trainer.sample(count, seed=mixed(options.seed, "measure")).cpu()
    figures = {"compared": float(count)}
    for name, pictures in {"": made, "_real": others}.items():
        figures[f"precision_pixels8{name}"], figures[f"recall_pixels8{name}"] = precision_recall(pixels8(real), pixels8(pictures))
    if options.data is None:
        people, held = nearest(torch.cat([made, real])).chunk(2)
        numbers = _number(people).unique()
        figures["distinct"], figures["distinct_real"] = float(len(numbers)), float(len(_number(held).unique()))
        figures["new"] = 1 - torch.isin(numbers, _number(data["people"])).float().mean().item()
        figures["l1"] = (made - to_float(source.render(people, options.image_size))).abs().mean().item()
    return figures


def nearest(images: Tensor) -> Tensor:
    """int64 [N, 8]: of floats [N, 3, S, S] the nearest of all people, at 32 pixels at most, by the source's own rule."""
    return source.read(F.adaptive_avg_pool2d(images, min(32, images.shape[2])))


def variations(trainer: Trainer, options: Options) -> Tensor:
    """uint8 [variations, C, S, S], on the CPU: those of the contact sheet, number 1 first. They follow from the run and its seed."""
    return to_uint8(trainer.sample(options.variations, seed=options.seed)).cpu()


def picture(trainer: Trainer, options: Options) -> Tensor:
    return sheet(variations(trainer, options), HOW)


def sheet(images: Tensor, words: str) -> Tensor:
    """A contact sheet of uint8 [N, C, S, S], wider than high, each with its number below it, and with a line of words below all."""
    from PIL import Image, ImageDraw, ImageFont

    n, _, height, width = images.shape
    columns = min(n, math.ceil(math.sqrt(n * 5 / 3)))
    places = [(2 + i % columns * (width + 2), 2 + i // columns * (height + LINE)) for i in range(n)]
    font = ImageFont.load_default()
    wide = max(columns * (width + 2) + 2, math.ceil(font.getlength(words)) + 4)
    whole = Image.new("RGB", (wide, places[-1][1] + height + 2 * LINE), "white")
    draw = ImageDraw.Draw(whole)
    for number, (image, (left, top)) in enumerate(zip(images, places, strict=True), 1):
        whole.paste(Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()), (left, top))
        draw.text((left + width // 2, top + height), str(number), "black", font, anchor="ma")
    draw.text((2, whole.height - LINE), words, "black", font)
    return torch.frombuffer(bytearray(whole.tobytes()), dtype=torch.uint8).view(whole.height, whole.width, 3).permute(2, 0, 1)


def sample(trainer: Trainer, options: Options, *, count: int, seed: int, pick: tuple[int, ...] = ()) -> Tensor:
    """`pick`: numbers of the contact sheet, whose variations are given, enlarged; none: `count` others, as they are.

    Raises: ValueError for numbers that are not on it.
    """
    if not pick:
        return trainer.sample(count, seed=seed)
    if wrong := [number for number in pick if not 1 <= number <= options.variations]:
        _checks.fail("sample", f"pick got {wrong[0]}, wants 1 to {options.variations}, the numbers on the contact sheet")
    return enlarged(variations(trainer, options)[torch.tensor(pick) - 1], options.enlarge)


def enlarged(images: Tensor, times: int) -> Tensor:
    """uint8 [N, C, S, S] as floats in [-1, 1], [N, C, times * S, times * S], bicubic."""
    return F.interpolate(to_float(images), scale_factor=times, mode="bicubic").clamp(-1, 1)


SYSTEM = form.System(
    "portraits",
    "makes variations of a folder of pictures, by default settings, on a contact sheet to pick from",
    Options,
    build,
    measure,
    picture,
    goals={"precision_pixels8": (">=", 0.6), "recall_pixels8": (">=", 0.5)},
    needs=("robohash",),
    credit=lambda options: "" if options.data else source.CREDIT,
    sample=sample,
    fixed=("pictures",),
)
