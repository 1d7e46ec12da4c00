"""A stand-in for CUDA graphs on a CPU: records the operators of a call and runs them again on the same memory.

It proves the bookkeeping around a graph (what is copied, kept, put back, guarded, refused), not CUDA: streams, pools and launches are
not its business, but for one thing: as torch 2.13's, a graph that dies takes its stream's workspace from those recorded after it, which
must not be replayed any more. tests/gpu runs the same tests on the real thing. Like a CUDA graph it freezes Python: numbers, branches
and addresses are those of the recording, and what a recorded call computes holds nothing (here NaN) before the first replay.
"""

import contextlib
import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")


class _Waiting(TorchDispatchMode):
    """Makes an error of what would wait for a GPU."""

    _ganfast_sees_kernels = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in _WAITS:
            raise RuntimeError("called a synchronizing operation")
        return func(*args, **(kwargs or {}))


def _alias(value):
    """The same memory under a shape of its own: operators such as transpose_ change that of the tensor they are given."""
    return value.detach() if isinstance(value, Tensor) else value


class _Recorder(_Waiting):
    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_map(_alias, (args, kwargs or {}))
        out = super().__torch_dispatch__(func, types, args, kwargs)
        old = {t.untyped_storage()._cdata for t in tree_leaves(given) if isinstance(t, Tensor)}
        leaves = tree_leaves(out)
        made = [i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.untyped_storage()._cdata not in old]
        self.calls.append((func, given, {i: _alias(leaves[i]) for i in made}))
        return out

    def forget(self) -> None:
        for *_, made in self.calls:
            for tensor in made.values():
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))

    def replay(self) -> None:
        with torch.no_grad():
            for func, given, made in self.calls:
                args, kwargs = tree_map(_alias, given)
                leaves = tree_leaves(func(*args, **kwargs))
                for i, before in made.items():
                    before.copy_(leaves[i])


class RecordedGraphs:
    files = (__file__,)

    def __init__(self) -> None:
        self.device, self.generator = torch.device("cpu"), torch.default_generator
        self.recordings = self.replays = 0
        self._recording = False
        self._alive: dict[int, weakref.ref] = {}

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
        graph = _Graph(self, recorder)
        self._alive[graph.number] = weakref.ref(graph)
        return out, graph.replay


class _Graph:
    def __init__(self, graphs: RecordedGraphs, recorder: _Recorder) -> None:
        self._recorder, self._graphs, self.number = recorder, graphs, graphs.recordings
        self._spoilt = False

    def replay(self) -> None:
        assert not self._spoilt, "a graph died while this one, recorded later on its stream, was alive: this one's workspace is gone"
        self._graphs.replays += 1
        self._recorder.replay()

    def __del__(self) -> None:
        self._graphs._alive.pop(self.number, None)
        for number, later in self._graphs._alive.items():
            if number > self.number and (graph := later()) is not None:
                graph._spoilt = True
