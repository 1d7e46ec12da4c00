"""What a call decided, remembered for the next one that looks like it."""

import weakref
from typing import ClassVar

from torch import Tensor

_UNHASHABLE: list = []


def look(argument: object) -> tuple | None:
    """What a decision may rest on: of a tensor how it lies, of all else what it is. A tensor without dimensions is a number that may
    change: its look has no hash."""
    if isinstance(argument, Tensor):
        return argument.shape or _UNHASHABLE, argument.dtype, argument.device, argument.layout
    return argument if argument is None else (argument, type(argument))


class Memo(dict):
    """A dict that starts anew when full: images of ever new sizes must not fill the memory."""

    MOST = 4096
    _all: ClassVar["weakref.WeakValueDictionary[int, Memo]"] = weakref.WeakValueDictionary()

    def __new__(cls, *args) -> "Memo":  # copies and pickles come this way too, and not by __init__
        memo = super().__new__(cls)
        cls._all[id(memo)] = memo
        return memo

    def __setitem__(self, key, value) -> None:
        if len(self) >= self.MOST:
            self.clear()
        super().__setitem__(key, value)

    @classmethod
    def forget_all(cls) -> None:
        """Whatever the decisions rested on has changed."""
        for memo in list(cls._all.values()):
            memo.clear()
