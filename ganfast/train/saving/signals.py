"""SIGTERM and Ctrl-C ask the loop to stop after the step it is in, so that it can save."""

import signal
import threading
import time
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
TOGETHER = 1.0  # seconds: torchrun passes on the Ctrl-C that the terminal has sent to all its processes


class StopRequests:
    """While entered, the first SIGTERM or Ctrl-C is noted in `asked`; another one, TOGETHER seconds later or more, acts as ever.

    Enter it before data workers are forked: they then sit out a Ctrl-C as their parent does. Outside the main thread, where Python
    takes no handlers, nothing happens; a signal that the process ignores (nohup, a background job) stays ignored.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequests":
        self.asked = None
        if threading.current_thread() is threading.main_thread():
            for number in NAMES:
                if (before := signal.getsignal(number)) is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: set by C code, out of Python's reach

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._since = NAMES[signal.Signals(number)], now
        elif now - self._since >= TOGETHER:
            self.__exit__()
            signal.raise_signal(number)
