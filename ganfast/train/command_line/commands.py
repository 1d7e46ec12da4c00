"""The commands `ganfast train` and `ganfast sample`: their options, what they print, the files they write."""

import contextlib
import io
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from ganfast import _checks
from ganfast.train import config as configs
from ganfast.train.command_line import presets, recipes
from ganfast.train.command_line.recipes import Recipe
from ganfast.train.distributed.world import World
from ganfast.train.loop import Trainer
from ganfast.train.sampling import Sampler
from ganfast.train.saving import checkpoint
from ganfast.train.saving.resume import finished
from ganfast.train.styles import mixing
from ganfast.train.watch import grids


@dataclass
class Train:
    """Train a GAN on digits, a folder of images, or a mixture of Gaussians. Defaults suit the data; a run's folder receives config.json,
    log.jsonl, grids/, checkpoints, weights as safetensors, curves and clips."""

    recipe: tyro.conf.OmitArgPrefixes[Recipe]
    resume: bool = False
    """continue the run in run_dir: its settings are the defaults, options given here override them"""


@dataclass
class Sample:
    """Images from a checkpoint's averaged generator: grid.png and each by itself; points.csv and a picture where it makes points."""

    checkpoint: tyro.conf.Positional[Path]
    """a checkpoint, or a run's folder for its newest one"""
    label: str | None = None
    """a class by name; none: all of them"""
    seed: int = 0
    text: str | None = None
    """a caption, for a run of a system that draws by text (`ganfast run`)"""
    pick: str | None = None
    """3,7,12: these of a contact sheet's numbers, large, for a run of a system that draws one (`ganfast run`)"""
    face: str | None = None
    """a picture of whom to move, with key points beside it, for a run of a system that moves faces (`ganfast run`)"""
    driver: str | None = None
    """a folder of frames or an animated GIF, with key points beside: how to move"""
    input: Path | None = None
    """a picture of your own, or a folder of pictures, that a run of a system enlarges or translates (`ganfast run`)"""
    truncation: float = 1.0
    """stylegan2: how far styles go from their mean, 0 to 1; less makes more typical samples of less variety"""
    mix: str | None = None
    """stylegan2: 3,5: a picture of these seeds' samples mixed, the rows' coarse styles with the columns' fine ones"""
    coarse: int = 8
    """with mix: the resolution up to which styles are coarse"""
    clip: bool = False
    """instead of samples, a clip of a walk between them, by styles where the generator has them"""
    count: int = 10
    """images for each class"""
    out: Path | None = None
    """folder to write to; none: one beside the checkpoint, named by step, label and seed"""


OF_STYLES = ("truncation", "mix", "coarse", "clip")  # options that only runs of `ganfast train` take


