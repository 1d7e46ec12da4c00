"""`ganfast run`, and `ganfast sample` of a system's run: their options, what they print."""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor

from ganfast import _checks, systems
from ganfast.systems import inputs, packages, running
from ganfast.systems.form import Film, Labelled, Options, Sound, System
from ganfast.systems.sources import wav
from ganfast.train.command_line import commands
from ganfast.train.distributed.world import World
from ganfast.train.randomness import mixed
from ganfast.train.saving.resume import finished
from ganfast.train.watch import grids

USAGE = """usage: ganfast run NAME [--data FOLDER] [options]
       ganfast run mine.py [options]

Trains a system, measures it against its goals and draws a picture, all in its run's folder. `ganfast run` alone lists the
systems; `ganfast run NAME --help` lists one's options. Of all systems:

  --data FOLDER      data of your own instead of the system's
  --run-dir FOLDER   where the run lies: checkpoints, log, picture.png, result.json; default runs/NAME
  --resume           go on with the run that lies there
  --steps N, --max-seconds S, --seed N, --precision P, --device D, --no-fused, --log-every N"""

ASKS = {"text": ' --text "..."', "pick": " --pick 3,7,12", "face": " [--face PICTURE]", "driver": " [--driver FILM]"}
"""What of the options of `ganfast sample` a system's `sample` may take, as its run is told of it."""
NOT_PICKED = {"seed": "The contact sheet is of the run's seed", "count": "Each number that is picked gives one picture"}
"""What says nothing of pictures that are picked, and why."""


def run(args: list[str]) -> None:
    if args[:1] in (["-h"], ["--help"]):
        print(USAGE)
    elif not args:
        print(listed())
    elif args[0].startswith("-"):
        _checks.fail("run", f"the first argument is {args[0]}, wants the name of a system", f"Systems: {', '.join(systems.NAMES)}")
    else:
        commands.together(args, _run)


def listed() -> str:
    """A line for each system: what it does, and the figures that were reached when `make gallery` last ran."""
    lines, reached = [], systems.reached()
    width = max(map(len, systems.NAMES), default=0)
    for name in systems.NAMES:
        system, found = systems.load(name), reached.get(name)
        figures = "; ".join(f"{key} {found['figures'][key]:.3g}" for key in system.goals if key in found["figures"]) if found else ""
        lines.append(f"  {name:<{width}}  {system.does}" + (f" ({figures})" if figures else ""))
    return "\n".join(["usage: ganfast run NAME [--data FOLDER] [options]", "", *lines, "", "`ganfast run --help` says more."])


def _run(args: list[str], world: World) -> None:
    name, rest = args[0], args[1:]
    system, resume = systems.load(name), "--resume" in rest
    folder = commands.option(rest, "run-dir") or f"runs/{system.name}"
    start = system.options(run_dir=folder)
    if resume:
        start = world.first(lambda: running.saved(Path(folder), system)[1], share=True)
    planned = start.steps
    options = _parsed(name, system, rest, start, resume)
    for package in system.needs if options.data is None else ():
        packages.folder(package, f"the system {system.name}")
    trainer = (running.resumed if resume else running.made)(system, options)
    commands.say_left_out(trainer)
    if words := finished(trainer, lambda setting, value: options.flag(setting, value, trainer.config.steps), planned or 0):
        print(words)
    else:
        trainer.fit()
    if trainer.stopped:
        how = f"`ganfast run {name} --resume --run-dir {trainer.run_dir}` goes on"
        print(how)
    elif world.rank == 0:
        print("measuring", flush=True)
        takes = inspect.signature(system.sample).parameters if system.sample else ()
        asks = "".join(words for key, words in ASKS.items() if key in takes)
        asks += " [--input FILE_OR_FOLDER]" if system.applied else ""
        print(told(running.finish(system, trainer, options), trainer.run_dir, asks))


def _parsed(name: str, system: System, args: list[str], start: Options, resume: bool) -> Options:
    words = tyro.conf.arg(help="go on with the run in run_dir: its options are the defaults, those given here override them")
    title = system.name.replace("-", "_")
    fields = [(title, tyro.conf.OmitArgPrefixes[system.options]), ("resume", Annotated[bool, words], False)]
    kind = dataclasses.make_dataclass("Run", fields, namespace={"__doc__": f"{system.name}: {system.does}."})
    return getattr(commands.parse(kind, f"run {name}", args, kind(start, resume)), title)


def told(result: dict, folder: Path, asks: str = "") -> str:
    """A line for each figure, with its goal and whether it was reached."""
    lines = [f"{result['system']}, seed {result['seed']}: {result['steps']} steps, {result['seconds']:.0f} s"]
    width = max(map(len, result["figures"]), default=0)
    for name, value in result["figures"].items():
        line = f"  {name:<{width}}  {value:.4g}"
        if name in result["goals"]:
            sign, bound = result["goals"][name]
            line = f"{line:<{width + 12}}  goal {sign} {bound:g}, {'reached' if result['reached'][name] else 'MISSED'}"
        lines.append(line)
    how = f"`ganfast sample {folder}{asks}` makes samples"
    return "\n".join([*lines, f"in {folder}: {running.PICTURE}, {running.RESULT}, checkpoints; {how}"])


