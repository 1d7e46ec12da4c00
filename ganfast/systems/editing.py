"""Editing by directions: those of a run's generator learned from its own samples, and strips of pictures along them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems import directions, measures
from ganfast.systems.directions import Directions
from ganfast.systems.measures import Measure
from ganfast.systems.readers import Reader
from ganfast.train.randomness import mixed
from ganfast.train.sampling import Sampler
from ganfast.train.watch import grids

SAMPLES, TRIED = 4000, 500  # pictures that directions are learned from, at least; that each is tried on
KEPT = "directions.json"  # in a run's folder; of measures of the user's own, of labels or of other samples: directions-WHICH.json
LINE = 13  # pixels of a line of Pillow's default font


@dataclass(frozen=True)
class Pictures:
    """A generator's pictures as numbers: by functions, and by a reader the log-odds of each of `classes`."""

    sampler: Sampler
    functions: Mapping[str, Measure]
    reader: Reader | None = None
    classes: tuple[str, ...] = ()

    def labels(self, n: int) -> Tensor | None:
        """int64 [n], the generator's own classes in turn."""
        return torch.arange(n) % len(self.sampler.classes) if self.sampler.classes else None

    def measured(self, latents: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """name -> [N] of the pictures of latents [N, ...], of the labels or of all classes in turn."""
        labels = self.labels(len(latents)) if labels is None else labels
        parts = latents.split(self.sampler.chunk)
        told = [None] * len(parts) if labels is None else labels.split(self.sampler.chunk)
        found = [self.of(self.sampler.generate(part, label).cpu()) for part, label in zip(parts, told)]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def of(self, images: Tensor) -> dict[str, Tensor]:
        return measures.taken(self.functions, images) | self.odds(images)

    @torch.no_grad()
    def odds(self, images: Tensor) -> dict[str, Tensor]:
        if self.reader is None:
            return {}
        logits = self.reader.eval()(images)[0]
        other = lambda k: logits[:, [i for i in range(len(self.classes)) if i != k]].logsumexp(1)
        return {name: logits[:, k] - other(k) for k, name in enumerate(self.classes)}


def of_sampler(pictures: Pictures, *, samples: int = SAMPLES, seed: int = 0) -> Directions:
    """Directions of all measures, tried. Those of functions are independent of each other; that of a class of those alone, as what becomes
    more of one class becomes less of the others.

    Raises: ValueError for a generator without a latent, one that makes no pictures, as `directions.learned`.
    """
    sampler = pictures.sampler
    check(sampler)
    n = max(samples, 4 * (sampler.latents(1).numel() + len(sampler.classes)))
    latents, on = sampler.latents(n, seed), sampler.latents(TRIED, mixed(seed, "tried"))
    values, labels = pictures.measured(latents), pictures.labels(n)
    built_in = lambda name: pictures.functions[name] in (measures.PICTURES | measures.STROKES).values()
    own = {name: values[name] for name in pictures.functions if not built_in(name) or values[name].std() > 1e-5}
    if not own and not pictures.classes:
        _checks.fail(
            "edit", f"no measure differs between {n} pictures", "They are all alike: the run has learned nothing yet, or collapsed"
        )
    found = [directions.tried(directions.learned(latents, own, labels), on, pictures.measured)] if own else []
    for name in pictures.classes:
        found.append(directions.learned(latents, own | {name: values[name]}, labels).only(name))
    return directions.tried(directions.joined(found), on, pictures.measured, rounds=0) if pictures.classes else found[0]


def keep(found: Directions, folder: Path, pictures: Pictures, samples: int = SAMPLES, which: str = "") -> None:
    """In a file of the folder, with what they were learned from."""
    found.save(_file(folder, which), **_of(pictures, samples))


def kept(folder: Path, pictures: Pictures, samples: int = SAMPLES, which: str = "") -> Directions | None:
    """What `keep` wrote of this checkpoint, of these measures and as many samples, or None."""
    found, more = _read(_file(folder, which))
    return found if more == _of(pictures, samples) else None


def beside(folder: Path, sampler: Sampler) -> tuple[list[Directions], dict[str, int]]:
    """Of the folder's other files those of this checkpoint; and the names that others hold, with the step these are of."""
    here, gone, now = [], {}, _of_checkpoint(sampler)
    for path in sorted(folder.glob("directions-*.json")):
        found, more = _read(path)
        if now.items() <= more.items():
            here.append(found)
        elif found:
            gone |= dict.fromkeys(found.names, more.get("step"))
    return here, gone


def _file(folder: Path, which: str) -> Path:
    return folder / (f"directions-{which}.json" if which else KEPT)


def _read(path: Path) -> tuple[Directions | None, dict]:
    """None for a file that is missing, broken or of an older version: it is but a memory, and what it held is learned anew."""
    try:
        return Directions.load(path)
    except ValueError:
        return None, {}


def _of(pictures: Pictures, samples: int) -> dict[str, object]:
    return _of_checkpoint(pictures.sampler) | {"measures": [*pictures.functions, *pictures.classes], "samples": samples}


def _of_checkpoint(sampler: Sampler) -> dict[str, object]:
    """The step alone would be another network's too, where a run was made anew."""
    digest = hashlib.sha256()
    for name, value in sampler.generator.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"step": sampler.step, "weights": digest.hexdigest()}


