"""Puppet: one picture of a face, moved as the key points of another's film say. Every frame carries a mark in its pixels.

The key points of the picture and of the frame that is asked for give a flow, smooth between the points. A U-Net sees the picture, the same
moved by the flow, and where the points shall be; it corrects the flow and draws what the picture does not show. It learns from two frames
of one person; the discriminator sees frame, picture and points. docs/ethics.md says what must not be done with it.
Without data of your own: drawn people who move, so that the true frame is known for anybody's motion.
Source: Siarohin, Lathuiliere, Tulyakov, Ricci & Sebe 2019, "First order motion model for image animation" (a picture moved by key points,
    and drawn where it is hidden); Isola et al. 2017 (the losses); Rasmussen & Williams 2006, section 2.7 (the flow).
"""

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.models.pix2pix import DOWNS, PairDiscriminator, UnetGenerator
from ganfast.systems import form, provenance
from ganfast.systems.inpainting import slope
from ganfast.systems.sources import acted, portraits, puppets
from ganfast.systems.sources.acted import Items
from ganfast.train import Network, Phase, Trainer
from ganfast.train.data import to_float, to_uint8
from ganfast.train.watch import grids

FACES = 50  # of the held-out people so many have their points and parts read
WIDE, FINE = 0.7, 0.07  # how far points move their surroundings, in half pictures: together, as a head does, and each alone, as a lid
SPREAD = 0.06  # the size of a point's spot, in half pictures
REACH = 0.15  # how far the network corrects the flow, in half pictures
VALUES = 2**26  # of the largest tensor that a forward outside the training makes: float32, 256 MiB
CONSENT = "Pictures of real people: only with the consent of who is shown and of who drives; docs/ethics.md says what must not be done."


@dataclass(frozen=True)
class Options(form.Options):
    data: str | None = None
    """a folder whose sub-folders are clips of one person each, or of animated GIFs, with key points beside; none: drawn people"""
    steps: int = 1700
    image_size: int = 64
    """a power of two; frames of your own are cut and resized to it"""
    people: int = 1500
    """who are drawn for the training, in three frames each"""
    batch_size: int = 8
    width: int = 16
    """of the networks next to the picture"""
    learning_rate: float = 1e-3
    learning_rate_d: float = 2e-4
    l1: float = 100.0
    """weight of the mean absolute error"""
    near: float = 8.0
    """how many times as much the error weighs at the points, above once: mouths and eyes have few pixels"""
    adversarial: float = 2.0
    """weight of the adversarial loss"""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.image_size
        self.want("image_size", size in provenance.SIZES, "32, 64, 128 or 256")
        for name in ("batch_size", "width"):
            self.want(name, getattr(self, name) >= 1, "at least 1")
        self.want("people", 2 <= self.people <= 10_000, "2 to 10000")
        for name in ("learning_rate", "learning_rate_d"):
            self.want(name, getattr(self, name) > 0, "a number above 0")
        for name in ("l1", "near", "adversarial"):
            self.want(name, getattr(self, name) >= 0, "at least 0")
        self.want("l1", self.l1 + self.adversarial > 0, "a weight above 0 where adversarial is 0 too")
        self.of_own_data("people")


def flow(start: Tensor, end: Tensor, size: int) -> Tensor:
    """[N, size, size, 2]: for each pixel the place, as grid_sample takes it, from which it comes, where points start [N, K, 2] have moved
    to end [N, K, 2]. The shift is affine with a smooth correction near the points (a Gaussian process), and so defined for any points."""
    near = lambda a, b, far: (-torch.cdist(a, b).square() / (2 * far**2)).exp()
    kernel = lambda a, b: near(a, b, WIDE) + 0.1 * near(a, b, FINE) + 10 * (1 + a @ b.transpose(1, 2))
    at = (torch.arange(size, device=end.device) + 0.5) * 2 / size - 1
    places = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).view(1, -1, 2).expand(len(end), -1, -1)
    with torch.autocast(end.device.type, enabled=False):  # bfloat16 would round places to whole pixels
        start, end = start.float(), end.float()
        weights = torch.linalg.solve(kernel(end, end) + 0.04 * torch.eye(end.shape[1], device=end.device), start - end)
        return (places + kernel(places, end) @ weights).view(-1, size, size, 2)


