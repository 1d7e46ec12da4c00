"""What trying a step changes, kept beforehand and put back afterwards: parameters, buffers, optimizers, random generators, gradients
and every other tensor that it writes to."""

import random
import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganfast.step.errors import CaptureError
from ganfast.step.reach import Reached, same

# Optimizers of torch.optim whose first step makes their state, all zeros but for what _first says.
_STARTS = ("Adadelta", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


def _start_is_known(optimizer: torch.optim.Optimizer) -> bool:
    return any(cls.__module__.startswith("torch.optim") and cls.__name__ in _STARTS for cls in type(optimizer).__mro__)


def _first(name: str, group: dict) -> Any:
    """The value with which torch's optimizers begin a state tensor."""
    return group["lr"] if name in ("eta", "step_size") else 1 if name in ("mu", "mu_product") else 0


class Watch(TorchDispatchMode):
    """touched: every storage that operators inside read or write though it was made outside, by address. Those about to be written to
    are copied first."""

    def __init__(self, kept: "Kept") -> None:
        super().__init__()
        self.kept = kept
        self.touched: dict[int, Any] = {}
        self._made: set[int] = set()  # not kept alive: an address used twice in here is that of something made in here

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in tensors_of((args, kwargs)):
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
        for tensor in tensors_of(out):
            if tensor.untyped_storage()._cdata not in self.touched:
                self._made.add(tensor.untyped_storage()._cdata)
        return out


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


class Kept:
    """The state of a step as it was at construction; `put_back()` restores it, as often as it is called."""

    def __init__(self, reached: Reached, device: torch.device, generators: list[torch.Generator]) -> None:
        self._device = device
        self._storages: dict[int, tuple] = {}
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self.parameters = reached.parameters()
        self._optimizers, self._scalers = reached.optimizers, reached.scalers
        self.gradients = [(p, p.grad) for p in self.parameters]
        for tensor in (*self.parameters, *reached.buffers(), *reached.optimizer_tensors()):
            self.keep(tensor)
        for _, gradient in self.gradients:
            if gradient is not None:
                self.keep(gradient)
        self._new = [(o, g, p) for o in reached.optimizers for g in o.param_groups for p in g["params"] if not o.state.get(p)]
        self._new_scalers = [s for s in reached.scalers if s.is_enabled() and s._scale is None]
        for scaler in reached.scalers:
            for tensor in tensors_of([scaler._scale, scaler._growth_tracker]):
                self.keep(tensor)
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

    def keep_generator(self, generator: torch.Generator) -> None:
        if id(generator) not in self._generators:
            self._generators[id(generator)] = generator, generator.get_state()

    def generators(self) -> list[torch.Generator]:
        """Those that a graph advances."""
        return [g for g, _ in self._generators.values() if g.device.type == self._device.type]

    def put_back(self) -> None:
        """All as it was, but for optimizer states, which exist now, with the values of a first step: a graph holds no first step."""
        for storage, copy in self._storages.values():
            storage.copy_(copy)
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
        for p, gradient in self.gradients:
            p.grad = gradient
        for slot, value in self._slots:
            if slot.get() is not value:
                slot.set(value)
        for holder, length, _ in self._lengths:
            if isinstance(holder, list):
                del holder[length:]
        for generator, state in self._generators.values():
            generator.set_state(state)
        self._host.put_back()

    def slots(self) -> dict[tuple, Any]:
        """What the slots held, by place."""
        return {slot.place(): value for slot, value in self._slots}

    def refuse_python_state(self) -> None:
        """Raises CaptureError where running the step changed what a replay, which runs no Python, would leave as it is."""
        for optimizer, _, p in self._new:
            if optimizer.state.get(p) and not _start_is_known(optimizer):
                raise CaptureError(
                    f"capture: how {type(optimizer).__name__} begins is not known, and a graph holds no first step: take one step, so "
                    "that its state exists, before capture."
                )
        for slot, value in self._slots:
            if not isinstance(value, Tensor) and not isinstance(now := slot.get(), Tensor) and not same(value, now):
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
        hosts = [
            g for g, state in self._generators.values() if g.device.type != self._device.type and not torch.equal(state, g.get_state())
        ]
        if drawn := "a generator of the CPU" if hosts else self._host.changed():
            raise CaptureError(
                f"capture: the step draws from {drawn}, on the host, but a replay runs no Python and would repeat the same numbers: "
                "draw on the device (torch.rand(..., device=...)), or outside and pass the values as arguments."
            )


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


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool((a == b).all()) if hasattr(a, "all") else a == b
