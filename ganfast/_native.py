"""The compiled extension `ganfast._C` and the op library; loaded on first use, never by `import ganfast`."""

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import torch
from torch.autograd import forward_ad

from ganfast import _processor
from ganfast._tell import tell

# Schemas are defined here in Python, so that every install has them; the extension only adds implementations.
LIBRARY = torch.library.Library("ganfast", "DEF")

_REBUILD = "run `pip install --no-build-isolation -e .` in the source tree with this torch installed"


def traced_as_constant(function):
    """What torch.compiler.assume_constant_result does, without its import of torch._dynamo: a compiled region takes the
    answer at tracing time instead of tracing into importlib."""
    function._dynamo_marked_constant = True
    return function


def _no_extension() -> str:
    """Why there is none. A source tree that was not built, taken because python looks in the folder it is started in first, is told aloud:
    an install that lies elsewhere would not be seen."""
    root = Path(__file__).parents[1]
    if not ((root / "csrc").is_dir() and (root / "setup.py").is_file()):
        return f"this install has no compiled extension; to get it, {_REBUILD}"
    why = (
        f"ganfast is imported from its source tree {root}, where no compiled extension was built; "
        "`make venv` or `pip install --no-build-isolation -e .` there builds it"
    )
    elsewhere = [path for path in sys.path if Path(path or ".").resolve() != root]
    other = importlib.machinery.PathFinder.find_spec("ganfast", elsewhere)
    if other is not None and other.origin:
        why += f", or start python in another folder, to use the ganfast installed in {Path(other.origin).parent}"
    tell(f"{why}; until then torch's own kernels run", about="no extension")
    return why


def _is_ours(path: str | None) -> bool:
    """False for the extension of another ganfast, to which the import hook of an editable install leads where this package has none."""
    return path is None or Path(path).parent.resolve() in [Path(folder).resolve() for folder in sys.modules["ganfast"].__path__]


def _not_for_this_processor(path: str | None) -> str | None:
    """Asked before the extension is loaded, which already runs code of it."""
    name, wanted = _processor.built_for(path) or ("", ())
    if not (lacking := _processor.lacking(wanted)):
        return None
    why = (
        f"the compiled extension was built for {name}, this processor lacks {', '.join(lacking)}: "
        f"install a wheel for an older instruction set, or {_REBUILD}"
    )
    tell(f"{why}; until then torch's own kernels run", about="processor")
    return why


@functools.cache
def _load() -> tuple[dict | None, str]:
    """(build_info, "") or (None, why not)."""
    spec = importlib.util.find_spec("ganfast._C")
    if spec is None or not _is_ours(spec.origin):
        return None, _no_extension()
    if (why := _not_for_this_processor(spec.origin)) is not None:
        return None, why
    try:
        info = importlib.import_module("ganfast._C").build_info()
    except ImportError as error:
        return None, f"the compiled extension does not load ({error}); it was built for another torch or machine: {_REBUILD}"
    built, running = (".".join(v.split("+")[0].split(".")[:2]) for v in (info["torch"], torch.__version__))
    if built != running:
        return None, f"the compiled extension was built for torch {info['torch']}, this is {torch.__version__}: {_REBUILD}"
    return info, ""


def build_info() -> dict | None:
    """What the extension was built with (torch, cuda, architectures, the processor as the compiler's flag names it), or None where there
    is none."""
    return _load()[0]


@traced_as_constant
def reason(part: str) -> str | None:
    """Why the native `part` ("cpu" or "cuda") cannot run here, or None if it can."""
    info, why = _load()
    if info is None:
        return why
    if part == "cuda" and not info["cuda"]:
        return f"the extension was built without CUDA; with nvcc and a CUDA build of torch, {_REBUILD}"
    return None


def define(schema: str) -> None:
    """Registers `<name>_native`, which csrc implements for the CPU and CUDA dispatch keys."""
    LIBRARY.define(schema)


def is_plain(x: torch.Tensor) -> bool:
    """True for an ordinary tensor in ordinary execution: no tracing, no dispatch mode, no functorch level, no subclass, no tangents."""
    return (
        type(x) in _PLAIN
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and (forward_ad._current_level < 0 or not torch._C._is_fwd_grad_enabled())
    )


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _derives(t: torch.Tensor) -> bool:
    """Whether a derivative by t is asked for, at any of functorch's levels."""
    if forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled() and forward_ad.unpack_dual(t).tangent is not None:
        return True
    while not t.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t.requires_grad and torch.is_grad_enabled()


@traced_as_constant
def _refuse_transforms(name: str, *tensors: torch.Tensor) -> None:
    """Through an op without rules for them torch passes tangents as zeros, and drops the gradients of what vmap sees. Without tensors, as
    dynamo asks, every call inside of them is refused, but for vmap alone."""
    kinds = torch._C._functorch.TransformType
    levels = {level.key() for level in torch._C._functorch.get_interpreter_stack() or ()} - {kinds.Functionalize}
    dual = forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()
    if (dual or levels) and (any(map(_derives, tensors)) if tensors else dual or levels != {kinds.Vmap}):
        within = f"torch.func ({', '.join(sorted(level.name.lower() for level in levels))})" if levels else "forward-mode AD"
        raise RuntimeError(
            f"ganfast.{name}: called under {within}, which would lose derivatives here; wants torch.autograd. "
            "A model of torch's layers under ganfast.accelerate(model) runs as torch's there."
        )


def register(schema: str, implementation, fake):
    """Registers an op whose implementation is Python and picks the backend; `fake` gives shapes and strides. Gives the function to
    call: the implementation itself where nothing needs to see an op, as a dispatch through Python costs some 15 us. Of a list of tensors,
    the op's first argument, the first speaks for all."""
    name = schema.split("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ganfast::{name}", fake, lib=LIBRARY)
    op = getattr(torch.ops.ganfast, name)

    @functools.wraps(implementation)
    def call(x, *args):
        if is_plain(x[0] if type(x) is list else x):
            return implementation(x, *args)
        if torch.compiler.is_compiling():
            _refuse_transforms(name)
        else:
            given = [*(x if type(x) is list else [x]), *(t for a in args for t in (a if type(a) is list else [a]))]
            _refuse_transforms(name, *(t for t in given if isinstance(t, torch.Tensor)))
        return op(x, *args)

    return call
