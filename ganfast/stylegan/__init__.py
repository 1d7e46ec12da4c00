"""StyleGAN's operations under the names that the official code imports them by, `torch_utils.ops.*`, as ganfast's.

The modules of this package have those interfaces and may be imported as they are: `from ganfast.stylegan import bias_act, upfirdn2d`.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from ganfast.stylegan import bias_act, conv2d_gradfix, conv2d_resample, filtered_lrelu, fma, grid_sample_gradfix, upfirdn2d

__all__ = ["install", "uninstall"]

_PARENTS = ("torch_utils", "torch_utils.ops")
_MODULES = {
    f"torch_utils.ops.{module.__name__.rpartition('.')[2]}": module
    for module in (bias_act, conv2d_gradfix, conv2d_resample, filtered_lrelu, fma, grid_sample_gradfix, upfirdn2d)
}
_MISSING = object()
_before: dict[str, tuple[ModuleType, dict[str, object]]] = {}  # name -> a module that was imported earlier, what its attributes were


def install() -> None:
    """From now on ``torch_utils.ops.bias_act``, ``upfirdn2d``, ``filtered_lrelu``, ``conv2d_gradfix``, ``conv2d_resample``, ``fma`` and
    ``grid_sample_gradfix`` are ganfast's: code written against these names runs without nvcc.

    One that is imported already keeps its module object and gets ganfast's functions, so that whoever holds the module sees them; only a
    function that was imported by itself earlier (``from torch_utils.ops.bias_act import bias_act``) is out of reach. Others are
    made when they are imported, beside ``torch_utils``' own other modules; where there is no ``torch_utils`` at all, an empty package
    of that name is. ``impl="ref"`` is ganfast's reference backend, ``"cuda"`` the automatic one, on every device.

    Call it at the top of the script, so that processes which it spawns do the same. Calling it twice is as calling it once.
    """
    for name, ours in _MODULES.items():
        module = sys.modules.get(name)
        if module is not None and not _is_made(module) and name not in _before:
            _before[name] = module, {attribute: vars(module).get(attribute, _MISSING) for attribute in ours.__all__}
            _fill(module, ours)
    if _operations not in sys.meta_path:
        sys.meta_path.insert(0, _operations)
        sys.meta_path.append(_packages)  # last: a torch_utils on the disk is found first


def uninstall() -> None:
    """What `install` changed is as it was before: modules imported earlier have their own functions, those made by it are imported from
    the disk the next time. Who imported one of the latter meanwhile keeps it."""
    for module, attributes in _before.values():
        for attribute, value in attributes.items():
            delattr(module, attribute) if value is _MISSING else setattr(module, attribute, value)
    _before.clear()
    conv2d_gradfix.home = conv2d_gradfix
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in (_operations, _packages)]
    for name in (*_MODULES, *reversed(_PARENTS)):
        module = sys.modules.get(name)
        if module is not None and _is_made(module):
            del sys.modules[name]
            parent, _, attribute = name.rpartition(".")
            if getattr(sys.modules.get(parent), attribute, None) is module:
                delattr(sys.modules[parent], attribute)


def _fill(module: ModuleType, ours: ModuleType) -> None:
    vars(module).update({attribute: getattr(ours, attribute) for attribute in ours.__all__})
    if ours is conv2d_gradfix:
        conv2d_gradfix.home = module


def _is_made(module: ModuleType) -> bool:
    return isinstance(getattr(getattr(module, "__spec__", None), "loader", None), _Made)


class _Made(Loader):
    """Fills a new module of one of our names, and leaves a package empty."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in _MODULES:
            _fill(module, _MODULES[module.__name__])


class _Finder(MetaPathFinder):
    """Of `names` alone, which are packages without files, or modules."""

    def __init__(self, names, packages: bool) -> None:
        self.names, self.packages = names, packages

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        return ModuleSpec(name, _Made(), is_package=self.packages) if name in self.names else None


_operations = _Finder(_MODULES, packages=False)
_packages = _Finder(_PARENTS, packages=True)
