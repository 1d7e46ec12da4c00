"""Where no group of a module pays, its calls go through dynamo or not, whichever was seen to be faster: dynamo's guards cost 20 to 60
microseconds a call, and what it leaves out, the calls of modules and hooks, may be more or less than that. Both give the same bits."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ganfast import _backends, _tune
from ganfast._autograd import here
from ganfast._memo import Memo
from ganfast.dropin.compiled import Compiled

_WARM, _TRIES = 3, 10  # calls by dynamo before the first that is timed; timed ones of each way
_MARGIN = 0.01
_PLAIN = (int, float, bool, str, type(None))


class Routes:
    """Of one module, by the look of the call: training mode, grad mode, autocast, threads, a penalty, the arguments' shapes and dtypes."""

    def __init__(self) -> None:
        self._known = Memo()  # look -> whether the call goes as it is written; a _Trial while that is open

    def call(self, module: nn.Module, args: tuple, kwargs: dict, compiled: Compiled, free: Callable) -> Any:
        """Makes the call. compiled: the module's, which takes all three; free: a context in which the module's children are called as torch
        calls them, `free(module, True)` for good."""
        look = None if kwargs else _look(module, args)
        trial = self._known.get(look)
        if trial is True:
            return module._call_impl(*args)
        if trial is False or look is None:
            return compiled.call(module, args, kwargs)
        if trial is None:
            result = compiled.call(module, args, kwargs)
            self._known[look] = False if compiled.is_needed() or _tune.off_reason() or _backends._chosen else _Trial()
            return result
        written = trial.turn()
        with free(module) if written else contextlib.nullcontext():
            began = time.perf_counter()
            result = module._call_impl(*args) if written else compiled.call(module, args, kwargs)
            took = time.perf_counter() - began
        if (wins := trial.note(written, took)) is not None:
            self._known[look] = wins and not compiled.is_needed()
            if self._known[look]:
                with free(module, True):
                    pass
        return result


class _Trial:
    """The fastest call of each way, in turns."""

    def __init__(self) -> None:
        self.calls, self.best = 0, {True: float("inf"), False: float("inf")}

    def turn(self) -> bool:
        return self.calls >= _WARM and self.calls % 2 == 0

    def note(self, written: bool, seconds: float) -> bool | None:
        """Whether calls as they are written won; None until there were enough."""
        self.calls += 1
        if self.calls > _WARM:
            self.best[written] = min(self.best[written], seconds)
        return self.best[True] < (1 - _MARGIN) * self.best[False] if self.calls >= _WARM + 2 * _TRIES else None


def _look(module: nn.Module, args: tuple) -> tuple | None:
    """None for arguments of other kinds."""
    found = [module.training, torch.is_grad_enabled(), torch._C._is_any_autocast_enabled(), torch.get_num_threads(), here.twice]
    for t in args:
        if isinstance(t, Tensor):
            found += (t.shape, t.dtype, t.requires_grad)
        elif type(t) in _PLAIN:
            found.append(t)
        else:
            return None
    return tuple(found)
