"""Why a step cannot be captured, and at which of its lines."""

import traceback
from pathlib import Path

import torch

_LIBRARIES = tuple(f"{Path(file).parent}/" for file in (torch.__file__, Path(__file__).parent))


class CaptureError(RuntimeError):
    """A step that a graph cannot repeat; the message has the line or the value, and what to do about it."""


def line_of(error: BaseException, libraries: tuple[str, ...] = ()) -> str:
    """'train.py:57, in step: `if loss.item() > 0:`', the innermost line outside of torch, this folder and `libraries`."""
    return _innermost(traceback.extract_tb(error.__traceback__), libraries)


def line_now() -> str:
    """The same of the call that is going on."""
    return _innermost(traceback.extract_stack(), ())


def _innermost(frames: list[traceback.FrameSummary], libraries: tuple[str, ...]) -> str:
    own = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, *libraries))]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}, in {frame.name}: `{frame.line}`"
