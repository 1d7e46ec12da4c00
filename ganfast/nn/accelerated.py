"""What accelerated modules become: subclasses, made on demand, that differ in `forward` alone.

A Sequential runs its chains, a module with a forward of its own runs its trace, a lone layer its own op. The subclass has the name of
its class, as much code asks for class names. Plans live in the module's `_ganfast`, hold no module, and are made anew by copies.
"""

import copyreg
import functools
import importlib.util
import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ganfast.nn import patterns, tracing
from ganfast.nn.fingerprints import NotStraight
from ganfast.nn.fusion import Chain, look_up

_MISSING = (
    "This model was accelerated by ganfast, which is not installed here: it is loaded as the plain model. `pip install ganfast`"
    " makes it fast again; ganfast.restore(model) before saving avoids this message."
)
_MOST_TRACES = 16


class _Evaluated:
    """A call that is made when a pickle is loaded, by names of the standard library alone."""

    def __init__(self, function: Callable, *args) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args

    def __call__(self, *args):  # copy.deepcopy calls it where pickle would store the call
        own = (arg() if isinstance(arg, _Evaluated) else arg for arg in self.args)
        made = self.function(*own)
        return made(*args) if args else made


def _loaded(cls: type) -> nn.Module:
    """An accelerated module of the class, without its state."""
    accelerated = accelerated_class(cls)
    return accelerated.__new__(accelerated)


def _quiet(message: str) -> None:
    """In place of the warning that a load without ganfast gives."""


class Accelerated:
    """Mixed into the class of an accelerated module."""

    _ganfast_class: type  # what it was

    def __reduce_ex__(self, protocol):
        """Loads anywhere: accelerated where ganfast is, as the plain model with a warning where it is not."""
        make, args, state, *rest = super().__reduce_ex__(max(protocol, 2))
        if make is not copyreg.__newobj__:
            return make, args, state, *rest  # a way of the user's own
        found = _Evaluated(getattr, _Evaluated(importlib.util.find_spec, "ganfast"), "name", "builtins")
        home = _Evaluated(importlib.import_module, found)  # ganfast, or a module that has none of the names below
        if isinstance(state, dict):
            state = {key: value for key, value in state.items() if key != "_ganfast"}
            state["_ganfast_note"] = _Evaluated(_Evaluated(getattr, home, "_quiet", warnings.warn), _MISSING)
        return _Evaluated(getattr, home, "_loaded", copyreg.__newobj__), (self._ganfast_class,), state

    def __init_subclass__(cls, **_: object) -> None:
        """A user's own hook on subclasses, a registry or a check, is not meant for the classes made here."""

    def __setstate__(self, state):
        if isinstance(state, dict):
            state.pop("_ganfast_note", None)
        super().__setstate__(state)