def spots(points: Tensor, size: int) -> Tensor:
    """[N, K, size, size]: a spot of height 1 at each of the points [N, K, 2]."""
    at = (torch.arange(size, device=points.device) + 0.5) * 2 / size - 1
    x, y = ((points[..., i, None] - at).square() for i in range(2))
    return (-(y[..., :, None] + x[..., None, :]) / (2 * SPREAD**2)).exp()


def moved(still: Tensor, flow: Tensor) -> Tensor:
    return F.grid_sample(still, flow, padding_mode="border", align_corners=False)


def asked(item: Items) -> tuple[Tensor, Tensor, Tensor]:
    """What the generator is told: the picture, the flow and the spots."""
    size = item["still"].shape[-1]
    return item["still"], flow(item["from"], item["to"], size), spots(item["to"], size)


def shown(item: Items) -> Tensor:
    """What the discriminator sees beside a frame: the picture and the spots."""
    return torch.cat([item["still"], spots(item["to"], item["still"].shape[-1])], 1)


class Generator(nn.Module):
    """still [N, 3, S, S], flow [N, S, S, 2], spots [N, K, S, S] -> the frame [N, 3, S, S], always with the mark of `provenance`."""

    def __init__(self, points: int, size: int, width: int) -> None:
        super().__init__()
        self.network = UnetGenerator(6 + points, 6, DOWNS[f"unet_{size}"], width, dropout=False)

    def forward(self, still: Tensor, flow: Tensor, spots: Tensor) -> Tensor:
        y = self.network(torch.cat([still, moved(still, flow), spots], 1))
        drawn, correction, share = y[:, :3], y[:, 3:5], (y[:, 5:] + 1) / 2
        return provenance.marked(share * moved(still, flow + REACH * correction.permute(0, 2, 3, 1)) + (1 - share) * drawn)


class Discriminator(PairDiscriminator):
    """Frames as the generator gives them, the mark on the real ones too."""

    def forward(self, images: Tensor, given: Tensor) -> Tensor:
        return super().forward(provenance.marked(images), given)


def l1(networks, batch, near: float) -> Tensor:
    """The mean absolute error, at the points 1 + near times as much."""
    frames, there = provenance.marked(batch.data["frame"]), spots(batch.data["to"], batch.real.shape[-1]).amax(1, keepdim=True)
    return ((batch.fake(networks.generator) - frames).abs() * (1 + near * there)).mean()


def source(o: Options) -> acted.Source:
    return acted.Source(o.data, o.image_size, o.people, o.seed)


def build(options: Options) -> Trainer:
    o = options
    data = acted.sets(source(o))[0]
    if o.data:
        print(CONSENT)
    points = data["to"].shape[1]
    config = o.config(
        batch_size=o.batch_size, latent_dim=0, learning_rate=o.learning_rate, discriminator_learning_rate=o.learning_rate_d,
        betas=(0.5, 0.9), loss="nonsaturating",
    )  # fmt: skip
    learned = {"adversarial": o.adversarial} if o.adversarial else {}
    learned |= {"l1": (functools.partial(l1, near=o.near), o.l1)} if o.l1 else {}
    phases = [Phase("d", "discriminator", {"adversarial": 0.5}), Phase("g", "generator", learned, average=True)]
    discriminator = Network(Discriminator(6 + points, o.width, 2), condition=shown)
    return Trainer(Generator(points, o.image_size, o.width), discriminator, data, config, phases=phases, condition=asked, real="frame")


