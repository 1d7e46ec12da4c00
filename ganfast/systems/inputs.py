"""`ganfast sample RUN --input FILE_OR_FOLDER`: a run's system enlarges or translates pictures of the user's own."""

from collections import Counter
from pathlib import Path

from ganfast import _checks
from ganfast.systems import running
from ganfast.systems.form import Options, System
from ganfast.systems.sources import own
from ganfast.train.command_line import commands
from ganfast.train.watch import grids

OTHERS = ("text", "label", "pick", "face", "driver", "count", "seed")
"""Options of `ganfast sample` that say nothing about a picture that is given."""


def answered(system: System, options: Options, wanted: commands.Sample, args: list[str], folder: Path) -> str:
    """Writes what is made of each picture, and says where. Pictures that cannot be read are left out, and named.

    Raises: ValueError for a system that takes no pictures, for options that it cannot have with them, where there is no picture or none
        that can be read.
    """
    place = wanted.input.expanduser()
    if system.applied is None:
        _checks.fail("sample", f"input got {str(place)!r}, wants none", f"The system {system.name} takes no pictures")
    for name in OTHERS:
        if (value := commands.option(args, name)) is not None:
            _checks.fail("sample", f"{name} got {value!r}, wants none with input")
    if not place.exists():
        _checks.fail("sample", f"input got {str(place)!r}, wants a picture or a folder of pictures; there is no such thing")
    root, files = (place.parent, [place]) if place.is_file() else (place, own.pictures_below("sample", place))
    if not files:
        _checks.fail("sample", f"input got {str(place)!r}, wants a picture or a folder of pictures; it holds none")
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
        paths = lambda name, file=file, made=made: [out / file.relative_to(root).with_name(f"{name}{ending}.png") for ending in made]
        clear = alike[file.with_suffix("")] == 1 and not written & {*paths(file.stem)}  # a-fake.png may be another picture's answer
        for path, image in zip(paths(file.stem if clear else file.name), made.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            grids.write_png(path, image, fields | {"Input": file.name})
            written.add(path)
    if len(broken) == len(files):
        own.none("sample", "pictures that cannot be read", broken, "input")
    left = f"; left out, as they cannot be read: {own.listed(broken)}" if broken else ""
    return f"{len(written)} images in {out}{left}"
