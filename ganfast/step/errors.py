"""Why a step cannot be captured, and at which of its lines."""

import traceback
from pathlib import Path

import torch

_LIBRARIES = tuple(f"{Path(file).parent}/" for file in (torch.__file__, Path(__file__).parent))


class CaptureError(RuntimeError):
    """A step that a graph cannot repeat; the message has the line or the value, and what to do about it."""


def line_of(error: BaseException, libraries: tuple[str, ...] = ()) -> str:
    """'train.py:57, in step: `if loss.item() > 0:`', the innermost line outside of torch, this folder and `libraries`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, *libraries))]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}, in {frame.name}: `{frame.line}`"