class SequentialPlan:
    """A Sequential's layers in order, nested Sequentials flattened, as chains and single layers (by path)."""

    def __init__(self, module: nn.Sequential) -> None:
        self.nested: list[tuple[str, ...]] = [()]
        paths = self._flat(module, ())
        self.look = self.looks(module)
        self.steps: list[Chain | tuple[str, ...]] = []
        recompute = getattr(module, "_ganfast_recompute", False)
        layers = lambda member: look_up(module, member.path)
        i = 0
        while i < len(paths):
            members = []
            for path in paths[i:]:
                layer = look_up(module, path)
                member = None if layer is None else patterns.member(layer, path, tracing.snake_of(layer))
                if member is None or (members and not tracing.follows(members, member, layers)):
                    break
                members.append(member)
            ends_open = i + len(members) == len(paths) and module.__dict__.get("_ganfast_overwritten") and members
            if ends_open and tracing.saves_its_output(members) and patterns.keeps_its_input(look_up(module, members[-1].path)):
                members.pop()  # what its backward would keep is changed by the caller
            if tracing.complete(members):
                self.steps.append(Chain(members, recompute))
                i += len(members)
            else:
                self.steps.append(paths[i])
                i += 1

    def _flat(self, module: nn.Sequential, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        paths = []
        for name, child in module._modules.items():
            if is_sequential(child) and _is_open(child):
                self.nested.append((*path, name))
                paths += self._flat(child, (*path, name))
            else:
                paths.append((*path, name))
        return paths

    def looks(self, module: nn.Sequential) -> list:
        """What decides a plan: names and classes of the layers, hooks on nested Sequentials."""
        found = []
        for path in self.nested:
            inner = look_up(module, path)
            children = inner._modules
            found += [path != () and not _is_open(inner), *children, *map(type, children.values())]
        return found

    @property
    def chains(self) -> list[Chain]:
        return [step for step in self.steps if isinstance(step, Chain)]

    def __call__(self, module: nn.Sequential, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(module, x) if isinstance(step, Chain) else look_up(module, step)(x)
        return x


class _Sequential(Accelerated):
    def _ganfast_plan(self) -> SequentialPlan:
        plan = self.__dict__.get("_ganfast")
        if plan is None or plan.look != plan.looks(self):
            plan = self.__dict__["_ganfast"] = SequentialPlan(self)
        return plan

    def forward(self, input):
        if _has_any_global_hook():
            return self._ganfast_class.forward(self, input)
        return self._ganfast_plan()(self, input)


class Traces:
    """The traces of one module's forward: by how it was called, and by what it read then."""

    def __init__(self, cls: type) -> None:
        self.names = tuple(tracing.first_names(cls.forward))
        self.made: dict[tracing.Key, list[tracing.Traced | str]] = {}

    def of(self, module: nn.Module, key: tracing.Key) -> tracing.Traced | str:
        """The trace, or why there is none."""
        known = self.made.get(key, ())
        for traced in known:
            if isinstance(traced, str) or traced.reading.unchanged(module):
                return traced
        if torch.compiler.is_compiling():
            return "it is being compiled"  # and torch.compile cannot follow torch.fx
        if threading.current_thread() is not threading.main_thread():
            return "it was called in another thread"  # torch.fx patches nn.Module for all threads while it traces
        if sum(map(len, self.made.values())) >= _MOST_TRACES:
            return f"its forward depends on more than {_MOST_TRACES} different settings"
        try:
            traced = tracing.trace(module, plain_class(module).forward, key, getattr(module, "_ganfast_recompute", False))
        except NotStraight as why:
            traced = str(why)
        self.made.setdefault(key, []).append(traced)
        return traced


class _Written(Accelerated):
    def _ganfast_traces(self) -> Traces:
        traces = self.__dict__.get("_ganfast")
        if traces is None:
            traces = self.__dict__["_ganfast"] = Traces(self._ganfast_class)
        return traces

    def forward(self, *args, **kwargs):
        if _has_any_global_hook():
            return self._ganfast_class.forward(self, *args, **kwargs)
        traces = self._ganfast_traces()
        key = tracing.call_key(traces.names, args, kwargs)
        traced = None if key is None else traces.of(self, key)
        if traced is None or isinstance(traced, str):
            return self._ganfast_class.forward(self, *args, **kwargs)
        tensors = (*args, *kwargs.values())
        return traced.run(self, *(value for value in tensors if isinstance(value, Tensor)))


class _Layer(Accelerated):
    def _ganfast_chain(self) -> Chain:
        chain = self.__dict__.get("_ganfast")
        if chain is None:
            member = patterns.member(self, ())
            extra = int(member.base in patterns.CONV_TRANSPOSES)
            chain = self.__dict__["_ganfast"] = Chain([member._replace(extra=extra)], getattr(self, "_ganfast_recompute", False))
        return chain

    def forward(self, input, *args, **kwargs):
        chain = self._ganfast_chain()
        size = kwargs.get("output_size", args[0] if args else None)
        y = chain.alone(self, input, *((size,) if chain.extras else ()))
        return self._ganfast_class.forward(self, input, *args, **kwargs) if y is None else y


def _is_open(module: nn.Sequential) -> bool:
    """Whether a Sequential inside another may be run layer by layer, its own call left out."""
    return not patterns.hooked(module) and "forward" not in module.__dict__


def plain_class(module: nn.Module) -> type:
    return getattr(type(module), "_ganfast_class", type(module))


def is_sequential(module: nn.Module) -> bool:
    cls = plain_class(module)
    same = isinstance(module, nn.Sequential) and cls.forward is nn.Sequential.forward and cls.__iter__ is nn.Sequential.__iter__
    return same and "forward" not in module.__dict__


@functools.cache
def accelerated_class(cls: type) -> type:
    """The accelerated subclass of a Sequential's, a layer's or a user's class."""
    if issubclass(cls, nn.Sequential) and cls.forward is nn.Sequential.forward:
        mixin = _Sequential
    elif any(issubclass(cls, base) and cls.forward is base.forward for base in patterns.LAYERS):
        mixin = _Layer
    else:
        mixin = _Written
    own = {"_ganfast_class": cls, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}

    @functools.wraps(cls.forward)
    def forward(self, *args, **kwargs):
        return mixin.forward(self, *args, **kwargs)

    return type(cls)(cls.__name__, (mixin, cls), own | {"forward": forward})


def chains_of(module: nn.Module) -> list[Chain]:
    """The chains that an accelerated module runs."""
    if isinstance(module, _Sequential):
        return module._ganfast_plan().chains
    if isinstance(module, _Layer):
        return [module._ganfast_chain()]
    traces = module._ganfast_traces()
    traced = traces.of(module, tracing.first_key(plain_class(module).forward))
    made = [entry for entries in traces.made.values() for entry in entries if not isinstance(entry, str)]
    last = next((entry for entry in reversed(made) if any(chain.ran for chain in entry.chains)), traced)
    return [] if isinstance(last, str) else last.chains
