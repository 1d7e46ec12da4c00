"""Pictures of one shape on a plain field, rendered, with their captions: "a small red circle on a blue field"; and a rule that reads them
back.

    images, attributes = shapes.pictures(1000, seed=0)   # uint8 [1000, 3, 32, 32], int64 [1000, 4]
    shapes.captions(attributes[:1])                      # ["a small red circle on a blue field"]
    shapes.Rule().read(images).attributes                # as they were, all of them

A shape has one of six colours and its field one of the five others, so that there are 6 colours x 5 fields x 3 shapes x 2 sizes = 180
combinations. 30 of them are held out: `pictures` shows them only where it is asked for them.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems import text

SIZE = 32  # of a picture, in pixels
COLOURS = {
    "red": (214, 48, 44),
    "green": (36, 150, 64),
    "blue": (40, 72, 206),
    "yellow": (246, 206, 40),
    "purple": (142, 52, 170),
    "white": (242, 242, 238),
}
SHAPES = ["circle", "square", "triangle"]
AREAS = {"small": 100.0, "large": 250.0}  # pixels, the same for all shapes: area tells the size and nothing else
NAMES = {"size": list(AREAS), "colour": list(COLOURS), "shape": SHAPES, "field": list(COLOURS)}
PATTERN = "a {size} {colour} {shape} on a {field} field"
ARTICLES = {"a", "an", "the"}
JITTER = 3.0  # pixels that a shape's centre lies off the picture's at most, in both directions
# Which of a colour and field's six outlines is held out, before the colour's number is added, by how far the field comes after the colour
# in COLOURS. These numbers are distinct, and so are they less their keys (mod 6): no colour, and no field, lacks an outline twice.
_HELD_OUT = {1: 0, 2: 2, 3: 4, 4: 1, 5: 3}


def parts() -> dict[str, list[str]]:
    """part -> its values, in the order of the attributes' columns and numbers."""
    return {part: list(names) for part, names in NAMES.items()}


def words() -> list[str]:
    """Every word that `captions` uses and `parse` knows, sorted."""
    return sorted({name for names in NAMES.values() for name in names} | ARTICLES | {"on", "field"})


def combinations(held_out: bool = False) -> Tensor:
    """int64 [150, 4], or the [30, 4] that are held out: one outline for each colour and field, so that in training each two words are seen
    together."""
    found = []
    for size, colour, shape, field in itertools.product(*(range(len(names)) for names in NAMES.values())):
        after = (field - colour) % len(COLOURS)
        if after and held_out == (size * len(SHAPES) + shape == (colour + _HELD_OUT[after]) % 6):
            found.append((size, colour, shape, field))
    return torch.tensor(found)


def captions(given: Tensor) -> list[str]:
    """Of attributes [n, 4]; `parse` reads them back."""
    return [PATTERN.format(**{part: names[i] for (part, names), i in zip(NAMES.items(), row)}) for row in given.tolist()]


def parse(caption: str) -> Tensor:
    """int64 [4] of a caption; capitals, articles and punctuation do not matter.

    Raises: ValueError for unknown words, named with the known ones that are most like them, for words in another order, for a shape in its
    field's colour.
    """
    text.refuse_unknown("shapes", caption, words())
    found = [word for word in text.words(caption) if word not in ARTICLES]
    slots = [NAMES["size"], NAMES["colour"], NAMES["shape"], ["on"], NAMES["field"], ["field"]]
    if len(found) != len(slots) or any(word not in slot for word, slot in zip(found, slots)):
        _checks.fail("shapes", f"caption {caption!r} cannot be read, wants words in the order of {captions(combinations())[0]!r}")
    size, colour, shape, _, field, _ = (slot.index(word) for word, slot in zip(found, slots))
    if colour == field:
        _checks.fail("shapes", f"caption {caption!r} asks for a shape in its field's colour, which would not show", "Change one of them")
    return torch.tensor([size, colour, shape, field])


def pictures(n: int, seed: int = 0, held_out: bool = False) -> tuple[Tensor, Tensor]:
    """(uint8 [n, 3, SIZE, SIZE], their attributes int64 [n, 4]): all combinations as often, in a random order, somewhere near the centre;
    the same for the same seed."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        _checks.fail("shapes", f"n got {n!r}, wants a whole number of at least 1")
    draw = torch.Generator().manual_seed(seed)
    every = combinations(held_out)
    attributes = every[(torch.randperm(n, generator=draw) + torch.randint(len(every), (), generator=draw)) % len(every)]
    return render(attributes, JITTER * (2 * torch.rand(n, 2, generator=draw) - 1)), attributes


def render(attributes: Tensor, centres: Tensor) -> Tensor:
    """uint8 [n, 3, SIZE, SIZE] of attributes int64 [n, 4]; centres [n, 2], in pixels to the right of the picture's centre and below it."""
    covered = torch.zeros(len(attributes), SIZE, SIZE)
    for (i, area), (j, shape) in itertools.product(enumerate(AREAS.values()), enumerate(SHAPES)):
        rows = (attributes[:, 0] == i) & (attributes[:, 2] == j)
        covered[rows] = coverage(shape, area, centres[rows])
    colour, field = (_palette()[attributes[:, column]][:, :, None, None] for column in (1, 3))
    return torch.lerp(field, colour, covered[:, None]).round().to(torch.uint8)


