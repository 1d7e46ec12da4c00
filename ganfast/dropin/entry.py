"""Into dynamo and back: one compiled function for each module that is called, and what goes round it because dynamo, or ganfast's ops, must
not see it."""

import contextlib
import inspect
import itertools
import logging
import os
import sys
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from ganfast._tell import tell
from ganfast.dropin.around import goes_round, is_seen, ops_as_they_are, refuse_in_recording, seen_inside_graphs
from ganfast.dropin.in_order import in_order, runs_in_order
from ganfast.dropin.route import Routes

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
        self.found, self.broke = False, False  # whether any graph has a group; whether dynamo left one
        self._failures: dict[types.CodeType, int] = {}
        self._call, self.run = call, self._fresh(call)

    def _fresh(self, call: types.FunctionType) -> Callable:
        """The function, through dynamo, of which nothing is compiled yet."""
        from torch._dynamo import optimize  # a second to import: at the first call of an accelerated model

        # A code object of its own: dynamo keeps and counts what it compiled by code. A name of its own: by file, line and name it keeps the
        # sizes that it has seen, and takes those that differ, here from one model to the next, for sizes that change.
        code = call.__code__.replace(co_name=f"{call.__name__}_{next(_NUMBERS)}")
        self.code = code
        own = types.FunctionType(code, call.__globals__, call.__name__, call.__defaults__, call.__closure__)
        own.__kwdefaults__ = call.__kwdefaults__
        isolated = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(optimize).parameters else {}
        context = optimize(self._backend, **isolated)
        context.callback = _Watched(context.callback, self)
        return context(own)

    def _backend(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable:
        from ganfast.dropin.backend import Graph

        self.graphs.append(Graph(module, inputs, self.root(), self._recompute, self._path))
        self.found = self.found or bool(self.graphs[-1].groups)
        return self.graphs[-1]

    def is_needed(self) -> bool:
        """Whether a group runs as one in any of its graphs, or Python runs between them, whose calls have graphs of their own."""
        return self.broke or any(graph.fuses for graph in self.graphs)

    @property
    def whole(self) -> bool:
        """Whether every call so far was one graph."""
        return bool(self.graphs) and all(entry.kind == "compiled anew" for entry in self.breaks)

    def call(self, *args: Any) -> Any:
        """Runs it. What is compiled in a call that raises is thrown away: where dynamo left the graph at a user's mistake, it would do so
        in right calls too."""
        breaks, graphs, failures = len(self.breaks), len(self.graphs), dict(self._failures)
        try:
            return self.run(*args)
        except Exception:
            if any(entry.kind == "broke" for entry in self.breaks[breaks:]) or any(n >= _TRIES for n in self._failures.values()):
                self.run = self._fresh(self._call)
                del self.graphs[graphs:]
            self._failures = failures
            del self.breaks[breaks:]
            raise

    def failed(self, code: types.CodeType, why: str) -> bool:
        """Notes it; whether the code is not to be tried again."""
        self._failures[code] = self._failures.get(code, 0) + 1
        if not any(known.reason == why for known in self.breaks):
            self.breaks.append(Break("runs as written", why))
        return self._failures[code] >= _TRIES


class _Watched:
    """Dynamo's callback with ganfast's settings, which hold while it compiles and at no other time; notes what it says."""

    def __init__(self, callback: Callable, compiled: Compiled) -> None:
        self._torchdynamo_orig_backend, self._compiled = callback, compiled

    def __call__(self, frame, entry, state):
        from torch._dynamo import config
        from torch._dynamo.types import ConvertFrameReturn, FrameAction, FrameExecStrategy
        from torch._dynamo.utils import counters

        compiled, code = self._compiled, frame.f_code
        if code is Armed.__call__.__code__:  # behind a break: the child has graphs of its own
            skip = FrameExecStrategy(FrameAction.SKIP, FrameAction.SKIP)
            return ConvertFrameReturn(frame_exec_strategy=skip, apply_to_code=False)
        refuse_in_recording("a forward is compiled")
        before, frames = dict(counters["graph_break"]), dict(counters["frames"])
        anew = _why_anew(entry, frame)
        began, made = time.perf_counter(), len(compiled.graphs)
        try:
            with config.patch(_OPTIONS), _silence(), ops_as_they_are():
                result = self._torchdynamo_orig_backend(frame, entry, state)
        except Exception as error:  # eager does what dynamo cannot, or raises the user's own error
            given_up = compiled.failed(code, _first_line(error))
            action = FrameAction.SKIP if given_up else FrameAction.DEFAULT
            return ConvertFrameReturn(frame_exec_strategy=FrameExecStrategy(action, FrameAction.DEFAULT), apply_to_code=given_up)
        finally:
            compiled.seconds += time.perf_counter() - began
        reasons = [_line(why).partition(" Hint:")[0] for why, times in counters["graph_break"].items() if times != before.get(why)]
        tried, made_it = (counters["frames"][name] - frames.get(name, 0) for name in ("total", "ok"))
        if tried > made_it and result.frame_exec_strategy.cur_action == FrameAction.SKIP:
            # Dynamo would not look at this code again, nor at the same of other models.
            why = reasons or [f"{code.co_name} could not be followed"]
            result.apply_to_code = [compiled.failed(code, reason) for reason in why][-1]
            return result
        compiled.breaks += [Break("broke", reason) for reason in reasons]
        compiled.broke = compiled.broke or bool(reasons)
        if anew and len(compiled.graphs) > made:
            compiled.breaks.append(Break("compiled anew", anew))
        if result.guarded_code is None and result.frame_exec_strategy.cur_action == FrameAction.RUN_ONLY:
            name = compiled.name if code is compiled.code else code.co_name
            why = f"{name} needed more than {MOST_GRAPHS} graphs, the last time as {anew}"
            compiled.failed(code, why)
            about = f"{compiled.name} needed too many graphs"  # its children may say it next
            tell(f"{why}: what no graph fits runs as written from now on. explain(model).breaks says what changed each time", about)
        return result


@contextlib.contextmanager
def _disarmed(root: nn.Module, for_good: bool = False) -> Iterator[None]:
    """Inside, the modules below the root are called as torch calls them; `for_good`: afterwards too."""
    held = [(module, armed) for module in root.modules() if isinstance(armed := module.__dict__.get("_compiled_call_impl"), Armed)]
    held = [(module, armed) for module, armed in held if module is not root]
    for module, _ in held:  # the entry stays: dynamo's guards know the keys of a module's dictionary
        module.__dict__["_compiled_call_impl"] = None
    try:
        yield
    finally:
        for module, armed in () if for_good else held:
            module.__dict__["_compiled_call_impl"] = armed


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


def _first_line(error: BaseException) -> str:
    error = getattr(error, "inner_exception", error)  # a backend's own
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def _call_module(module: nn.Module, args: tuple, kwargs: dict) -> Any:
    return module._call_impl(*args, **kwargs)


def _gains_nothing(module: nn.Module) -> bool:
    """Whether a module in which no group was found has none for later calls either: no norm, and no weight of a convolution."""
    norms = any(isinstance(m, nn.modules.batchnorm._NormBase) for m in module.modules())
    return not norms and not any(t.dim() > 2 for t in (*module.parameters(), *module.buffers()))


_CALL = nn.Module._wrapped_call_impl.__code__


class Armed:
    """What stands in a module's `_compiled_call_impl`, where nn.Module.compile puts its own: calls the module through dynamo. Copies and
    pickles of the module come without it."""

    keeps_autograd = True  # gradients are eager's, of every order: `penalties` refuses compiled modules that have this not

    def __init__(self, module: nn.Module, root: nn.Module, recompute: bool, compiled: Compiled | None = None) -> None:
        self.module, self.root, self.recompute = weakref.ref(module), weakref.ref(root), recompute
        self.compiled = compiled
        self.slices: Compiled | None = None  # of a Sequential's slices
        self.routes = Routes()
        self.pieces: dict[int, Compiled] = {}  # of a Sequential that dynamo left somewhere, by its length: layer by layer
        self.idle = False  # whether dynamo only costs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module()
        if torch.compiler.is_dynamo_compiling():  # is_compiling is true in all threads while one compiles
            return module._call_impl(*args, **kwargs)
        caller = sys._getframe(1)
        if caller.f_code is _CALL and (other := caller.f_locals["self"]) is not module:
            # A copy that took over all of a module's attributes, a replica of DataParallel's: it has layers of its own.
            return other._call_impl(*args, **kwargs)
        if goes_round():
            if self.compiled is not None and self.compiled.whole and is_seen():
                try:
                    with seen_inside_graphs():
                        return self.compiled.run(module, args, kwargs)
                except RuntimeError as error:
                    if "Detected recompile" not in str(error):
                        raise
            return module._call_impl(*args, **kwargs)
        if self.compiled is None:
            self.compiled = self._compiled(_call_module, module)
        if self.idle:
            return module._call_impl(*args, **kwargs)
        if self.compiled.broke and len(args) == 1 and not kwargs and runs_in_order(module):
            count = len(module._modules)
            if count not in self.pieces:
                self.pieces[count] = self._compiled(in_order(count), module)
                self._forget_single_layers(module)
            return self.pieces[count].call(module, args, kwargs)
        if kwargs:
            result = self.compiled.call(module, args, kwargs)
        else:
            compiled = self.compiled
            result = self.routes.call(module, args, lambda: compiled.call(module, args, kwargs), compiled.is_needed, _disarmed)
        if not self.compiled.found and _gains_nothing(module):
            self.idle = True
        return result

    def _forget_single_layers(self, module: nn.Module) -> None:
        """What the call compiled that met the break: `explain` tells of what runs."""
        self.compiled.graphs.clear()
        for child in module.modules():
            armed = child.__dict__.get("_compiled_call_impl")
            if isinstance(armed, Armed) and armed is not self:
                armed.compiled = None

    def _compiled(self, call: types.FunctionType, module: nn.Module) -> Compiled:
        root = self.root()
        names = () if root is None else root.named_modules()  # a child may outlive its model
        path = next((name for name, m in names if m is module), "")
        return Compiled(call, root, self.recompute, type(module).__name__, path)

    def __deepcopy__(self, memo: dict) -> None:
        return None

    def __reduce__(self) -> tuple:
        return type(None), ()
