"""`ganfast sample RUN --input FILE_OR_FOLDER`: a run's system enlarges or translates pictures of the user's own, or makes sound anew."""

from collections import Counter
from pathlib import Path

from ganfast import _checks
from ganfast.systems import running
from ganfast.systems.form import Options, Sound, System
from ganfast.systems.sources import own, wav
from ganfast.train.command_line import commands
from ganfast.train.watch import grids

OTHERS = ("text", "label", "pick", "face", "driver", "count", "seed")
"""Options of `ganfast sample` that say nothing about a picture that is given."""
PICTURES, SOUNDS = ("picture", "pictures", "images"), ("WAV file", "WAV files", "sounds")
"""One of what a system takes, several, and what it makes of them."""


def answered(system: System, options: Options, wanted: commands.Sample, args: list[str], folder: Path) -> str:
    """Writes what is made of each picture or sound, and says where. Those that cannot be read are left out, and named.

    Raises: ValueError for a system that takes none, for options that it cannot have with them, where there is no picture or none
        that can be read.
    """
    place, (one, several, results) = wanted.input.expanduser(), SOUNDS if system.hears else PICTURES
    if system.applied is None:
        _checks.fail("sample", f"input got {str(place)!r}, wants none", f"The system {system.name} takes no pictures")
    for name in OTHERS:
        if (value := commands.option(args, name)) is not None:
            _checks.fail("sample", f"{name} got {value!r}, wants none with input")
    if not place.exists():
        _checks.fail("sample", f"input got {str(place)!r}, wants a {one} or a folder of {several}; there is no such thing")
    below, kind = (wav.below, "wav") if system.hears else (own.pictures_below, "png")
    root, files = (place.parent, [place]) if place.is_file() else (place, below("sample", place))
    if not files:
        _checks.fail("sample", f"input got {str(place)!r}, wants a {one} or a folder of {several}; it holds none")
    trainer = running.put_back(system, options, wanted.checkpoint)
    out = wanted.out or folder / f"sample-step{trainer.steps}-{commands.file_name(place.resolve().stem)}"
    fields = system.fields_of(trainer, options, own=True)
    alike, broken, written = Counter(file.with_suffix("") for file in files), [], set()
    for file in files:
        try:
            made = system.applied(trainer, options, file)
        except own.Unreadable as error:
            broken.append(f"{file.relative_to(root)} ({error})")
            continue
        paths = lambda name, file=file, made=made: [out / file.relative_to(root).with_name(f"{name}{ending}.{kind}") for ending in made]
        clear = alike[file.with_suffix("")] == 1 and not written & {*paths(file.stem)}  # a-fake.png may be another picture's answer
        for path, image in zip(paths(file.stem if clear else file.name), made.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(image, Sound):
                wav.write(path, image.wave, image.rate, (fields if image.made else {}) | image.fields | {"Input": file.name})
            else:
                grids.write_png(path, image, fields | {"Input": file.name})
            written.add(path)
    if len(broken) == len(files):
        own.none("sample", f"{several} that cannot be read", broken, "input")
    left = f"; left out, as they cannot be read: {own.listed(broken)}" if broken else ""
    return f"{len(written)} {results} in {out}{left}"
