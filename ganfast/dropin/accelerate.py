"""`accelerate` and `restore`: a user's model runs through the backend, in place, and back.

The model keeps its class's name; its class becomes a subclass that differs in what copies and pickles need. Nothing below it changes class:
a child that is called by itself finds its way into dynamo by `_compiled_call_impl`, the attribute that torch's own nn.Module.compile uses.
"""

import contextlib
import copyreg
import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ganfast import _checks
from ganfast.dropin.around import goes_round
from ganfast.dropin.compiled import Compiled
from ganfast.dropin.entry import LAYERS, Armed

_MISSING = (
    "This model was accelerated by ganfast, which is not installed here: it is loaded as the plain model. `pip install ganfast`"
    " makes it fast again; ganfast.restore(model) before saving avoids this message."
)


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


def _loaded(cls: type, *args: Any) -> nn.Module:
    """An accelerated module of the class, without its state."""
    return copyreg.__newobj__(accelerated_class(cls), *args)


def _quiet(message: str) -> None:
    """In place of the warning that a load without ganfast gives."""


class _ArmsItself:
    """In the class of accelerated models: one that is not armed yet, a copy, an unpickled one, arms itself at its first call. Once it is,
    the instance's own attribute comes first."""

    def __get__(self, module: nn.Module | None, owner: type) -> Callable | None:
        if module is None or getattr(module, "_is_replica", False):  # DataParallel's: in threads, each for one call
            return None
        return arm(module)


class Accelerated:
    """Mixed into the class of an accelerated model."""

    _ganfast_class: type  # what it was
    _compiled_call_impl = _ArmsItself()

    def __reduce_ex__(self, protocol):
        """Loads anywhere: accelerated where ganfast is, as the plain model with a warning where it is not."""
        reduced = super().__reduce_ex__(max(protocol, 2))
        plain = lambda part: self._ganfast_class if part is type(self) else part
        if isinstance(reduced, str) or reduced[0] is not copyreg.__newobj__:  # a way of the user's own: the plain model
            return reduced if isinstance(reduced, str) else (plain(reduced[0]), tuple(map(plain, reduced[1])), *reduced[2:])
        _, (_, *args), state, *_ = reduced
        found = _Evaluated(getattr, _Evaluated(importlib.util.find_spec, "ganfast"), "name", "builtins")
        home = _Evaluated(importlib.import_module, found)  # ganfast, or a module that has none of the names below
        if isinstance(state, dict):
            note = _Evaluated(_Evaluated(getattr, home, "_quiet", warnings.warn), _MISSING)
            state = {key: value for key, value in state.items() if key != "_compiled_call_impl"} | {"_ganfast_note": note}
        return _Evaluated(getattr, home, "_loaded", copyreg.__newobj__), (self._ganfast_class, *args), state

    def __setstate__(self, state):
        if isinstance(state, dict):
            state.pop("_ganfast_note", None)
        super().__setstate__(state)
        arm(self)

    def __init_subclass__(cls, **_: object) -> None:
        """A user's own hook on subclasses, a registry or a check, is not meant for the classes made here."""

    def __prepare_scriptable__(self):
        """torch.jit.script asks for it first: its compiler knows neither this class nor a child that is armed."""
        disarm(self, for_others=True)
        plain = object.__new__(self._ganfast_class)
        plain.__dict__.update(self.__dict__)
        return plain


class _Sliced(Accelerated):
    """An accelerated Sequential, whose slices share what was compiled: each is a new object."""

    def __getitem__(self, index):
        part = super().__getitem__(index)
        traced = torch.compiler.is_dynamo_compiling()
        if isinstance(index, slice) and not traced and isinstance(armed := self._compiled_call_impl, Armed):
            armed.slices = armed.slices or Compiled(_call, self, armed.recompute, type(self).__name__)
            part.__dict__["_compiled_call_impl"] = Armed(part, self, armed.recompute, armed.slices)
        return part


def _gains_alone(module: nn.Module) -> bool:
    """Whether a module that is called by itself may have groups."""
    return isinstance(module, (nn.Sequential, *LAYERS)) or type(module).__module__.split(".")[0] != "torch"


def arm(model: nn.Module) -> Armed:
    """Makes the model and its children go through dynamo when they are called."""
    recompute = model.__dict__.get("_ganfast_recompute", False)
    for name, module in model.named_modules():
        made = ".parametrizations." in f".{name}."
        theirs = module.__dict__.get("_compiled_call_impl")
        if theirs is not None and not isinstance(theirs, Armed):
            continue  # a user's own nn.Module.compile
        if (module is model or _gains_alone(module)) and not made and not isinstance(module, torch.jit.ScriptModule):
            module.__dict__["_compiled_call_impl"] = armed = Armed(module, model, recompute)
            armed.before = theirs and theirs.without({id(model)})
    return model.__dict__["_compiled_call_impl"]