def coverage(shape: str, area: float, centres: Tensor) -> Tensor:
    """[n, SIZE, SIZE], how much of each pixel the shape covers, 0 to 1, by how far the pixel's middle lies outside of it."""
    place = torch.arange(SIZE) + 0.5 - SIZE / 2
    x, y = torch.broadcast_tensors(place - centres[:, 0, None, None], place[:, None] - centres[:, 1, None, None])
    if shape == "circle":
        outside = (x * x + y * y).sqrt() - (area / torch.pi) ** 0.5
    elif shape == "square":
        outside = torch.maximum(x.abs(), y.abs()) - area**0.5 / 2
    else:  # equal sides, one of them below; the centre is its bounding box's
        height = (area * 3**0.5) ** 0.5
        from_side = (x.abs() * 3**0.5 - (y + height / 2)) / 2
        outside = torch.maximum(from_side, y - height / 2)
    return (0.5 - outside).clamp(0, 1)


def _palette() -> Tensor:
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32)


@dataclass(frozen=True)
class Reading:
    """What the rule reads of N pictures: attributes int64 [N, 4], -1 for what is not clearly any value; explained [N], the share of a
    picture's variance that the nearest outline explains; lead [N], by how much more than the nearest one of another size or shape, as a
    share of the lead that a rendering has."""

    attributes: Tensor
    explained: Tensor
    lead: Tensor


class Rule:
    """Reads pictures by the nearest of all rendered outlines, at places half a pixel apart, each in the two colours that fit it best.

    An outline counts if it explains at least `least` of the picture's variance, and its lead over each one of another size or shape is at
    least `lead` of what it is for renderings (0 halfway between the two, about 1 for a clean picture). A colour counts if the outline does,
    and it is within `near` (of 255, root mean square over the channels) of one of COLOURS. So noise reads as nothing, as do blurs, blends
    of two pictures and shapes between two others; a little noise or blur upon a clear picture does not hide it.

    The lead that is wanted was chosen on renderings: blends of two captions have at most 0.3, renderings at least 0.65; at 0.4 the rule
    reads 0.74 of those that a Gaussian of one pixel blurred, and 0.11 of means over twenty places.
    """

    LEAD = 0.4

    def __init__(self, least: float = 0.7, lead: float = LEAD, near: float = 40.0) -> None:
        self.least, self.lead, self.near = least, lead, near
        steps = torch.arange(-JITTER - 1, JITTER + 1.25, 0.5)  # a generator may leave the range that it was shown
        centres = torch.cartesian_prod(steps, steps)
        self.outlines = torch.cartesian_prod(torch.arange(len(AREAS)), torch.arange(len(SHAPES)))
        areas = list(AREAS.values())
        masks = torch.stack([coverage(SHAPES[j], areas[i], centres) for i, j in self.outlines])
        self.masks = masks.flatten(2)  # [outlines, places, pixels]
        self.means = self.masks.mean(2)
        self.norms = (self.masks - self.means[..., None]).square().sum(2)
        middle = self.masks[:, len(centres) // 2]
        covariances = torch.einsum("ap,bkp->abk", middle, self.masks) - middle.shape[1] * middle.mean(1)[:, None, None] * self.means
        # [outlines, outlines]: how much of a rendering's variance its own outline explains beyond the other
        self.apart = 1 - (covariances.square() / self.norms / self.norms[:, len(centres) // 2, None, None]).amax(2)

    def read(self, images: Tensor) -> Reading:
        """images [N, 3, SIZE, SIZE], uint8 or floats in [-1, 1]."""
        if images.dim() != 4 or images.shape[1:] != (3, SIZE, SIZE):
            _checks.fail("shapes", f"images have shape {list(images.shape)}, wants [N, 3, {SIZE}, {SIZE}]")
        found = [self._read(chunk.cpu()) for chunk in images.split(100)]
        return Reading(*(torch.cat(column) for column in zip(*found)))

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (images.float() if images.dtype == torch.uint8 else (images.float() + 1) * 127.5).flatten(2)
        mean = x.mean(2)
        total = (x - mean[..., None]).square().sum((1, 2))
        # A picture is regressed on an outline, all channels together: covariances [n, outlines, places, 3], the share that is explained.
        covariances = torch.einsum("ncp,okp->nokc", x, self.masks) - x.shape[2] * mean[:, None, None] * self.means[..., None]
        shares = covariances.square().sum(3) / self.norms / total.clamp_min(1)[:, None, None]
        best, places = shares.max(2)
        explained, outline = best.max(1)
        rows = torch.arange(len(x))
        leads = (explained[:, None] - best) / (explained[:, None] * self.apart[outline]).clamp_min(1e-6)
        leads[rows, outline] = float("inf")  # over itself
        lead = leads.amin(1)
        place = places[rows, outline]
        contrast = covariances[rows, outline, place] / self.norms[outline, place][:, None]  # the shape's colour less the field's
        field = mean - contrast * self.means[outline, place][:, None]
        size, shape = self.outlines[outline].unbind(1)
        attributes = torch.stack([size, self._colour(field + contrast), shape, self._colour(field)], 1)
        counts = (explained >= self.least) & (lead >= self.lead)
        return torch.where(counts[:, None], attributes, -1), explained, lead

    def _colour(self, given: Tensor) -> Tensor:
        away, nearest = (given[:, None] - _palette()).square().mean(2).sqrt().min(1)
        return torch.where(away <= self.near, nearest, -1)
