"""One compiled function: how it goes into dynamo, with which settings, and what dynamo says of it."""

import contextlib
import inspect
import itertools
import logging
import os
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from ganfast._tell import tell
from ganfast.dropin.around import ops_as_they_are, refuse_in_recording

MOST_GRAPHS = 64  # of one compiled module: torch's own limit, 8, is less than one training loop needs
_NUMBERS = itertools.count()
_TRIES = 2  # code that dynamo failed on so many times is not tried again
# Hooks that come later are seen; gradients are eager's, so DistributedDataParallel needs no graphs split for its overlap.
_OPTIONS = {
    "skip_nnmodule_hook_guards": False,
    "optimize_ddp": False,
    "recompile_limit": MOST_GRAPHS,
    "accumulated_recompile_limit": 4 * MOST_GRAPHS,
}


LEFT_ALONE: set[types.CodeType] = set()  # what dynamo meets behind a break, and has graphs of its own


class Break(NamedTuple):
    """Something that was not one graph for good. kind: "broke", "compiled anew" or "runs as written"; reason: dynamo's words."""

    kind: str
    reason: str


class Compiled:
    """One function's compilations, and what is known of them.

    name: of what is compiled, for the user; path: of the module that is called, in the root; run: the function, through dynamo; graphs:
    backend.Graph in the order of compilation; breaks: where dynamo left the graph, compiled anew or gave up; seconds: all compilations
    together.
    """

    def __init__(self, call: types.FunctionType, root: nn.Module | None, recompute: bool, name: str, path: str = "") -> None:
        self.root = (lambda: None) if root is None else weakref.ref(root)
        self._recompute, self.name, self._path = recompute, name, path
        self.graphs: list = []
        self.breaks: list[Break] = []
        self.seconds = 0.0
        self.found, self.broke = False, False  # whether any graph has a group, or weights to make together; whether dynamo left one
        self._failures: dict[types.CodeType, int] = {}
        self._forwards: dict[type, types.FunctionType] = {}  # of the classes of all modules in what was called
        self._call = call
        self._start()

    def _start(self) -> None:
        """Makes `run`, of which nothing is compiled yet."""
        from torch._dynamo import optimize  # a second to import: at the first call of an accelerated model

        # A code object of its own: dynamo keeps and counts what it compiled by code. A name of its own: by file, line and name it keeps the
        # sizes that it has seen, and takes those that differ, here from one model to the next, for sizes that change.
        self.code = self._call.__code__.replace(co_name=f"{self._call.__name__}_{next(_NUMBERS)}")
        isolated = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(optimize).parameters else {}
        context = optimize(self._backend, **isolated)
        context.callback = _Watched(context.callback, self)
        self.run = context(types.FunctionType(self.code, self._call.__globals__, self._call.__name__))

    def _backend(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable:
        from ganfast.dropin.backend import Graph

        if any(getattr(node.target, "__name__", "") == "tag_activation_checkpoint" for node in module.graph.nodes):
            # Inside a graph torch keeps the counts of batch norms for the second run, which changes them: its backward raises.
            raise RuntimeError("it checkpoints activations, as eager does; the modules that it calls have graphs of their own")
        self.graphs.append(Graph(module, inputs, self.root(), self._recompute, self._path))
        self.found = self.found or bool(self.graphs[-1].groups or self.graphs[-1].batches)
        return self.graphs[-1]

    def is_needed(self) -> bool:
        """Whether a group runs as one in any of its graphs, or Python runs between them, whose calls have graphs of their own."""
        return self.broke or bool(self._failures) or any(graph.fuses for graph in self.graphs)

    @property
    def whole(self) -> bool:
        """Whether every call so far was one graph."""
        return bool(self.graphs) and all(entry.kind == "compiled anew" for entry in self.breaks)

    def call(self, *args: Any) -> Any:
        """Runs it. What is compiled in a call that raises is thrown away: where dynamo left the graph at a user's mistake, it would do so
        in right calls too."""
        if not self.is_current():
            names = " and ".join(cls.__name__ for cls, forward in self._forwards.items() if cls.forward is not forward)
            self._note(f"{names} got another forward after it was compiled")
            return self._call(*args)
        breaks, graphs, failures = len(self.breaks), len(self.graphs), dict(self._failures)
        try:
            return self.run(*args)
        except Exception:
            given_up = any(n >= _TRIES and n > failures.get(code, 0) for code, n in self._failures.items())
            if given_up or any(entry.kind == "broke" for entry in self.breaks[breaks:]):
                self._start()
                self.graphs.clear()
            self._failures = failures
            del self.breaks[breaks:]
            raise
        finally:
            if len(self.graphs) != graphs and isinstance(args[0], nn.Module):
                found = {type(m): getattr(type(m), "forward", None) for m in args[0].modules()}
                self._forwards = {cls: forward for cls, forward in found.items() if isinstance(forward, types.FunctionType)}

    def is_current(self) -> bool:
        """Whether no class has got another forward since it was compiled: of a module dynamo's guards compare the class alone."""
        return all(cls.forward is forward for cls, forward in self._forwards.items())

    def needed_too_many(self, code: types.CodeType, anew: str) -> None:
        """Notes that the code, for which dynamo makes no more graphs, runs as written where none fits; `anew`: what no graph fitted."""
        name = self.name if code is self.code else code.co_name
        why = f"{name} needed more than {MOST_GRAPHS} graphs, the last time as {anew}"
        self.failed(code, why)
        about = f"{self.name} needed too many graphs"  # its children may say it next
        tell(f"{why}: what no graph fits runs as written from now on. explain(model).breaks says what changed each time", about)

    def failed(self, code: types.CodeType, why: str) -> bool:
        """Notes it; whether the code is not to be tried again."""
        self._failures[code] = self._failures.get(code, 0) + 1
        self._note(why)
        return self._failures[code] >= _TRIES

    def _note(self, why: str) -> None:
        if not any(known.reason == why for known in self.breaks):
            self.breaks.append(Break("runs as written", why))


class _Watched:
    """Dynamo's callback with ganfast's settings, which hold while it compiles and at no other time; notes what it says."""

    def __init__(self, callback: Callable, compiled: Compiled) -> None:
        self._torchdynamo_orig_backend, self._compiled = callback, compiled

    def __call__(self, frame, entry, state):
        from torch._dynamo import config
        from torch._dynamo.types import FrameAction
        from torch._dynamo.utils import counters

        compiled, code = self._compiled, frame.f_code
        if code in LEFT_ALONE:
            return _as_written(FrameAction.SKIP, FrameAction.SKIP)
        refuse_in_recording("a forward is compiled")
        before, frames = dict(counters["graph_break"]), dict(counters["frames"])
        anew = _why_anew(entry, frame)
        began, made = time.perf_counter(), len(compiled.graphs)
        try:
            with config.patch(_known_options(config)), _silence(), ops_as_they_are():
                result = self._torchdynamo_orig_backend(frame, entry, state)
        except Exception as error:  # eager does what dynamo cannot, or raises the user's own error
            error = getattr(error, "inner_exception", error)  # a backend's own
            given_up = compiled.failed(code, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
            return _as_written(FrameAction.SKIP if given_up else FrameAction.DEFAULT, FrameAction.DEFAULT, given_up)
        finally:
            compiled.seconds += time.perf_counter() - began
        reasons = [_line(why).partition(" Hint:")[0] for why, times in counters["graph_break"].items() if times != before.get(why)]
        tried, made_it = (counters["frames"][name] - frames.get(name, 0) for name in ("total", "ok"))
        action = result.frame_exec_strategy.cur_action
        if tried > made_it and action == FrameAction.SKIP:
            # Dynamo would not look at this code again, nor at the same of other models.
            why = reasons or [f"{code.co_name} could not be followed"]
            result.apply_to_code = [compiled.failed(code, reason) for reason in why][-1]
            return result
        compiled.breaks += [Break("broke", reason) for reason in reasons]
        compiled.broke = compiled.broke or bool(reasons)
        if anew and len(compiled.graphs) > made:
            compiled.breaks.append(Break("compiled anew", anew))
        if result.guarded_code is None and action == FrameAction.RUN_ONLY:
            compiled.needed_too_many(code, anew)
        return result


def _as_written(now, later, for_all: bool = False):
    """Dynamo's word for a frame that runs as it is; `later`: for those that it calls; `for_all`: at each call of the code."""
    from torch._dynamo.types import ConvertFrameReturn, FrameExecStrategy

    return ConvertFrameReturn(frame_exec_strategy=FrameExecStrategy(now, later), apply_to_code=for_all)


def _known_options(config) -> dict[str, Any]:
    """Those of `_OPTIONS` that this torch has."""
    gone = [name for name in _OPTIONS if not hasattr(config, name)]
    if gone:
        tell(f"torch {torch.__version__} has not torch._dynamo.config.{', '.join(gone)}: accelerated models run without, perhaps slower")
    return {name: value for name, value in _OPTIONS.items() if name not in gone}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Dynamo's warnings about a user's code are advice for those who asked for torch.compile; here they go to `explain`."""
    handlers = [] if "TORCH_LOGS" in os.environ else logging.getLogger("torch._dynamo").handlers
    grave = lambda record: record.levelno >= logging.ERROR
    for handler in handlers:
        handler.addFilter(grave)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\._dynamo")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(grave)


def _why_anew(entry, frame) -> str:
    """The guard that kept the last graph from being used again."""
    if entry is None:
        return ""
    try:
        from torch._dynamo.guards import get_guard_fail_reason

        reason = get_guard_fail_reason(entry.guard_manager, entry.code, frame.f_locals, entry.compile_id, None)
        return _line(reason.partition("User stack trace")[0])
    except Exception:  # a private name whose arguments change from one torch to the next
        return "its inputs look different"


def _line(text: str) -> str:
    return " ".join(str(text).split())