def parse(kind: type, command: str, args: list[str], default: Any = None) -> Any:
    """tyro's parser, with its boxed error turned into a ValueError of one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"ganfast {command}", args=args, **({} if default is None else {"default": default}))
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()]
        words = " ".join(line for line in lines if line.strip("- ─")).split("For full helptext")[0]
        raise ValueError(re.sub(r"^(Parsing error |Value error (Error parsing \w+: )?)", "", words).strip()) from None


def option(args: list[str], name: str) -> str | None:
    """The value of the last `--name value` or `--name=value`, read before the options are parsed, as their defaults depend on it."""
    found = None
    for arg, after in zip(args, [*args[1:], ""]):
        given, equals, value = arg.partition("=")
        if given.replace("_", "-") == f"--{name}":
            found = value if equals else after
    return found


def train(args: list[str]) -> None:
    together(args, _train)


def together(args: list[str], command: Callable[[list[str], World], None]) -> None:
    """Runs `command`. With several processes only the first one prints, and an error that all of them meet is printed once."""
    world = World.from_environment(option(args, "device") or "auto")
    try:
        with _silent() if world.rank else contextlib.nullcontext(), world.together():
            command(args, world)
    except Exception as error:
        if getattr(error, "told", False):
            raise SystemExit(2) from None
        raise


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _train(args: list[str], world: World) -> None:
    resume = "--resume" in args
    start = _start(args)
    if resume:
        start = world.first(lambda: _settings(Path(option(args, "run-dir") or start.run_dir)), share=True)
    planned = start.steps
    wanted = parse(Train, "train", args, Train(start, resume))
    if wanted.recipe.model == "mlp":
        torch.set_num_threads(1)  # products so small wait for a second thread longer than it helps
    trainer = recipes.trainer(wanted.recipe, resume=wanted.resume)
    say_left_out(trainer)
    if words := finished(trainer, lambda name, value: f"--{name.replace('_', '-')} {value}", planned):
        print(f"{words}. `ganfast sample {trainer.run_dir}` makes samples")
        return
    trainer.fit()
    if trainer.stopped:
        how = f"`ganfast train --resume --run-dir {trainer.run_dir}` goes on"
        print(how)
    else:
        print(f"{trainer.steps} steps; `ganfast sample {trainer.run_dir}` makes samples")


def _start(args: list[str]) -> Recipe:
    """The defaults, which data, model and image size decide; values of these that do not parse are left to the parser."""
    data, model = option(args, "data") or "digits", option(args, "model") or "auto"
    size, batch = (option(args, name) or "" for name in ("image-size", "batch-size"))
    good = size.isdigit() and int(size) >= 16 and int(size).bit_count() == 1
    batch = int(batch) if batch.isdigit() and int(batch) else None
    known = typing.get_args(typing.get_type_hints(Recipe)["model"])
    return presets.preset(data, model if model in known else "auto", int(size) if good else None, batch)


def say_left_out(trainer: Trainer) -> None:
    """On stderr, where images could not be read."""
    if trainer.source.broken:
        where = trainer.run_dir / checkpoint.BROKEN
        print(f"{len(trainer.source.broken)} images cannot be read and are left out, listed in {where}", file=sys.stderr)


def _settings(folder: Path) -> Recipe:
    """Of the run in the folder."""
    if not (folder / checkpoint.CONFIG).is_file():
        raise ValueError(f"train: there is no run to resume in {folder}; --run-dir names its folder.")
    try:
        start = configs.load(folder / checkpoint.CONFIG, Recipe)
    except ValueError as error:
        if checkpoint.newest(folder) is None:
            raise
        print(f"{error} Taking the settings from the newest checkpoint", file=sys.stderr)
        start = configs.from_dict(checkpoint.load(folder)["config"], Recipe, str(folder))
    start.run_dir = str(folder)  # it may have been moved
    return start


def labels_of(sampler: Sampler, label: str | None) -> list[int]:
    if label is None:
        return list(range(len(sampler.classes))) or [0]
    if not sampler.classes:
        _checks.fail("sample", f"label got {label!r}, wants none", "The checkpoint is of an unconditional generator")
    if label not in sampler.classes:
        _checks.nearest("sample", "label", label, sampler.classes)
    return [sampler.classes.index(label)]


def asked_samples(args: list[str]) -> Sample:
    wanted = parse(Sample, "sample", args)
    if wanted.count < 1:
        _checks.fail("sample", f"count got {wanted.count}, wants at least 1")
    return wanted


def sample(wanted: Sample) -> None:
    """Of a run of `ganfast train`."""
    kinds = {
        "text": "draws by text", "pick": "draws a contact sheet", "face": "moves a face", "driver": "moves a face",
        "input": "enlarges or translates",
    }  # fmt: skip
    for name, does in kinds.items():
        if (got := getattr(wanted, name)) is not None and wanted.checkpoint.exists():
            _checks.fail("sample", f"{name} got {str(got)!r}, wants none", f"The run is not of a system that {does}")
    seeds = None if wanted.mix is None else mixing.seeds_of(wanted.mix)
    sampler = recipes.load_sampler(wanted.checkpoint, truncation=wanted.truncation)
    labels = torch.tensor(labels_of(sampler, wanted.label)).repeat_interleave(wanted.count)
    short = "" if wanted.truncation == 1 else f"-truncation{wanted.truncation}"
    which = "all" if wanted.label is None else file_name(wanted.label)
    folder = wanted.checkpoint if wanted.checkpoint.is_dir() else wanted.checkpoint.parent
    out = wanted.out or folder / f"sample-step{sampler.step}-{which}-seed{wanted.seed}{short}"
    if seeds is not None and wanted.clip:
        _checks.fail("sample", "mix and clip were given, wants one of them")
    fields = {} if wanted.truncation == 1 else {"Truncation": str(wanted.truncation)}
    if seeds is not None:
        of = None if wanted.label is None else labels[:1].item()
        table = mixing.mixed(sampler, seeds, wanted.coarse, of)
        out.mkdir(parents=True, exist_ok=True)
        fields |= grids.about(sampler.name, seeds[0]) | {"Seeds": wanted.mix, "Coarse": f"up to {wanted.coarse} pixels, of the rows"}
        grids.write_png(out / "mix.png", table, fields, mixing.scale_of(table, len(seeds)))
        print(f"{len(seeds)} x {len(seeds)} mixed samples in {out / 'mix.png'}")
        return
    if wanted.clip:
        out.mkdir(parents=True, exist_ok=True)
        of = labels[::wanted.count] if sampler.classes else None
        grids.interpolation(out / "interpolation.gif", sampler, wanted.seed, labels=of, more=fields)
        print(out / "interpolation.gif")
        return
    samples = sampler.sample(len(labels), labels if sampler.classes else None, wanted.seed)
    out.mkdir(parents=True, exist_ok=True)
    write = _write_points if samples.dim() == 2 else _write_images
    print(write(out, sampler, samples, labels.tolist(), wanted, fields))


def _write_images(out: Path, sampler: Sampler, images: Tensor, labels: list[int], wanted: Sample, more: dict[str, str]) -> str:
    fields = grids.about(sampler.name, wanted.seed) | more
    grids.write_png(out / "grid.png", grids.tile(images, min(wanted.count, 10)), fields)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = sampler.classes[label] if sampler.classes else "image"
        grids.write_png(out / f"{file_name(name)}-{i % wanted.count:03d}.png", image, fields | {"Label": name})
    return f"{len(images)} images and {out / 'grid.png'}"


def _write_points(out: Path, sampler: Sampler, points: Tensor, labels: list[int], wanted: Sample, more: dict[str, str]) -> str:
    lines = [f"# synthetic: {sampler.name}, seed {wanted.seed}", "x,y", *(f"{x!r},{y!r}" for x, y in points.tolist())]
    (out / "points.csv").write_text("\n".join(lines) + "\n")
    grids.scatter(out / "points.png", points, points, grids.about(sampler.name, wanted.seed))
    return f"{len(points)} points in {out / 'points.csv'} and {out / 'points.png'}"


def file_name(name: str) -> str:
    """A class's name comes from a checkpoint, maybe a stranger's: no path separators."""
    return re.sub(r"[^\w-]", "_", name)
