"""Writes docs/reference.md, every public name with its signature and docstring: python tools/reference.py"""

import importlib
import inspect
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
MODULES = (
    "ganfast", "ganfast.functional", "ganfast.nn", "ganfast.penalties", "ganfast.augment", "ganfast.ada", "ganfast.models",
    "ganfast.stylegan", "ganfast.train", "ganfast.train.data", "ganfast.systems.form", "ganfast.systems.directions", "ganfast.testing",
)  # fmt: skip


def names(module: str) -> list[str]:
    """The public names of a module that are no modules themselves, in order."""
    home = importlib.import_module(module)
    return [name for name in home.__all__ if not inspect.ismodule(getattr(home, name))]


def thing(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name)


def methods(cls: type) -> dict[str, object]:
    """Those that a user calls: public, documented, of the class or of the trainer's bases, not torch's."""
    ours = [base for base in cls.__mro__ if base is cls or base.__module__.startswith("ganfast.train")]
    names = dict.fromkeys(name for base in ours for name in vars(base) if not name.startswith("_"))
    found = {name: inspect.getattr_static(cls, name) for name in names}
    return {name: m for name, m in found.items() if isinstance(m, (property, classmethod, staticmethod)) or inspect.isfunction(m)}


def docstring(value: object) -> str:
    """As pydoc shows it; empty where there is none of its own."""
    doc = value.__dict__.get("__doc__") if isinstance(value, type) else getattr(value, "__doc__", None)
    generated = doc is not None and isinstance(value, type) and doc.startswith(f"{value.__name__}(")  # NamedTuple and dataclass
    return "" if doc is None or generated else inspect.cleandoc(doc)


def signature(value: object) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):  # a builtin
        return "(...)"
    text = re.sub(r"<(function|object|class)[^<>]*>", "...", text)
    text = re.sub(r"\b(?:collections\.abc|torch\.nn\.modules\.module|typing|pathlib|torch)\.(?=[A-Z])", "", text)
    return re.sub(r"(?<=: |> )'([^']*)'", r"\1", text)  # annotations that are written as strings


def entry(module: str, name: str) -> list[str]:
    value = thing(module, name)
    if not callable(value):
        return [f"### `{module}.{name}`", "", f"A value: `{type(value).__name__}`.", ""]
    lines = [f"### `{module}.{name}`", "", "```text", f"{name}{signature(value)}", "", docstring(value), "```", ""]
    for called, method in methods(value).items() if isinstance(value, type) else ():
        inner = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
        if text := docstring(inner):
            shown = called if isinstance(method, property) else f"{called}{signature(inner)}"
            lines += [f"`{name}.{shown}`", "", "```text", text, "```", ""]
    return lines


def page() -> str:
    lines = [
        "# Reference", "",
        "Look up a name: every public one with its signature and docstring, as `python -m pydoc` shows it. Written by",
        "`python tools/reference.py`; nobody edits it.", "",
    ]  # fmt: skip
    for module in MODULES:
        lines += [f"## {module}", "", (importlib.import_module(module).__doc__ or "").strip(), ""]
        lines += [line for name in names(module) for line in entry(module, name)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
