"""What trying a step changes, kept beforehand and put back afterwards: parameters, buffers, optimizers, random generators, gradients
and every other tensor that it writes to."""

import copy
import random
import sys
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ganfast.step.errors import CaptureError, line_now
from ganfast.step.reach import Reached
from ganfast.step.slots import MISSING, holds_tensors, same, tensors_of

# Optimizers of torch.optim whose first step makes their state, all zeros but for what _first says.
_STARTS = ("Adadelta", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


def _start_is_known(optimizer: torch.optim.Optimizer) -> bool:
    return any(cls.__module__.startswith("torch.optim") and cls.__name__ in _STARTS for cls in type(optimizer).__mro__)


def _first(name: str, group: dict) -> Any:
    """The value with which torch's optimizers begin a state tensor."""
    return group["lr"] if name in ("eta", "step_size") else 1 if name in ("mu", "mu_product") else 0


class Watch(TorchDispatchMode):
    """touched: every storage that operators inside read or write though it was made outside, by address. Those about to be written to
    are copied first. hosts: numbers in tensors of the CPU that an operator on the device took from outside; brought: the line that
    brings more than a number over."""

    _ganfast_sees_kernels = True  # accelerated networks run what they compiled earlier, as in the recording

    def __init__(self, kept: "Kept") -> None:
        super().__init__()
        self.kept = kept
        self.touched: dict[int, Any] = {}
        self.hosts: list[Tensor] = []
        self.brought: str | None = None
        self._made: set[int] = set()  # not kept alive: an address used twice in here is that of something made in here

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors_of((args, kwargs))
        for tensor in given:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made:
                self.touched[storage._cdata] = storage
        for i, argument in enumerate(func._schema.arguments):
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            if isinstance(value, torch.Generator):
                self.kept.keep_generator(value)
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors_of(value):
                    if tensor.untyped_storage()._cdata in self.touched:
                        self.kept.keep(tensor)
        out = func(*args, **kwargs)
        for tensor in (made := tensors_of(out)):
            if tensor.untyped_storage()._cdata not in self.touched:
                self._made.add(tensor.untyped_storage()._cdata)
        if self.kept.device.type != "cpu" and any(t.device.type != "cpu" for t in (*given, *made)):
            hosts = [t for t in given if t.device.type == "cpu"]
            self.hosts += [t for t in hosts if t.untyped_storage()._cdata in self.touched]
            if self.brought is None and any(t.dim() for t in hosts):
                self.brought = line_now()
        return out


class Kept:
    """The state of a step as it was at construction; `put_back()` restores it, as often as it is called."""

    def __init__(self, reached: Reached, device: torch.device, generators: list[torch.Generator]) -> None:
        self.device = device
        self._storages: dict[int, tuple] = {}
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._parameters: dict[int, tuple] = {}  # parameter, its gradient, its memory as another tensor, requires_grad
        self._new: list[tuple] = []
        for module in reached.modules:
            self.keep_module(module)
        for optimizer in reached.optimizers:
            self.keep_optimizer(optimizer)
        scalers = [s for s in reached.scalers if s.is_enabled()]  # one that is off has no tensors, and lets all through
        self._new_scalers = [s for s in scalers if s._scale is None]
        for scaler in scalers:
            for tensor in tensors_of([scaler._scale, scaler._growth_tracker]):
                self.keep(tensor)
        self._scalers = [(s, _copied(s._per_optimizer_states)) for s in scalers]
        self._schedulers = [(s, dict(s.__dict__)) for s in reached.schedulers]
        self._slots = [(slot, slot.get()) for slot in reached.slots]
        self._lengths = [(holder, len(holder), name) for holder, name in reached.lists]
        for generator in generators:
            self.keep_generator(generator)
        self._host = HostRandom(device.type != "cpu")

    def keep(self, tensor: Tensor) -> None:
        """Copies the tensor's memory, unless that was done."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage, storage.clone()

    def has_copy(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def _keep_parameter(self, p: nn.Parameter, gradient: Tensor | None) -> None:
        if id(p) not in self._parameters:
            self._parameters[id(p)] = p, gradient, p.data, p.requires_grad
            for tensor in tensors_of([p.data, gradient]):
                self.keep(tensor)

    def keep_module(self, module: nn.Module) -> None:
        for p in module.parameters(recurse=False):
            self._keep_parameter(p, p.grad)
        for buffer in module.buffers(recurse=False):
            self.keep(buffer)

    def keep_optimizer(self, optimizer: torch.optim.Optimizer, stepping: bool = False) -> None:
        """`stepping`: in a trial, about to step; the gradients of parameters unknown so far are then the trial's."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                self._keep_parameter(p, None if stepping else p.grad)
                if optimizer.state.get(p):
                    for tensor in tensors_of(list(optimizer.state[p].values())):
                        self.keep(tensor)
                else:
                    self._new.append((optimizer, group, p))

    def keep_generator(self, generator: torch.Generator) -> None:
        if id(generator) not in self._generators:
            self._generators[id(generator)] = generator, generator.get_state()

    def generators(self) -> list[torch.Generator]:
        """Those that a graph advances."""
        return [g for g, _ in self._generators.values() if g.device.type == self.device.type]

    def gradients(self) -> list[tuple[nn.Parameter, Tensor | None]]:
        """As they were, of all parameters known by now."""
        return [(p, gradient) for p, gradient, *_ in self._parameters.values()]

    def slots(self) -> dict[tuple, Any]:
        """What the slots held, by place."""
        return {slot.place(): value for slot, value in self._slots}

    def put_back(self) -> None:
        """All as it was, but for optimizer states, which exist now, with the values of a first step: a graph holds no first step."""
        for p, gradient, data, wanted in self._parameters.values():
            if p.data_ptr() != data.data_ptr():
                p.data = data
            p.grad = gradient
            p.requires_grad_(wanted)
        for storage, copied in self._storages.values():
            storage.copy_(copied)
        for optimizer, group, p in self._new:
            if not _start_is_known(optimizer):
                optimizer.state.pop(p, None)
            for name, value in optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    value.copy_(torch.as_tensor(_first(name, group)).expand_as(value))
        for scaler in self._new_scalers:
            if scaler._scale is not None:
                scaler._scale.fill_(scaler._init_scale)
                scaler._growth_tracker.fill_(scaler._init_growth_tracker)
        self.put_scalers_back()
        for scheduler, state in self._schedulers:
            scheduler.__dict__.update(state)
        for slot, value in self._slots:
            if slot.get() is not value:
                slot.set(value)
        for holder, length, _ in self._lengths:
            while isinstance(holder, (list, deque)) and len(holder) > length:
                holder.pop()
        for generator, state in self._generators.values():
            generator.set_state(state)
        self._host.put_back()

    def put_scalers_back(self) -> None:
        """Which optimizers they unscaled: a step that does not update them would find them used up at its next trial."""
        for scaler, states in self._scalers:
            scaler._per_optimizer_states.clear()
            scaler._per_optimizer_states.update(_copied(states))

    def refuse_what_python_changed(self) -> None:
        """After a trial. Raises CaptureError where it changed what a replay, which runs no Python, would leave as it is."""
        for optimizer, _, p in self._new:
            if optimizer.state.get(p) and not _start_is_known(optimizer):
                raise CaptureError(
                    f"capture: how {type(optimizer).__name__} begins is not known, and a graph holds no first step: take one step, so "
                    "that its state exists, before capture."
                )
        for p, _, data, _ in self._parameters.values():
            if p.data_ptr() != data.data_ptr():
                raise CaptureError(
                    f"capture: the step gives a parameter of shape {tuple(p.shape)} other memory (p.data = ...), but a replay writes to "
                    "the same each time: change it in place, p.data.copy_(...) or p.data.clamp_(...)."
                )
        for scheduler, state in self._schedulers:
            if scheduler.last_epoch != state["last_epoch"]:
                raise CaptureError(
                    f"capture: the step steps a {type(scheduler).__name__}, which counts in Python: step it outside; the learning rate "
                    "it sets there is followed."
                )
        for slot, value in self._slots:
            now = slot.get()
            if not same(value, now) and not (holds_tensors(value) and holds_tensors(now)) and slot.key != "training":
                raise CaptureError(
                    f"capture: the step changes {slot.name} ({value!r} became {now!r}), but a replay runs no Python: count outside of "
                    "the step, or keep the value in a tensor on the device."
                )
        for holder, length, name in self._lengths:
            if len(holder) != length:
                raise CaptureError(
                    f"capture: the step adds to or takes from {name} ({length} items became {len(holder)}), but a replay runs no "
                    "Python: return the tensors and collect them outside of the step."
                )
        others = [(g, state) for g, state in self._generators.values() if g.device.type != self.device.type]
        hosts = [g for g, state in others if not torch.equal(state, g.get_state())]
        if drawn := "a generator of the CPU" if hosts else self._host.changed():
            raise CaptureError(
                f"capture: the step draws from {drawn}, on the host, but a replay runs no Python and would repeat the same numbers: "
                "draw on the device (torch.rand(..., device=...)), or outside and pass the values as arguments."
            )

    def refuse_what_was_found_and_replaced(self, found: dict[tuple, Any], watch: Watch) -> None:
        """After a second trial, watched. `found`: what the slots held before it. Raises CaptureError for tensors that the step uses
        and puts others in place of, or that only its first run made: a replay finds the same memory each time."""
        for slot, first in self._slots:
            value, now = found.get(slot.place(), MISSING), slot.get()
            if not any(t.untyped_storage()._cdata in watch.touched for t in tensors_of(value)):
                continue
            if now is not value:
                raise CaptureError(
                    f"capture: the step reads {slot.name} and then puts another tensor there, but a replay reads the same memory each "
                    f"time: write into it instead, {slot.name}.copy_(...)."
                )
            if first is None or first is MISSING:
                raise CaptureError(f"capture: the step makes {slot.name} when it runs first and then keeps it: make it before capture.")


class HostRandom:
    """The random generators that a graph cannot advance."""

    def __init__(self, torch_too: bool) -> None:
        numpy = sys.modules.get("numpy")
        self._states = [("Python's random", random.getstate, random.setstate)]
        if numpy is not None:
            self._states.append(("numpy.random", numpy.random.get_state, numpy.random.set_state))
        if torch_too:
            self._states.append(("torch's generator of the CPU", torch.get_rng_state, torch.set_rng_state))
        self._before = [get() for _, get, _ in self._states]

    def changed(self) -> str | None:
        for (name, get, _), before in zip(self._states, self._before):
            if not _equal(before, get()):
                return name
        return None

    def put_back(self) -> None:
        for (_, _, put), before in zip(self._states, self._before):
            put(before)


def _copied(states: dict[int, dict]) -> dict[int, dict]:
    """A scaler's, per optimizer: {"stage": ..., "found_inf_per_device": {...}}."""
    return {key: {name: copy.copy(value) for name, value in state.items()} for key, state in states.items()}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool((a == b).all()) if hasattr(a, "all") else a == b
