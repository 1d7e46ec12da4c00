"""`ganfast sample RUN --input FILE_OR_FOLDER`: a run's system enlarges or translates pictures of the user's own."""

from collections import Counter
from pathlib import Path

from ganfast import _checks
from ganfast.systems import running
from ganfast.systems.form import Options, System
from ganfast.systems.sources import own
from ganfast.train.command_line import commands
from ganfast.train.watch import grids

OTHERS = ("text", "label", "pick", "count", "seed")
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
    about = grids.about(f"{system.name}: {trainer.name}", options.seed)
    alike, broken = Counter(file.with_suffix("") for file in files), []
    for file in files:
        try:
            ending, image = system.applied(trainer, options, file)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises
            broken.append(f"{file.relative_to(root)} ({error})")
            continue
        name = file.stem if alike[file.with_suffix("")] == 1 else file.name
        path = out / file.relative_to(root).with_name(f"{name}{ending}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        grids.write_png(path, image, about | {"Input": file.name})
    if len(broken) == len(files):
        own.none("sample", "pictures that cannot be read", broken)
    left = f"; left out, as they cannot be read: {own.listed(broken)}" if broken else ""
    return f"{len(files) - len(broken)} images in {out}{left}"
