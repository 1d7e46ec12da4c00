"""`ganfast edit`: pictures of a run, moved along directions of its latent space, which are learned once and kept in its folder."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from ganfast import _checks, systems
from ganfast.systems import editing, measures, readers, running
from ganfast.systems.directions import Directions
from ganfast.systems.editing import Pictures
from ganfast.systems.measures import Measure
from ganfast.train.command_line import commands, recipes
from ganfast.train.data import ImageData, to_float
from ganfast.train.data.folders import images_of
from ganfast.train.randomness import mixed
from ganfast.train.sampling import Sampler
from ganfast.train.watch import grids

BROKEN = "labels-broken.txt"  # in a run's folder: labelled pictures that cannot be read


@dataclass
class Edit:
    """Pictures of a run, moved along directions of its latent space that were learned from the run's own pictures. Without a direction:
    which there are."""

    run: tyro.conf.Positional[Path]
    """a run's folder, or a checkpoint"""
    direction: str | None = None
    """a measure's name, or several: slant,thickness"""
    by: str = "2"
    """how far, in standard deviations of the measure; a number for each direction, or one for all: 2,-1"""
    count: int = 6
    """pictures, a row of the strip each"""
    columns: int = 7
    """of the strip, from -by to +by, an odd number: the one in the middle is not edited"""
    seed: int = 0
    label: str | None = None
    """a class by name, where the generator is told one; none: all of them in turn"""
    measure: str | None = None
    """mine.py:function, a measure of your own: float [N] of images [N, C, H, W] in [-1, 1]; its name becomes a direction"""
    labels: str | None = None
    """pictures in sub-folders, or digits: a small reader learns the classes, whose names become directions"""
    samples: int | None = None
    """pictures that directions are learned from; none: 4000"""
    out: Path | None = None
    """folder to write to; none: one in the run's folder, named by step, direction, by, label and seed"""


def edit(args: list[str]) -> None:
    wanted = commands.parse(Edit, "edit", _joined(args))
    for name in ("count", "samples"):
        if (value := getattr(wanted, name)) is not None and value < 1:
            _checks.fail("edit", f"{name} got {value}, wants at least 1")
    editing.check_columns(wanted.columns)
    by = {} if wanted.direction is None else amounts(wanted.direction, wanted.by)
    folder = wanted.run if wanted.run.is_dir() else wanted.run.parent
    sampler, fields = opened(wanted.run, folder, wanted.seed)
    editing.check(sampler)
    if wanted.label is not None and wanted.label not in sampler.classes:
        if sampler.classes:
            _checks.nearest("edit", "label", wanted.label, sampler.classes)
        _checks.fail("edit", f"label got {wanted.label!r}, wants none", "The generator is not told a class")
    found = directions(sampler, folder, wanted, tuple(by))
    if wanted.direction is None:
        print(listed(found, wanted.run))
        if more := {name: None for one in editing.beside(folder, sampler)[0] for name in one.names if name not in found.names}:
            print(f"kept beside these: {', '.join(more)}")
        return
    label = None if wanted.label is None else [wanted.label] * wanted.count
    latents = sampler.latents(wanted.count, wanted.seed)
    images, words = editing.sliders(sampler, found, latents, by, wanted.columns, label)
    named = "-".join(f"{commands.file_name(name)}{amount:g}" for name, amount in by.items())
    which = "" if wanted.label is None else f"-{commands.file_name(wanted.label)}"
    out = wanted.out or folder / f"edit-step{sampler.step}-{named}{which}-seed{wanted.seed}"
    out.mkdir(parents=True, exist_ok=True)
    far, back = (", ".join(f"{sign * amount:g}" for amount in by.values()) for sign in (1, -1))
    about = fields | {"Direction": ", ".join(by), "By": f"{far} standard deviations"}
    if wanted.label is not None:
        about["Label"] = wanted.label
    said = ", ".join(f"{name} by {amount:g}" for name, amount in by.items())
    strip = to_float(editing.strip(images, words, said))
    grids.write_png(out / "strip.png", strip, about | {"By": f"{back} to {far} standard deviations"})
    for i, image in enumerate(images[:, -1]):
        grids.write_png(out / f"image-{i:03d}.png", image, about)
    if max(map(abs, by.values())) > 2 * found.reach:
        print(f"by was tried from {-found.reach:g} to {found.reach:g} alone: so far out, pictures may fall apart")
    print(f"{wanted.count} images and {out / 'strip.png'}: {said}")


def _joined(args: list[str]) -> list[str]:
    """`--by -2,1` as `--by=-2,1`, which no parser takes for an option."""
    found = []
    for arg in args:
        if found and found[-1] == "--by" and re.match(r"-[\d.]", arg):
            found[-1] = f"--by={arg}"
        else:
            found.append(arg)
    return found


def opened(path: Path, folder: Path, seed: int) -> tuple[Sampler, dict[str, str]]:
    """A run's generator; the text fields of its pictures of that seed."""
    if not (folder / running.ABOUT).is_file():
        sampler = recipes.load_sampler(path)
        return sampler, grids.about(sampler.name, seed)
    system, options = running.saved(folder)
    trainer = running.put_back(system, options, path)
    return trainer.sampler(), system.fields_of(trainer, options, seed)