def chunks(items: Items) -> Iterator[Items]:
    """A few at a time, images as floats: of each the flow and the spots take S x S x K numbers."""
    some = max(1, VALUES // (items["still"].shape[-1] ** 2 * items["to"].shape[1]))
    for at in range(0, len(items["to"]), some):
        chunk = {name: value[at : at + some] for name, value in items.items()}
        yield {name: to_float(value) if value.dtype == torch.uint8 else value for name, value in chunk.items()}


def made(trainer: Trainer, items: Items) -> Tensor:
    """[N, 3, S, S], on the CPU, of items with still, from and to."""
    told = {name: items[name] for name in ("still", "from", "to")}
    return torch.cat([trainer.sample(len(item["to"]), item).cpu() for item in chunks(told)])


def over(a: float, b: float) -> float:
    return a / b if b else float("inf")


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """Held-out people, each moved by the points of another; of --data: each held-out clip from its first frame on, by its own points. All
    above the mark, images in [-1, 1]. l1: mean absolute error; l1_ratio: over `copied`, that of the still itself; l1_over_warped: over
    `warped`, that of the still moved by the flow alone, which learns nothing; other_points: of what is made by the points of another
    frame. near, near_copied, near_warped, near_over_warped: errors around the points that were asked for. sharpness: mean slope over that
    of the true frames, sharpness_off: how far it is from 1. Of drawn people also what `faces` says."""
    test, sums, first = acted.sets(source(options))[1], Counter(), []
    for item in chunks(test | {"other": test["to"].roll(1, 0)}):
        found, warped, true = made(trainer, item), moved(item["still"], asked(item)[1]), provenance.above(item["frame"])
        there = provenance.above(spots(item["to"], item["frame"].shape[-1]).amax(1, keepdim=True)).expand_as(true)
        images = {"l1": found, "copied": item["still"], "warped": warped, "other_points": made(trainer, item | {"to": item["other"]})}
        off = {name: (provenance.above(image) - true).abs() for name, image in images.items()}
        sums.update({name: error.mean().item() * len(true) for name, error in off.items()})
        near = {"near": "l1", "near_copied": "copied", "near_warped": "warped"}
        sums.update({name: (off[of] * there).sum().item() for name, of in near.items()} | {"there": there.sum().item()})
        sums.update({"slope": slope(provenance.above(found)).sum().item(), "true_slope": slope(true).sum().item()})
        first.append((found[:FACES], warped[:FACES]) if options.data is None else ())
    figures = {name: sums[name] / len(test["to"]) for name in ("l1", "copied", "warped", "other_points")}
    figures |= {name: sums[name] / sums["there"] for name in ("near", "near_copied", "near_warped")}
    figures |= {"l1_ratio": over(figures["l1"], figures["copied"]), "l1_over_warped": over(figures["l1"], figures["warped"])}
    figures["near_over_warped"] = over(figures["near"], figures["near_warped"])
    figures["sharpness"] = over(sums["slope"], sums["true_slope"])
    figures["sharpness_off"] = abs(figures["sharpness"] - 1)
    if options.data is not None:
        return figures
    some = {name: to_float(value[:FACES]) if value.dtype == torch.uint8 else value[:FACES] for name, value in test.items()}
    return figures | faces(*(torch.cat(images)[:FACES] for images in zip(*first)), some)


def faces(found: Tensor, warped: Tensor, test: Items) -> dict[str, float]:
    """Of made frames of drawn people. points: how far, in pixels, the key points lie from those that were asked for, by the rule
    `puppets.fitted`; points_rule: the same of true frames, the rule's own error; points_still: of the stills. who: how often none
    of the people who differ in one part is nearer to the frame than the true one is, in the same pose; who_still: of the stills; both with
    _warped: of what the flow alone makes; points_over_warped: points over points_warped. nearest: the mean error of the most similar of
    those other people."""
    size = found.shape[-1]
    found, warped, still, true = (provenance.above(images) for images in (found, warped, test["still"], test["frame"]))
    people, pose, to, start = (test[name] for name in ("people", "pose", "to", "from"))
    away = lambda points: ((points - to) * size / 2).norm(dim=-1).mean().item()
    read = lambda images: puppets.points(puppets.fitted(images, people))
    figures = {"points": away(read(found)), "points_warped": away(read(warped))}
    figures |= {"points_rule": away(read(true)), "points_still": away(start)}
    figures["points_over_warped"] = over(figures["points"], figures["points_warped"])
    others = puppets.alike(people)
    n, m = others.shape[:2]
    drawn = puppets.render(others.flatten(0, 1), pose.repeat_interleave(m, 0), size)
    drawn = provenance.above(to_float(drawn)).unflatten(0, (n, m))
    apart = lambda images, others: (images - others).square().flatten(-3).mean(-1)
    known = lambda images: (apart(images, true) <= apart(images[:, None], drawn).amin(1)).float().mean().item()
    nearest = (true[:, None] - drawn).abs().flatten(2).mean(2).amin(1).mean().item()
    return figures | {"who": known(found), "who_warped": known(warped), "who_still": known(still), "nearest": nearest}


def words(text: str, like: Tensor) -> Tensor:
    """A dark picture [3, S, S] with a word in its middle."""
    from PIL import Image, ImageDraw

    side = like.shape[-1]
    image = Image.new("RGB", (side, side))
    ImageDraw.Draw(image).text((side / 2, side / 2), text, "white", anchor="mm")
    return to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def scenes(options: Options) -> list[acted.Scene]:
    """Those that the picture shows."""
    return [acted.scene(source(options), number, 24) for number in range(3)]


def shows(options: Options) -> dict[str, str]:
    """Whose faces and whose motions, from above to below."""
    fields = [one.fields for one in scenes(options)]
    return {name: "; ".join(one[name] for one in fields) for name in fields[0]}


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Three held-out faces. In the first column the still; beside it the driver's frames, below those what was made, marked, and at last,
    where they are known, the true frames. As a film in the run's folder, clip.gif: still, driver, made, true."""
    rows, films = [], []
    for one in scenes(options):
        lines = [line for line in (one.frames, made(trainer, one.items()), one.true) if line is not None]
        firsts = words("driver", one.still), one.still, words("true", one.still)
        rows += [torch.cat([first[None], line[::4]]) for first, line in zip(firsts, lines)]
        films.append(torch.stack([one.still.expand_as(lines[0]), *lines], 1))
    if trainer.run_dir:
        frames = [grids.tile(images, films[0].shape[1]) for images in torch.cat(films, 1)]
        grids.write_clip(trainer.run_dir / "clip.gif", frames, SYSTEM.fields_of(trainer, options) | shows(options), 2)
    return to_uint8(grids.tile(torch.cat(rows), 7))


def sample(trainer: Trainer, options: Options, *, count: int, seed: int, face: str | None = None, driver: str | None = None) -> form.Film:
    """`count` frames of a held-out person moved by another, by seed, or of a picture or by a film of one's own, which is taken whole."""
    if (face or driver) and options.data is None:  # else `build` has said it
        print(CONSENT)
    one = acted.scene(source(options), seed, count, face, driver)
    return form.Film(made(trainer, one.items()), one.fields, own=face is not None)


SYSTEM = form.System(
    "puppet",
    "moves a face in a picture as the key points of another's film say, with a mark in every frame",
    Options,
    build,
    measure,
    picture,
    goals={"l1_ratio": ("<=", 0.2), "l1_over_warped": ("<=", 0.8), "points_over_warped": ("<=", 0.9)},
    needs=("robohash",),
    credit=lambda options: "" if options.data else portraits.CREDIT,
    sample=sample,
    fixed=("people", "image_size"),
    shows=shows,
)
