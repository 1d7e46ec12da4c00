"""`ganfast.capture`: a training step as CUDA graphs; on a CPU a pass-through with the same interface."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ganfast import _backends
from ganfast.step.errors import CaptureError, line_of
from ganfast.step.graph import CudaGraphs
from ganfast.step.reach import Reached, Running
from ganfast.step.recording import LearningRates, Recording, check_outputs, is_float
from ganfast.step.refusals import refuse, refuse_held_graphs
from ganfast.step.state import Kept, Watch


def capture(
    step: Callable, *example: Any, state: tuple = (), warmup: int = 1, max_graphs: int = 8, static_outputs: bool = False
) -> "Captured":
    """A function that does what `step` does, with the same arguments, replayed as one CUDA graph: no launches, no Python in between.

    Arguments:
        step: any function, method or object with a call: forward and backward passes, optimizer steps, EMA. Networks, optimizers,
            generators and plain values are found through its closure, its object's attributes and the globals that its code names.
        example: arguments like those of later calls, by position; others, and those by keyword, are recorded when they come. Tensors
            are copied to static memory at each call, also from the CPU (a pinned one must not change before the copy is done). Python
            floats arrive in `step` as 0-d float32 tensors on the device, so they may change from call to call: an EMA decay, a
            penalty's weight, an augmentation's probability. Ints, bools and strings are constants: each combination has its graph.
        state: more objects that the step uses and that cannot be found from it: one, or a tuple of them.
        warmup: trials on a side stream before each recording, beside two that are watched and one in which waiting for the device is
            an error. Parameters, buffers (batch norm's statistics), optimizer states, gradients, random generators and all else that
            they write to is put back; until then a copy of it takes memory.
        max_graphs: recordings at most: one for each look of the arguments (shapes, dtypes, constants, autocast), and again where a
            parameter moved or a plain value that the step reads has changed. Each has a memory pool of its own.
        static_outputs: return the graph's own tensors, which the next call overwrites, instead of copies.

    What a call sees as usual: a learning rate that is assigned or scheduled (it lives in a device tensor), `load_state_dict`, gradients
    in `.grad`, tensors that the step assigns to attributes, generators advancing.

    Shapes: any; a new one is recorded anew.
    Returns: the step's outputs, detached; tensors and None, in any nesting.
    Raises: CaptureError (a RuntimeError) with the line that waits for the device, the optimizer that is not capturable, the value that the
        step changes in Python, what exceeds max_graphs; for DistributedDataParallel and other modules that talk to other processes.
        TypeError for outputs or arguments that a graph cannot have.
    Source: CUDA graphs as in torch.cuda.graph; the way of use is the one of its documentation.
    """
    if not callable(step) or isinstance(step, type):
        raise TypeError(f"capture: step expects a function or an object with a call, got {step!r}.")
    if warmup < 0 or max_graphs < 1:
        raise ValueError(f"capture: warmup expects 0 or more and max_graphs 1 or more, got {warmup} and {max_graphs}.")
    captured = Captured(step, state, warmup, max_graphs, static_outputs)
    captured.prepare(*example)
    return captured


def graphs_for(reached: Reached, leaves: list) -> CudaGraphs | None:
    """The graphs of the device that the step's tensors lie on; None where that is no GPU. Raises CaptureError for several, and where
    nothing tells."""
    held = [*reached.parameters(), *reached.buffers(), *(s.get() for s in reached.slots), *leaves]
    held = [t for t in held if isinstance(t, Tensor)]
    devices = {t.device for t in held if t.is_cuda}
    if len(devices) > 1:
        raise CaptureError(f"capture: the step's tensors lie on {', '.join(sorted(map(str, devices)))}; a graph has one GPU.")
    if not held and torch.cuda.is_available():
        raise CaptureError("capture: found no network and no tensor in what the step's code names: pass them, state=(network, optimizer).")
    return CudaGraphs(devices.pop()) if devices else None


_recording: list[Callable] = []  # the steps that are being tried or recorded


class Captured:
    """What `capture` returns. `graphs`: how many were recorded; `device`: theirs, None where the step simply runs."""

    def __init__(self, step: Callable, state: tuple, warmup: int, max_graphs: int, static_outputs: bool) -> None:
        self.step, self.max_graphs, self.static_outputs = step, max_graphs, static_outputs
        self.graphs, self._first = 0, True
        self._state, self._warmup = state if isinstance(state, tuple) else (state,), warmup
        self._recordings: dict[tuple, list[Recording]] = {}
        self._graphs: CudaGraphs | None = None
        self._found: list[Any] = []  # networks and optimizers that showed only when the step ran
        self._rates = LearningRates([], None)
        functools.update_wrapper(self, step, updated=())

    @property
    def device(self) -> torch.device | None:
        return self._graphs.device if self._graphs else None

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Records for arguments like these, unless that was done; nothing that the step changes is different afterwards."""
        leaves, structure = tree_flatten((args, kwargs))
        self._graphs = self._graphs or graphs_for(self._reached(), leaves)
        if self._graphs is not None:
            self._recording(leaves, structure)
        else:
            _looks(leaves)

    def __repr__(self) -> str:
        where = f"{self.graphs} graphs on {self.device}" if self._graphs else "runs as it is: nothing on a GPU"
        return f"<captured {getattr(self.step, '__qualname__', type(self.step).__name__)}, {where}>"

    def reached_through(self) -> tuple:
        return self.step, self._state

    def __reduce_ex__(self, protocol: int):
        raise TypeError("capture: a captured step has a graph of one network's memory; copy the network and capture again.")

    def reset(self) -> None:
        """Frees all graphs; the next call records anew."""
        self._free([recording for recordings in self._recordings.values() for recording in recordings])
        self._recordings.clear()
        self.graphs = 0

    def _free(self, recordings: list[Recording]) -> None:
        """Now, whoever else holds them, the newest first: a graph that dies frees what its stream lent to those recorded after it."""
        for recording in sorted(recordings, key=lambda recording: -recording.number):
            recording.free()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree_flatten((args, kwargs))
        if self._graphs is None or _recording or self._graphs.busy():  # a recording has the step in it, not its graph
            _looks(leaves)
            leaves = [torch.tensor(float(v), dtype=torch.float32, device=self.device) if is_float(v) else v for v in leaves]
            args, kwargs = tree_unflatten(leaves, structure)
            return check_outputs(self.step(*args, **kwargs))
        return self._recording(leaves, structure).replay(leaves, self.static_outputs)

    def _recording(self, leaves: list, structure: Any) -> Recording:
        """The one for these arguments, made now where there is none."""
        self._rates.follow()
        recordings = self._recordings.setdefault((structure, _looks(leaves), _modes(self.device.type)), [])
        why = f"its arguments look different from all earlier ones: {', '.join(_words(leaf) for leaf in leaves)}"
        for recording in recordings:
            if (change := recording.outdated()) is None:
                return recording
            why = f"the last one was outdated: {change}"
        if self.graphs >= self.max_graphs:
            raise CaptureError(
                f"capture: max_graphs={self.max_graphs} recordings were made, and one more is needed; {why}. Values and tensors that "
                "change often belong into arguments (floats arrive as device tensors), batches of one size (drop_last=True) need one "
                "graph, and a learning rate is followed where the optimizer is capturable or fused."
            )
        for others in self._recordings.values():  # before the new one is made, and whatever arguments they were for
            self._free(gone := [other for other in others if other.outdated() is not None and other.gone])
            others[:] = [other for other in others if other not in gone]
        recording = self._record(leaves, structure)
        self.graphs += 1
        recording.number = self.graphs
        recordings.append(recording)
        return recording

    def _reached(self) -> Reached:
        return Reached(self.step, *self._state, *self._found)

    def _record(self, leaves: list, structure: Any) -> Recording:
        graphs, reached = self._graphs, self._reached()
        refuse(reached, graphs.device)
        rates = LearningRates(reached.optimizers, graphs.device)
        kept = Kept(reached, graphs.device, [graphs.generator, *reached.generators])
        if self._first:  # later ones find what the step itself keeps, whose nodes are of this stream
            refuse_held_graphs(reached)
        recording = Recording(leaves, structure, graphs.device)
        call = lambda: self.step(*recording.args, **recording.kwargs)
        _recording.append(self.step)
        try:
            with graphs.aside():
                watch = self._try(call, kept, recording)
                rates.take(self._reached().optimizers, graphs.device)
                for _ in range(self._warmup):
                    _again(call, kept, recording)
                with graphs.without_waiting():
                    _again(call, kept, recording)
                kept.put_back()
                recording.provide_gradients()
            torch.clear_autocast_cache()
            recording.begin(kept)
            out, replay = graphs.record(call, kept.generators())
            recording.finish(out, replay, watch, self._reached())
        except Exception as error:
            rates.let_go()
            if not isinstance(error, CaptureError) and graphs.waited(error):
                where, why = line_of(error, graphs.files), str(error).splitlines()[0]
                raise CaptureError(
                    f"capture: the step waits for the device, or does what else a graph cannot, at {where}. Keep values in tensors on the "
                    f"device, or move the line out of the step. ({why})"
                ) from error
            raise
        finally:
            _recording.pop()
            kept.put_back()
        self._rates, self._first = rates, False
        return recording

    def _try(self, call: Callable, kept: Kept, recording: Recording) -> Watch:
        """Runs the step: watched, as optimizers and libraries now make what they keep; watched in the state that all later steps find."""
        stepping = functools.partial(kept.keep_optimizer, stepping=True)
        with Running(self._reached(), kept.keep_module, stepping) as running, Watch(kept) as watch:
            call()
        self._found += running.found
        found = self._reached()
        refuse(found, kept.device)
        kept.refuse_what_python_changed()
        if any(kept.has_copy(t) for t in recording.inputs if isinstance(t, Tensor)):
            raise CaptureError("capture: the step writes to an argument, but a replay writes to its copy: return the result instead.")
        if watch.brought:
            raise CaptureError(
                f"capture: the step brings a tensor over from the CPU at {watch.brought}. A replay would read that memory for ever: pass "
                "it as an argument."
            )
        recording.note_read_gradients(kept, watch)
        _again(call, kept, recording)  # unwatched: accelerated networks compile and tune now
        slots = {slot.place(): slot.get() for slot in self._reached().slots}
        with Watch(kept) as watch:
            _again(call, kept, recording)
        kept.refuse_what_was_found_and_replaced(slots, watch)
        recording.note_kept_gradients(kept, watch)
        return watch


def _again(call: Callable, kept: Kept, recording: Recording) -> None:
    kept.put_scalers_back()
    recording.provide_gradients()
    call()


def _words(leaf: Any) -> str:
    return str(list(leaf.shape)) if isinstance(leaf, Tensor) else "a float" if is_float(leaf) else repr(leaf)


def _looks(leaves: list) -> tuple:
    """What two sets of arguments must share to share a graph. Raises TypeError for an argument that is no tensor or constant."""
    looks = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if leaf.requires_grad:
                raise TypeError("capture: an argument requires grad, but arguments are copied: no gradient would reach it. Detach it.")
            looks.append((leaf.shape, leaf.dtype))
        elif is_float(leaf):
            looks.append(float)
        elif leaf is None or isinstance(leaf, (bool, int, str, torch.dtype, torch.device)):
            looks.append((type(leaf), leaf))
        else:
            raise TypeError(f"capture: an argument is a {type(leaf).__name__}; a graph takes tensors, numbers, strings and None.")
    return tuple(looks)


def _modes(kind: str) -> tuple:
    """The switches of torch and ganfast that decide which kernels run. Raises CaptureError inside of autocast, whose cached weights a
    graph would read for ever."""
    if torch.is_autocast_enabled(kind) and torch.is_autocast_cache_enabled():
        raise CaptureError("capture: called inside torch.autocast, whose copies of weights outlive the step: use autocast inside the step.")
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.are_deterministic_algorithms_enabled()
    cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    return *switches, *grad, cast, _backends.requested("capture", None)
