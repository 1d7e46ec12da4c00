"""What a forward was found to take from its module and its file, to be compared before every call."""

from collections.abc import Callable

from torch import nn

from ganfast.nn.fingerprints import MISSING, fingerprint, named_layers

CALLED = "called"  # of a layer that is called and not looked into


class Record:
    def __init__(self, module: nn.Module, forward: Callable) -> None:
        self.module = module
        self.forward = forward
        self.attributes: dict[tuple[str, ...], object] = {}
        self.methods: dict[str, Callable] = {}
        self.globals: dict[tuple, tuple[dict, tuple[str, ...], object]] = {}
        self.functions: list[tuple[Callable, list]] = []  # of all that was read, what each is made of
        self.named: dict[str, tuple] = {}  # by pattern, layers fetched with getattr
        self.tied: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def unchanged(self, module: nn.Module) -> bool:
        """Whether a trace made when this was read still holds for the module."""
        try:
            return self._unchanged(module)
        except Exception:  # a value that can no longer be compared
            return False

    def _unchanged(self, module: nn.Module) -> bool:
        if getattr(type(module), "_ganfast_class", type(module)).forward is not self.forward:
            return False
        for function, parts in self.functions:
            if any(now is not before for now, before in zip(made_of(function), parts)):
                return False
        for path, before in self.attributes.items():
            value = _at(module, path)
            if before == CALLED:
                if not isinstance(value, nn.Module):
                    return False
            elif (value if value is MISSING else fingerprint(value)) != before:
                return False
        if any(getattr(getattr(module, name, None), "__func__", None) is not function for name, function in self.methods.items()):
            return False
        if any(named_layers(module, pattern) != names for pattern, names in self.named.items()):
            return False
        if any(_at(module, first) is not _at(module, again) for first, again in self.tied):
            return False
        for space, path, before in self.globals.values():
            value = _at(space.get(path[0], MISSING), path[1:])
            if value is not before and fingerprint(value) != before:
                return False
        return True


def made_of(function: Callable) -> list:
    """Its code, defaults and what it closes over: any of them can be set anew."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return [function.__code__, function.__defaults__, function.__kwdefaults__, *cells]


def _at(value: object, path: tuple[str, ...]) -> object:
    for name in path:
        value = getattr(value, name, MISSING)
    return value


def tied(module: nn.Module) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names of one layer or tensor: a trace has the first for both."""
    first, found, known = {}, [], {}
    everything = (module.named_modules, module.named_parameters, module.named_buffers)
    for name, held in (pair for names in everything for pair in names(remove_duplicate=False)):
        path = tuple(name.split("."))
        one = first.setdefault(id(held), path)
        if one != path:
            known[path] = one
            if known.get(path[:-1]) != one[:-1]:  # else it is in a layer that has two names itself
                found.append((one, path))
    return found
