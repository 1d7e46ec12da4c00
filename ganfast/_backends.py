"""Which code runs: the names of the backends, what is available on this machine, and the user's choice."""

import importlib.util
import os
from typing import NamedTuple

import torch

from ganfast import _checks, _native

BACKENDS = ("auto", "reference", "torch", "cpu", "triton", "cuda")

# A module global, not a ContextVar: torch.compile(fullgraph=True) cannot trace one. Hence one choice for all threads.
_chosen: str | None = None

# Op -> the backend that last ran it, for `explain`.
ran: dict[str, str] = {}


class Availability(NamedTuple):
    """Whether a backend can run on this machine, and if not, why; what it is, if it can."""

    available: bool
    reason: str


def _name(op: str, value: object) -> str:
    if value not in BACKENDS:
        _checks.nearest(op, "backend", value, BACKENDS)
    return value


@_native.traced_as_constant
def machine_reason(backend: str) -> str | None:
    """Why `backend` cannot run on any device of this machine."""
    if backend in ("cpu", "cuda") and (why := _native.reason(backend)) is not None:
        return why
    if backend == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed; CUDA builds of torch bring it (3.6 or newer, from torch 2.11 on), else `pip install triton`"
        if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
            return "torch sees no CUDA device; on a CPU only Triton's interpreter runs: set TRITON_INTERPRET=1 before python starts"
        from ganfast import _triton  # imports triton, so only where it is about to be used

        return _triton.unavailable_reason(torch.device("cpu" if _triton.is_interpreting() else "cuda"))
    return None


def reason(backend: str, device: torch.device) -> str | None:
    """Why `backend` cannot serve tensors on `device`, or None if it can."""
    if backend in ("reference", "torch"):
        return None
    if backend in ("cpu", "cuda") and device.type != backend:
        return f"x is on {device}, this backend serves {backend} tensors"
    if backend == "triton" and device.type == "cuda" and os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET is set: kernels run interpreted, on CPU tensors only"
    if backend == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"x is on {device}; outside a GPU only Triton's interpreter runs: set TRITON_INTERPRET=1 before python starts"
    return machine_reason(backend)


def requested(op: str, backend: str | None) -> str:
    """The argument if given, else `use_backend`'s choice, else GANFAST_BACKEND, else "auto"."""
    if backend is not None:
        return _name(op, backend)
    if _chosen is not None:
        return _chosen
    return _name("GANFAST_BACKEND", os.environ.get("GANFAST_BACKEND", "auto"))


def named(op: str, backend: str, x: torch.Tensor, dtype: torch.dtype | None = None) -> str:
    """A backend asked for by name: runs, or raises with the reason; nothing falls back in silence. `dtype`: what is computed in, where
    that is not x's."""
    why, dtype = reason(backend, x.device), dtype or x.dtype
    if why is None and backend in ("triton", "cuda") and dtype == torch.float64:
        why = "it has no float64; the reference and cpu backends have"
    if why is None and backend == "triton" and x.device.type == "cpu" and dtype == torch.bfloat16:
        why = "Triton's interpreter computes bfloat16 wrongly; use float32 or float16 there"
    if why is not None:
        _checks.fail(op, f"backend {backend!r} cannot run: {why}", error=RuntimeError)
    return backend


def first_fused(x: torch.Tensor, dtype: torch.dtype | None = None) -> str:
    """The fused backend that runs where x is, for ops whose fused passes are a subset of the eager chain's; else "torch". `dtype` as
    `named` takes it."""
    if x.device.type == "cpu":
        return "torch" if machine_reason("cpu") else "cpu"
    if x.device.type == "cuda" and (dtype or x.dtype) != torch.float64:
        return next((name for name in ("triton", "cuda") if reason(name, x.device) is None), "torch")
    return "torch"


class use_backend:
    """Context manager: every ganfast op inside uses `backend`, in all threads; nests, restores on exceptions.

    Raises: ValueError for an unknown name, RuntimeError with the reason where the backend cannot run on this machine.
    """

    def __init__(self, backend: str) -> None:
        self.backend = _name("use_backend", backend)
        if (why := machine_reason(backend)) is not None:
            _checks.fail("use_backend", f"backend {backend!r} cannot run: {why}", error=RuntimeError)
        self._previous: list[str | None] = []  # one entry per time it is entered: the same object may nest

    def __enter__(self) -> None:
        global _chosen
        self._previous.append(_chosen)
        _chosen = self.backend

    def __exit__(self, *_: object) -> None:
        global _chosen
        _chosen = self._previous.pop()


def backends() -> dict[str, Availability]:
    """What can run on this machine: a backend's name -> Availability(available, reason)."""
    kernels = (_native.build_info() or {}).get("cpu")
    about = {
        "auto": "picks per call; see docs/backends.md",
        "reference": "the formulas in plain torch, any device",
        "torch": "torch's own convolution and norm, any device",
        "cpu": "native C++ kernels for CPU tensors" + (f", built for {kernels}" if kernels else ""),
        "triton": "Triton kernels" + ("" if torch.cuda.is_available() else ", interpreted on the CPU (slow, for tests)"),
        "cuda": "CUDA C++ kernels",
    }
    return {name: Availability((why := machine_reason(name)) is None, why or text) for name, text in about.items()}
