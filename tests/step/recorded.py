"""A stand-in for CUDA graphs on a CPU: records the operators of a call and runs them again on the same memory.

It proves the bookkeeping around a graph (what is copied, kept, put back, guarded, refused), not CUDA: streams, pools and launches are
not its business. tests/gpu runs the same tests on the real thing. Like a CUDA graph it freezes Python: numbers, branches and addresses
are those of the recording, and what a recorded call computes holds nothing (here NaN) before the first replay.
"""

import contextlib

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")


class _Waiting(TorchDispatchMode):
    """Makes an error of what would wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in _WAITS:
            raise RuntimeError("called a synchronizing operation")
        return func(*args, **(kwargs or {}))


class _Recorder(_Waiting):
    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        old = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.untyped_storage()._cdata not in old]
        self.calls.append((func, args, kwargs, out, made))
        return out

    def forget(self) -> None:
        for *_, made in self.calls:
            for tensor in made:
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out, made in self.calls:
                now = func(*args, **kwargs)
                if made:
                    mine = {id(t) for t in made}
                    for before, after in zip(tree_leaves(out), tree_leaves(now)):
                        if id(before) in mine:
                            before.copy_(after)


class RecordedGraphs:
    files = (__file__,)

    def __init__(self) -> None:
        self.device, self.generator = torch.device("cpu"), torch.default_generator
        self.recordings = self.replays = 0
        self._recording = False

    def aside(self):
        return contextlib.nullcontext()

    def without_waiting(self):
        return _Waiting()

    def waited(self, error: BaseException) -> bool:
        return "synchronizing" in str(error)

    def busy(self) -> bool:
        return self._recording

    def record(self, call, generators):
        self._recording = True
        try:
            with _Recorder() as recorder:
                out = call()
        finally:
            self._recording = False
        self.recordings += 1
        recorder.forget()

        def replay() -> None:
            self.replays += 1
            recorder.replay()

        return out, replay
