"""One recording: the memory of its arguments and outputs, and whether the world is still the one it was made in."""

import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ganfast.step.reach import Reached
from ganfast.step.slots import MISSING, Attribute, Slot, holds_tensors, same
from ganfast.step.state import Kept, Watch


class LearningRates:
    """The learning rates of optimizers as 0-d tensors on the device, for those groups whose implementation reads one from there."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], device: torch.device | None) -> None:
        self._before: list[tuple[dict, Any]] = []
        self.tensors: list[tuple[dict, Tensor]] = []
        self.take(optimizers, device)

    def take(self, optimizers: list[torch.optim.Optimizer], device: torch.device | None) -> None:
        """Those of more optimizers; known ones stay."""
        known = {id(group) for group, _ in self.tensors}
        for group in (g for o in optimizers for g in o.param_groups):
            if id(group) not in known and "lr" in group and (group.get("capturable") or group.get("fused")):
                rate = group["lr"]
                self._before.append((group, rate))
                if not (isinstance(rate, Tensor) and rate.device == device):
                    group["lr"] = torch.tensor(float(rate), dtype=torch.float32, device=device)
                self.tensors.append((group, group["lr"]))

    def follow(self) -> None:
        """Takes over what was assigned since."""
        for group, tensor in self.tensors:
            if (rate := group["lr"]) is not tensor:
                tensor.copy_(rate) if isinstance(rate, Tensor) else tensor.fill_(rate)
                group["lr"] = tensor

    def let_go(self) -> None:
        for group, rate in self._before:
            group["lr"] = rate


class Recording:
    def __init__(self, leaves: list, structure: Any, device: torch.device) -> None:
        self.inputs = [_static(leaf, device) for leaf in leaves]
        self.args, self.kwargs = tree_unflatten(self.inputs, structure)
        self.gone = False  # outdated for ever, as memory moved
        self.number = 0  # of those of its step, in order
        self._added: list[tuple[nn.Parameter, Tensor, bool]] = []  # gradients that the step adds to or reads; whether they were none

    def note_read_gradients(self, kept: Kept, watch: Watch) -> None:
        """After the first trial: those that lay there and that the step used."""
        self._added = [(p, g, False) for p, g in kept.gradients() if g is not None and g.untyped_storage()._cdata in watch.touched]

    def note_kept_gradients(self, kept: Kept, watch: Watch) -> None:
        """After a later trial: those that an earlier one left there and that the step used, so adds to."""
        known = {id(p) for p, _, _ in self._added}
        for p, _ in kept.gradients():
            if id(p) not in known and p.grad is not None and p.grad.untyped_storage()._cdata in watch.touched:
                self._added.append((p, p.grad, True))

    def provide_gradients(self) -> None:
        """Where the graph will look for them; to add to none is to add to zeros."""
        for p, gradient, was_none in self._added:
            if was_none:
                gradient.zero_()
            p.grad = gradient

    def begin(self, kept: Kept) -> None:
        """Before it is recorded: what the world was."""
        self._before = kept.slots()
        self._found = [(p, p.grad, p.requires_grad) for p, _ in kept.gradients()]

    def finish(self, out: Any, replay: Callable[[], None], watch: Watch, reached: Reached) -> None:
        """`reached`: the world as the recorded call left it."""
        self._outputs, self._structure = tree_flatten(check_outputs(out))
        self._replay = replay
        self._alive = list(watch.touched.values())  # memory that the graph reads must not be given to others
        used = {id(p) for p, *_ in self._added}
        self._gradients = [(p, p.grad) for p, gradient, _ in self._found if p.grad is not gradient or id(p) in used]
        self._memory = [(p, p.data_ptr(), wanted) for p, _, wanted in self._found]
        self._memory += [(b, b.data_ptr(), b.requires_grad) for b in reached.buffers()]
        self._wanted = [(p, p.requires_grad) for p, _, wanted in self._found if p.requires_grad is not wanted]
        self._slots, self._assigned = [], []
        for slot, value in [(slot, slot.get()) for slot in reached.slots]:
            before = self._before.get(slot.place(), MISSING)
            is_assigned = value is not before and (slot.key == "training" or (holds_tensors(value) and holds_tensors(before)))
            (self._assigned if is_assigned else self._slots).append((slot, value))
        self._classes = [(module, type(module)) for module in reached.modules]
        self._optimizers = [(o, o.state, list(o.param_groups)) for o in reached.optimizers]
        options = [(g, key, f"{type(o).__name__}'s {key}") for o in reached.optimizers for g in o.param_groups for key in g]
        self._slots += [(Slot(g, key, name), g[key]) for g, key, name in options if key != "params"]
        scalers = [(s, key) for s in reached.scalers for key in ("_growth_factor", "_backoff_factor", "_growth_interval", "_enabled")]
        self._slots += [(slot, slot.get()) for slot in (Slot(s, Attribute(key), f"GradScaler's {key}") for s, key in scalers)]
        self._dicts = [(slot.holder, slot.key, value) for slot, value in self._slots if type(slot.holder) is dict]
        self._others = [(slot, value) for slot, value in self._slots if type(slot.holder) is not dict]
        params = [(g["params"], f"{type(o).__name__}'s parameters") for o in reached.optimizers for g in o.param_groups]
        self._lengths = [(holder, len(holder), name) for holder, name in (*reached.lists, *params)]
        self._hosts = [(t, t._version) for t in watch.hosts]
        del self._before, self._found

    def outdated(self) -> str | None:
        """What has changed since the recording; None where it holds. Asked at every call: the common answer takes no detour."""
        changed = any(holder.get(key, MISSING) is not value for holder, key, value in self._dicts)
        for slot, value in self._slots if changed else self._others:
            if (now := slot.get()) is not value and not same(value, now):
                what = lambda v: repr(v) if isinstance(v, (bool, int, float, str, tuple, type(None))) else f"another {type(v).__name__}"
                return f"{slot.name} was {what(value)} and is {what(now)}"
        for holder, length, name in self._lengths:
            if len(holder) != length:
                return f"{name} had {length} items and has {len(holder)}"
        for module, cls in self._classes:
            if type(module) is not cls:
                return f"a {cls.__name__} became another class"
        if any(t._version != version for t, version in self._hosts):
            return "a tensor on the CPU was written to, whose value the graph holds: keep it on the device"
        self.gone = True
        for optimizer, state, groups in self._optimizers:
            known = len(groups) == len(optimizer.param_groups) and all(a is b for a, b in zip(groups, optimizer.param_groups))
            if optimizer.state is not state or not known:
                return f"{type(optimizer).__name__} has another state or other groups (load_state_dict, add_param_group)"
        for tensor, address, _ in self._memory:
            if tensor.data_ptr() != address:
                return f"a tensor of shape {tuple(tensor.shape)} moved"
        self.gone = False
        for tensor, _, wanted in self._memory:
            if tensor.requires_grad is not wanted:
                return f"requires_grad of a tensor of shape {tuple(tensor.shape)} was {wanted}"
        return None

    @torch.no_grad()
    def replay(self, leaves: list, static_outputs: bool) -> Any:
        self._load(leaves)
        for p, gradient, _ in self._added:
            if (now := p.grad) is not gradient:
                gradient.zero_() if now is None else gradient.copy_(now)
                p.grad = gradient
        self._replay()
        for p, gradient in self._gradients:
            if p.grad is not gradient:
                p.grad = gradient
        for slot, value in self._assigned:
            if slot.get() is not value:
                slot.set(value)
        for p, wanted in self._wanted:
            p.requires_grad_(wanted)
        if static_outputs:
            return tree_unflatten(self._outputs, self._structure)
        tensors = [t for t in self._outputs if t is not None]
        copies = [torch.empty_like(t) for t in tensors]
        if copies:
            torch._foreach_copy_(copies, tensors)
        rest = iter(copies)
        return tree_unflatten([t if t is None else next(rest) for t in self._outputs], self._structure)

    def free(self) -> None:
        """The graph; never to be replayed again."""
        del self._replay

    def _load(self, leaves: list) -> None:
        to, of = [], []
        for static, leaf in zip(self.inputs, leaves):
            if is_float(leaf):
                static.fill_(float(leaf))
            elif isinstance(leaf, Tensor) and leaf is not static:
                if leaf.device == static.device:
                    to.append(static)
                    of.append(leaf)
                else:
                    static.copy_(leaf, non_blocking=True)
        if to:
            torch._foreach_copy_(to, of)


def _static(leaf: Any, device: torch.device) -> Any:
    if is_float(leaf):
        return torch.tensor(float(leaf), dtype=torch.float32, device=device)
    return torch.empty_like(leaf, device=device).copy_(leaf) if isinstance(leaf, Tensor) else leaf


def is_float(leaf: Any) -> bool:
    """numpy's too."""
    return isinstance(leaf, numbers.Real) and not isinstance(leaf, numbers.Integral)


def check_outputs(out: Any) -> Any:
    """The outputs, detached. Raises TypeError for what a replay could not renew."""
    leaves, structure = tree_flatten(out)
    for leaf in leaves:
        if not isinstance(leaf, Tensor) and leaf is not None:
            raise TypeError(
                f"capture: the step returns {leaf!r} ({type(leaf).__name__}), which a replay could not renew: return tensors, in any "
                "nesting of tuples, lists and dicts."
            )
    return tree_unflatten([leaf if leaf is None else leaf.detach() for leaf in leaves], structure)
