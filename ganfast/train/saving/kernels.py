"""Which kernels a run's tuner took, in a file of the run's folder from its first step on: only with the same ones are its bits the same."""

import json
from pathlib import Path

from ganfast import _tune
from ganfast._tell import tell

FILE = "kernels.json"
WORDS = f"{{}}/{FILE} holds the kernels that the tuner takes: another run of the seed has the same bits if its tuner takes the same"


def text() -> str:
    """The file's content, as of now."""
    return json.dumps(_tune.choices(), indent=1) + "\n"


def joined(choices: dict, folder: Path) -> dict:
    """A checkpoint's choices and those that the folder's file has beside them."""
    file = folder / FILE
    if file.exists():
        try:
            return _tune.together(choices, json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            tell(f"{file} cannot be read ({error}): the tuner's choices are those of the checkpoint")
    return choices