def disarm(model: nn.Module, for_others: bool = False) -> None:
    """Makes the model and its children be called as torch calls them; `for_others`: also what another accelerated model shares."""
    gone = {id(module) for module in model.modules()}
    for module in model.modules():
        armed = module.__dict__.get("_compiled_call_impl", "")
        if not isinstance(armed, Armed | None):
            continue
        if armed and not for_others and (left := armed.without(gone)):
            module.__dict__["_compiled_call_impl"] = left
        else:
            del module.__dict__["_compiled_call_impl"]


def accelerated_class(cls: type) -> type:
    """The accelerated subclass of a user's class, made once: kept on the class, and so no longer alive than that."""
    if (known := cls.__dict__.get("_ganfast_accelerated")) is not None:
        return known
    mixin = _Sliced if issubclass(cls, nn.Sequential) else Accelerated
    own = {"_ganfast_class": cls, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    made = type(cls)(cls.__name__, (mixin, cls), own)
    cls._ganfast_accelerated = made
    return made


def closed(model: object) -> str:
    """Why a model runs as it is, whatever is done; empty for all others."""
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return "it is scripted, so its code is torch.jit's: accelerate it before torch.jit.script"
    compiled = getattr(sys.modules.get("torch._dynamo"), "OptimizedModule", ())  # not imported: no model can be one
    if isinstance(model, compiled):
        return "torch.compile has it: with backend='ganfast' ganfast's groups run, but only ganfast.accelerate(module) keeps a report"
    return ""


def check_model(op: str, model: object) -> None:
    """Refuses what can be no model."""
    if isinstance(model, type) or not callable(model):
        cause = "Pass an instance, not the class" if isinstance(model, type) else ""
        _checks.fail(op, f"model is a {type(model).__name__}, wants a torch.nn.Module or a function", cause, TypeError)


def accelerate(model: nn.Module | Callable, *, recompute: bool = False) -> nn.Module | Callable:
    """Makes a model run on ganfast's kernels, in place; gives the model. A function comes back as a new function.

    At the first call dynamo, PyTorch's own tracer, makes a graph of the whole forward, and ganfast looks in it for groups that its ops
    compute as one: a nearest upsampling, a convolution, a bias, a norm, an activation, its gain, a sum with a residual, as far as they
    follow each other. What a group gives, what its gradients of first and second order are, and what the caller may do with it stay as in
    eager. Each group is measured against torch's own calls, and the faster runs. ``ganfast.explain(model)`` says what became of each layer.

    Parameters and buffers stay the same objects, ``state_dict`` keys, dtypes, training mode and hooks stay as they are. The model's class
    becomes a subclass of the same name; the modules below it keep theirs, and run through dynamo too when they are called by themselves.
    Copies and pickles stay accelerated. Where dynamo cannot follow, the code runs as it is written. ``restore`` undoes it.

    Args:
        model: a ``torch.nn.Module`` with its parameters on any device but meta, or a function of tensors.
        recompute: where a convolution follows a fused batch norm, its backward normalises again instead of keeping the norm's
            output: about half the activations, for one more pass over them.
    Raises: TypeError for what is no module and no function; ValueError for the meta device.
    """
    check_model("accelerate", model)
    if closed(model):
        return model
    if not isinstance(model, nn.Module):
        return _accelerated_function(getattr(model, "_ganfast_plain", model), recompute)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            _checks.fail("accelerate", f"{name} is on the meta device, wants real tensors", "model.to_empty(...) makes them")
    restore(model)
    with contextlib.suppress(Exception):  # a class that allows no subclass, or no change of an instance's: copies will be plain
        model.__class__ = accelerated_class(type(model))
    if recompute:
        model.__dict__["_ganfast_recompute"] = True
    arm(model)
    return model


def restore(model: nn.Module | Callable) -> nn.Module | Callable:
    """Undoes ``accelerate``, in place: the model has the class it had; gives the model. Of a function, gives the one it was made of.

    Raises: TypeError for what is no module and no function.
    """
    check_model("restore", model)
    if not isinstance(model, nn.Module):
        return getattr(model, "_ganfast_plain", model)
    if closed(model):
        return model
    disarm(model)
    for module in model.modules():
        cls = type(module)
        if not isinstance(module, Accelerated):
            continue
        if "_ganfast_class" in cls.__dict__:
            module.__class__ = cls._ganfast_class
        else:  # a class that torch's parametrizations made of the accelerated one
            bases = tuple(getattr(base, "_ganfast_class", base) for base in cls.__bases__)
            own = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(cls.__name__, bases, own)  # a copy of the model may have the same class
        for name in ("_ganfast_recompute", "_ganfast_note"):
            module.__dict__.pop(name, None)
    return model


def _call(function: Callable, args: tuple, kwargs: dict) -> Any:
    return function(*args, **kwargs)


def _accelerated_function(function: Callable, recompute: bool) -> Callable:
    compiled: list[Compiled] = []

    def accelerated(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or goes_round():
            return function(*args, **kwargs)
        if not compiled:
            compiled.append(Compiled(_call, None, recompute, getattr(function, "__name__", type(function).__name__)))
        return compiled[0].call(function, args, kwargs)

    functools.update_wrapper(accelerated, function, updated=())
    accelerated._ganfast_plain, accelerated._ganfast_compiled = function, compiled
    return accelerated