def sample(args: list[str]) -> None:
    """Of a run of a system by that system; of another run by `ganfast train`'s command."""
    wanted = commands.asked_samples(args)
    folder = wanted.checkpoint if wanted.checkpoint.is_dir() else wanted.checkpoint.parent
    if not (folder / running.ABOUT).is_file():
        commands.sample(wanted)
        return
    system, options = running.saved(folder)
    for name in commands.OF_STYLES:
        if (value := commands.option(args, name)) is not None or f"--{name}" in args:
            _checks.fail("sample", f"{name} got {value!r}, wants none", "It is for runs of `ganfast train`, of generators with styles")
    if wanted.input is not None:
        print(inputs.answered(system, options, wanted, args, folder))
        return
    asked = {key: getattr(wanted, key) for key in ("text", "label", "pick", "face", "driver") if getattr(wanted, key) is not None}
    _check_asked(system, asked)
    if "driver" in asked and (count := commands.option(args, "count")) is not None:
        _checks.fail("sample", f"count got {count!r}, wants none with driver", "The film is taken whole")
    picked, seed = _picked(asked.get("pick"), {name: commands.option(args, name) for name in NOT_PICKED}), wanted.seed
    given = asked
    if picked:
        given, seed = asked | {"pick": picked}, options.seed
    trainer = running.put_back(system, options, wanted.checkpoint)
    if system.sample:
        images = system.sample(trainer, options, count=wanted.count, seed=seed, **given)
    else:
        images = trainer.sample(wanted.count, asked.get("label"), seed)
    fields = {key.capitalize(): value for key, value in asked.items()}
    own = False
    if film := isinstance(images, Film):
        images, fields, own = images.frames, fields | images.fields, images.own
    images, labels = images if isinstance(images, Labelled) else (images, None)
    fields = system.fields_of(trainer, options, seed, own) | fields
    which = "-".join(map(_short, asked.values())) or "all"
    out = wanted.out or folder / f"sample-step{trainer.steps}-{which}-seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(images, Mapping):
        print(_heard(out, images, fields))
        return
    if film:
        grids.write_clip(out / "clip.gif", images, fields, max(1, 192 // images.shape[-1]))
    print(_written(out, images, fields, picked, labels))


def _picked(text: str | None, others: dict[str, str | None]) -> tuple[int, ...]:
    """The numbers that --pick names, each once. Raises: ValueError for what are none, and for options that NOT_PICKED names."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        _checks.fail("sample", f"pick got {text!r}, wants numbers of the contact sheet, such as 3,7,12")
    for name, value in others.items():
        if value is not None:
            _checks.fail("sample", f"{name} got {value!r}, wants none with pick", NOT_PICKED[name])
    return tuple(dict.fromkeys(map(int, words)))


def _check_asked(system: System, asked: dict[str, str]) -> None:
    """Raises: ValueError for what the system's samples do not depend on, and where something is missing that they do."""
    takes = inspect.signature(system.sample).parameters if system.sample else {"label": None}
    for key, value in asked.items():
        if key not in takes:
            _checks.fail("sample", f"{key} got {value!r}, wants none", f"The system {system.name} takes no {key}")
    for key in {"text", "label"} & takes.keys() - asked.keys():
        if system.sample and takes[key].default is inspect.Parameter.empty:
            _checks.fail("sample", f"{key} is missing, and the system {system.name} draws by it", f'Give --{key} "..."')


def _short(text: str) -> str:
    """For a folder's name: of two long captions that begin alike too."""
    name = commands.file_name(text)
    return name if len(name) <= 60 else f"{name[:50]}-{mixed(text):08x}"


def _heard(out: Path, sounds: Mapping[str, Sound], fields: dict[str, str]) -> str:
    for name, sound in sounds.items():
        wav.write(out / f"{name}.wav", sound.wave, sound.rate, (fields if sound.made else {}) | sound.fields)
    return f"{len(sounds)} sounds in {out}"


def _written(out: Path, images: Tensor, fields: dict[str, str], picked: tuple[int, ...], labels: list[str] | None) -> str:
    """Of the images that were picked no grid, as each is large."""
    if picked:
        for number, image in zip(picked, images, strict=True):
            grids.write_png(out / f"number-{number:03d}.png", image, fields | {"Number": str(number)})
        return f"{len(images)} images in {out}"
    grids.write_png(out / "grid.png", grids.tile(images, min(len(images), 10)), fields)
    for i, image in enumerate(images):
        label = {"Label": labels[i]} if labels else {}
        grids.write_png(out / f"{commands.file_name(label.get('Label', 'image'))}-{i:03d}.png", image, fields | label)
    return f"{len(images)} images and {out / 'grid.png'}"
