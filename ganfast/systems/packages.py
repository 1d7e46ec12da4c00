"""Packages that hold data, of the extra `systems`: where they lie, or one sentence that names the one that is missing."""

import importlib.util
from pathlib import Path

IMPORTED_AS = {"scikit-learn": "sklearn"}  # others as they are called


def folder(package: str, what: str) -> Path:
    """The folder of the installed package, which is not imported. what: who wants it, as the subject of a sentence.

    Raises: ImportError that names the package and how to get it.
    """
    found = importlib.util.find_spec(IMPORTED_AS.get(package, package))
    if found is None or not found.submodule_search_locations:
        every = "the packages of all systems come with pip install 'ganfast[systems]'"
        raise ImportError(f"systems: {what} needs the package {package}, which is not installed: pip install {package} ({every}).")
    return Path(next(iter(found.submodule_search_locations)))
