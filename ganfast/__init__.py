"""GANs in PyTorch, fast: fused kernels, a drop-in for models people have, a thin training loop.

Importing costs nothing: no Triton, no compiler, no GPU; every public name loads on first use.
"""

import importlib

__version__ = "0.2.0"

_LAZY = {
    "_loaded": "ganfast.dropin.accelerate",  # for pickles of accelerated models
    "_quiet": "ganfast.dropin.accelerate",
    "accelerate": "ganfast.dropin.accelerate",
    "backends": "ganfast._backends",
    "capture": "ganfast.step.capture",
    "compare": "ganfast.dropin.compare",
    "explain": "ganfast.dropin.explain",
    "restore": "ganfast.dropin.accelerate",
    "use_backend": "ganfast._backends",
    "CaptureError": "ganfast.step.errors",
    "EMA": "ganfast.step.ema",
    "FiniteGuard": "ganfast.step.finite",
    "Trainer": "ganfast.train",
    "TrainConfig": "ganfast.train",
}
_MODULES = ("ada", "augment", "functional", "models", "nn", "penalties", "stylegan", "testing", "train")

__all__ = [*(name for name in _LAZY if not name.startswith("_")), *_MODULES]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"ganfast.{name}")
    raise AttributeError(f"module 'ganfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