def check(sampler: Sampler) -> None:
    """Raises: ValueError for a generator that has no latent vector."""
    if sampler.latent_shape is None:
        cause = "Its generator makes pictures from pictures, and so there is nothing to go along"
        _checks.fail("edit", f"{sampler.name} draws from no latent vector, wants a generator that does", cause)
    shape = list(sampler.sample(1).shape)
    if len(shape) != 4:
        _checks.fail("edit", f"{sampler.name} gives shape {shape}, wants pictures [N, C, H, W]")


def check_columns(columns: int) -> None:
    """Raises: ValueError unless it is odd, 3 at least: the middle one is not edited."""
    if columns < 3 or columns % 2 == 0:
        _checks.fail("edit", f"columns got {columns}, wants an odd number of at least 3", "The one in the middle is not edited")


def edited(sampler: Sampler, found: Directions, latents: Tensor, by: Mapping[str, float], labels: object = None) -> Tensor:
    """[N, C, H, W] on the CPU: pictures of the latents, moved; labels as `Sampler.generate` takes them."""
    return sampler.generate(found.along(latents, by), labels).cpu()


def sliders(
    sampler: Sampler, found: Directions, latents: Tensor, by: Mapping[str, float], columns: int, labels: object = None
) -> tuple[Tensor, list[str]]:
    """[N, columns, C, H, W], a row for each latent, from -by over 0 to +by, and what each column is, in words.

    Raises: ValueError as `check_columns`.
    """
    check_columns(columns)
    steps = torch.linspace(-1, 1, columns).tolist()
    moved = [edited(sampler, found, latents, {name: step * amount for name, amount in by.items()}, labels) for step in steps]
    words = [", ".join(f"{step * amount:+.3g}" for amount in by.values()) for step in steps]
    words[columns // 2] = "as it was"
    return torch.stack(moved, 1), words


def strip(images: Tensor, words: list[str], title: str) -> Tensor:
    """uint8 [3, H, W] of images [R, K, C, S, S] in [-1, 1]: a title, below it rows whose columns stand under `words`; around the middle
    column, which is not edited, a frame. Small pictures are enlarged to 64 pixels about."""
    from PIL import Image, ImageDraw, ImageFont

    rows, columns, _, side, _ = images.shape
    scale = max(1, 64 // side)
    step, top = side * scale + 4, 2 * LINE + 4
    whole = Image.new("RGB", (columns * step + 4, top + rows * step + 2), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default()
    draw.text((4, 1), title, "black", font)
    for column, word in enumerate(words):
        draw.text((4 + column * step + step // 2 - 2, LINE + 1), word, "black", font, anchor="ma")
    left = 2 + columns // 2 * step
    draw.rectangle((left - 1, top - 1, left + step, top + rows * step), fill="tomato")
    for i, image in enumerate(images.flatten(0, 1)):
        whole.paste(grids.picture(image, scale), (4 + i % columns * step, top + 2 + i // columns * step))
    return torch.frombuffer(bytearray(whole.tobytes()), dtype=torch.uint8).view(whole.height, whole.width, 3).permute(2, 0, 1)
