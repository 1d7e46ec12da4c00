"""What is called in place of a module: which way a call goes, through dynamo or round it."""

import contextlib
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ganfast.dropin.around import goes_round, is_seen, seen_inside_graphs
from ganfast.dropin.compiled import LEFT_ALONE, Compiled
from ganfast.dropin.in_order import in_order, runs_in_order
from ganfast.dropin.route import Routes


def armed(model: nn.Module) -> dict[nn.Module, "Armed"]:
    """The modules of a model that go through dynamo, each with what stands in it."""
    held = ((module, module.__dict__.get("_compiled_call_impl")) for module in model.modules())
    return {module: entry for module, entry in held if isinstance(entry, Armed)}


@contextlib.contextmanager
def _disarmed(root: nn.Module, for_good: bool = False) -> Iterator[None]:
    """Inside, the modules below the root are called as torch calls them; `for_good`: afterwards too."""
    entries = armed(root)
    entry = entries.pop(root, None)
    own = None if entry is None else entry.root()
    held = {module: entry for module, entry in entries.items() if entry.root() is own}  # others have their own accelerated model
    for module in held:  # the key stays: dynamo's guards know the keys of a module's dictionary
        module.__dict__["_compiled_call_impl"] = None
    try:
        yield
    finally:
        for module, entry in () if for_good else held.items():
            module.__dict__["_compiled_call_impl"] = entry


def _call_module(module: nn.Module, args: tuple, kwargs: dict) -> Any:
    return module._call_impl(*args, **kwargs)


NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
LAYERS = (nn.modules.conv._ConvNd, *NORMS)  # torch's own that gain something when called alone


def _gains_nothing(module: nn.Module) -> bool:
    """Whether a module in which no group was found has none for later calls either: no norm, and no weight of a convolution."""
    norms = any(isinstance(m, NORMS) for m in module.modules())
    return not norms and not any(t.dim() > 2 for t in (*module.parameters(), *module.buffers()))


_CALL = nn.Module._wrapped_call_impl.__code__


class Armed:
    """What stands in a module's `_compiled_call_impl`, where nn.Module.compile puts its own: calls the module through dynamo. Copies and
    pickles of the module come without it."""

    keeps_autograd = True  # gradients are eager's, of every order: `penalties` refuses compiled modules that have this not

    def __init__(self, module: nn.Module, root: nn.Module, recompute: bool, compiled: Compiled | None = None) -> None:
        self.module, self.root, self.recompute = weakref.ref(module), weakref.ref(root), recompute
        self.compiled = compiled
        self.before: Armed | None = None  # another accelerated model's, which has the module too, and gets it back
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
            if self.compiled is not None and self.compiled.whole and self.compiled.is_current() and is_seen():
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
        result = self.routes.call(module, args, kwargs, self.compiled, _disarmed)
        if not self.compiled.found and _gains_nothing(module):
            self.idle = True
        return result

    def _forget_single_layers(self, module: nn.Module) -> None:
        """What the call compiled that met the break: `explain` tells of what runs."""
        self.compiled.graphs.clear()
        for entry in armed(module).values():
            if entry is not self:
                entry.compiled = None

    def _compiled(self, call: types.FunctionType, module: nn.Module) -> Compiled:
        root = self.root()
        names = () if root is None else root.named_modules()  # a child may outlive its model
        path = next((name for name, m in names if m is module), "")
        return Compiled(call, root, self.recompute, type(module).__name__, path)

    def without(self, gone: set[int]) -> "Armed | None":
        """What stands here when the models of these ids are accelerated no more: another's, or nothing."""
        before = self.before and self.before.without(gone)
        root = self.root()
        if root is None or id(root) in gone:
            return before
        self.before = before
        return self

    def __reduce__(self) -> tuple:  # copy.deepcopy asks for it too
        return type(None), ()


LEFT_ALONE.add(Armed.__call__.__code__)
