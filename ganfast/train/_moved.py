"""Old import paths: all modules of the trainer once lay in one folder, and `ganfast.train.sources` and the others still import.

`ganfast.train.data` and `ganfast.train.distributed` are not here: they are packages now, and export what the modules of that name had.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED: dict[str, tuple[str, ...]] = {
    "autoencoders": ("objectives.autoencoders",),
    "batches": ("data.batches", "data.order"),
    "callbacks": ("watch.callbacks", "watch.standard"),
    "checkpoint": ("saving.checkpoint",),
    "commands": ("command_line.commands",),
    "curves": ("watch.curves",),
    "decode": ("data.decode",),
    "densities": ("known_answers.densities",),
    "disk": ("saving.disk",),
    "features": ("watch.features",),
    "grids": ("watch.grids",),
    "items": ("data.items",),
    "loaders": ("data.loaders",),
    "metrics": ("watch.metrics",),
    "mixtures": ("known_answers.mixtures", "watch.grids"),
    "monitors": ("watch.alarms", "watch.diversity"),
    "pool": ("objectives.pool",),
    "recipes": ("command_line.recipes", "command_line.presets"),
    "resume": ("saving.resume",),
    "signals": ("saving.signals",),
    "sources": ("data.sources",),
    "spread": ("watch.diversity",),
    "streams": ("data.streams", "data.order"),
    "sync_norm": ("distributed.sync_batch_norm",),
    "tensorboard": ("watch.tensorboard",),
    "terms": ("objectives.terms",),
    "workers": ("data.workers",),
}
"""Old name below ganfast.train -> the modules that now hold what it held."""


PACKAGE = __name__.rpartition(".")[0]


class Moved(ModuleType):
    """A moved module under its old name, to read from: what is set here would change nothing, and is refused."""

    def __getattr__(self, name: str):
        modules = [importlib.import_module(f"{PACKAGE}.{new}") for new in MOVED[self.__name__.rpartition(".")[2]]]
        if name == "__all__":  # for `import *`
            return sorted({public for module in modules for public in vars(module) if not public.startswith("_")})
        for module in modules if not name.startswith("__") else ():
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}. {self.__doc__}")

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):  # those are the import system's
            raise AttributeError(f"{name} cannot be set in {self.__name__!r}. {self.__doc__} Set it there.")
        super().__setattr__(name, value)


class Finder:
    """Makes an old name's module when somebody imports it; as the last finder it is asked for nothing that exists."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, old = name.rpartition(".")
        return ModuleSpec(name, Finder) if package == PACKAGE and old in MOVED else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> Moved:
        news = MOVED[spec.name.rpartition(".")[2]]
        return Moved(spec.name, f"This is the old name of {' and '.join(f'{PACKAGE}.{new}' for new in news)}.")

    @staticmethod
    def exec_module(module: Moved) -> None:
        """It holds nothing of its own."""


sys.meta_path.append(Finder)