def directions(sampler: Sampler, folder: Path, wanted: Edit, names: tuple[str, ...]) -> Directions:
    """Those that the folder keeps of this checkpoint, with `names` among them, or newly learned ones, which are kept.

    Raises: ValueError for a name that no measure has, before anything is learned.
    """
    samples, functions = wanted.samples or editing.SAMPLES, dict(measures.suited(sampler.sample(64)))
    own = {} if wanted.measure is None else own_measure(wanted.measure)
    functions |= own
    data = None if wanted.labels is None else labelled(sampler, wanted.labels, folder)
    classes = () if data is None else tuple(f"class {name}" if name in functions else name for name in data.classes)
    parts = (*own, *([] if data is None else ["labels", Path(wanted.labels).name]), *([] if samples == editing.SAMPLES else [str(samples)]))
    which = "-".join(map(commands.file_name, parts))
    # what the user's own function or pictures say may have changed, so these are learned again
    found = None if own or data else editing.kept(folder, Pictures(sampler, functions), samples, which)
    known = found.names if found else (*functions, *classes)
    if not set(names) <= set(known):
        return kept_beside(folder, sampler, names, known)
    if found:
        return found
    pictures = Pictures(sampler, functions, None if data is None else reader_of(data), classes)
    print("learning directions, which are kept for the next time", flush=True)
    found = editing.of_sampler(pictures, samples=samples)
    editing.keep(found, folder, pictures, samples, which)
    for name in names:
        if name not in found.names:  # a measure that is the same for all pictures
            _checks.nearest("edit", "direction", name, found.names)
    return found


def kept_beside(folder: Path, sampler: Sampler, names: tuple[str, ...], known: tuple[str, ...]) -> Directions:
    """Directions of a measure of the user's own, or of labels, that an earlier call learned.

    Raises: ValueError where none has the names.
    """
    here, gone = editing.beside(folder, sampler)
    for found in here:
        if set(names) <= set(found.names):
            return found
    everything = tuple(dict.fromkeys((*known, *(name for found in here for name in found.names))))
    for name in names:
        if name in gone and name not in everything:
            was = f"direction {name!r} is kept for another checkpoint, of step {gone[name]}, and not for this one"
            _checks.fail("edit", was, "Give the --measure or --labels again that it was learned by")
        if name not in everything:
            _checks.nearest("edit", "direction", name, everything)
    _checks.fail(
        "edit", f"direction got {','.join(names)}, learned apart, wants some that were learned together", "Give --measure, --labels"
    )


def own_measure(target: str) -> dict[str, Measure]:
    """The function of "mine.py:function". Raises: ValueError for a text of another form, a missing file or function."""
    where, _, name = target.rpartition(":")
    if not where.endswith(".py") or not name:
        _checks.fail("edit", f"measure is {target!r}, wants mine.py:function")
    module = systems.module_of(Path(where), "edit")
    if not callable(getattr(module, name, None)):
        _checks.nearest("edit", f"a function in {where}", name, [n for n, value in vars(module).items() if callable(value) and n[0] != "_"])
    return {name: getattr(module, name)}


def labelled(sampler: Sampler, data: str, folder: Path) -> ImageData:
    """Labelled pictures; which of them cannot be read is said, and listed in the folder. Raises: ValueError for pictures of one class."""
    channels, side = sampler.sample(1).shape[1:3]
    found = images_of(data, side, channels)
    if found.broken:
        (folder / BROKEN).write_text("".join(line + "\n" for line in found.broken), encoding="utf-8")
        print(f"{len(found.broken)} images cannot be read and are left out, listed in {folder / BROKEN}", file=sys.stderr)
    if len(found.classes) < 2:
        _checks.fail("edit", f"labels {data!r} has one class, wants two sub-folders of pictures at least")
    return found


def reader_of(found: ImageData) -> readers.Reader:
    """A reader of the classes of labelled pictures."""
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    held, rest = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
    pairs = [(found.images[rows], found.labels[rows]) for rows in (rest, held)]
    reader, own = readers.trained(*pairs[0], {"class": len(found.classes)}, tested=pairs[1], seed=mixed("labels"))
    told = f"a reader of {len(found.classes)} classes is right about {own['all']:.3f} of {len(held)} pictures that it was not shown"
    print(told, flush=True)
    return reader


def amounts(named: str, by: str) -> dict[str, float]:
    """Direction -> how far. Raises: ValueError for what are no numbers."""
    names, numbers = ([word.strip() for word in text.split(",")] for text in (named, by))
    try:
        far = [float(number) for number in numbers]
    except ValueError:
        far = []
    if len(far) not in (1, len(names)) or not all(0 < abs(number) < 100 for number in far):
        _checks.fail("edit", f"by got {by!r}, wants a number other than 0, or one for each of {', '.join(names)}, such as 2 or 2,-1")
    return dict(zip(names, far * (len(names) if len(far) == 1 else 1)))


def listed(found: Directions, run: Path) -> str:
    """A line for each direction: what it moves, what else moves with it, and how linear it is."""
    reach = f"{found.reach:g}"
    width = max(map(len, found.names))
    lines = [f"directions of {run}, tried from by={-found.reach:g} to by={reach}; in standard deviations of each measure"]
    for row, name in enumerate(found.names):
        others = ""
        if len(found.names) > 1:
            net, end = (found.others(name, what) for what in ("net", "end"))
            most, further = (max(far, key=far.get) for far in (net, end))
            each = sum(found.others(name, "each").values()) / len(net)
            others = (
                f"; others: {most} {net[most]:.2f} from end to end, {further} {end[further]:.2f} at one end, {each:.2f} in each picture"
            )
        lines.append(f"  {name:<{width}}  moves {found.moved[row, row].item():+.2f}{others}; R2 {found.r2[row].item():.2f}")
    return "\n".join([*lines, f"`ganfast edit {run} --direction {found.names[0]} --by {reach}` draws a strip"])
