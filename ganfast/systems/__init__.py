"""Systems: GAN applications by name, one file each, which `ganfast run` trains, measures and draws. README.md is their gallery.

Importing this costs nothing; a system's file is imported by `load`.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ganfast.systems.form import System

NAMES: dict[str, str] = {
    "text-to-image": "ganfast.systems.text_to_image",
    "inpainting": "ganfast.systems.inpainting",
    "cyclegan": "ganfast.systems.cyclegan",
    "pix2pix": "ganfast.systems.pix2pix",
    "portraits": "ganfast.systems.portraits",
    "next-frame": "ganfast.systems.next_frame",
    "super-resolution": "ganfast.systems.super_resolution",
    "puppet": "ganfast.systems.puppet",
    "augmentation": "ganfast.systems.augmentation",
    "latent-editing": "ganfast.systems.latent_editing",
    "vocoder": "ganfast.systems.vocoder",
}
"""name -> module, in the order of the gallery; each has a SYSTEM."""
REACHED = Path(__file__).with_name("reached.json")


def load(name: str) -> "System":
    """A system by its name, or the SYSTEM of a file: "mine.py".

    Raises: ValueError for an unknown name, with the nearest one; for a file that is missing or has no SYSTEM.
    """
    from ganfast import _checks

    if name.endswith(".py"):
        return _of_file(Path(name))
    if name not in NAMES:
        _checks.nearest("run", "system", name, NAMES)
    return importlib.import_module(NAMES[name]).SYSTEM


def _of_file(path: Path) -> "System":
    from ganfast import _checks
    from ganfast.systems.form import System

    if not isinstance(found := getattr(module_of(path, "run"), "SYSTEM", None), System):
        _checks.fail("run", f"{path} has no SYSTEM, wants SYSTEM = ganfast.systems.form.System(...)")
    return found


def module_of(path: Path, command: str) -> ModuleType:
    """What a user's file holds; it finds its neighbours. Raises: ValueError where there is none, as the command's."""
    from ganfast import _checks

    if not path.is_file():
        known = f"Systems by name: {', '.join(NAMES)}" if command == "run" else ""
        _checks.fail(command, f"there is no file {path}", known)
    spec = importlib.util.spec_from_file_location(f"_{command}_{path.stem}", path)  # no name that a package may have
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def file_of(system: "System") -> str | None:
    """The file that `load` found the system in; None for one that is called by its name."""
    module = getattr(system.build, "__module__", "")  # a copy of a system may still have its name
    return None if NAMES.get(system.name) == module else getattr(sys.modules.get(module), "__file__", None)


def reached() -> dict[str, dict]:
    """name -> what `make gallery` measured last: figures (means over the seeds), seeds, seconds, device, date."""
    return json.loads(REACHED.read_text(encoding="utf-8"))
