"""What every op's backward asks: will this be differentiated again, and is autocast in the way."""

import contextlib

import torch
from torch import Tensor


def differentiates() -> bool:
    """True where a backward must build a graph. A compiled region has no double backward (torch refuses it), and its
    backward is traced with grad mode on, so tracing counts as no."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def autocasts(tensor: Tensor) -> bool:
    """True where autocast is on for the tensor's device; devices without one (meta) raise when asked."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast would cast the tensor to; None where it is off."""
    return torch.get_autocast_dtype(tensor.device.type) if autocasts(tensor) else None


def no_autocast(tensor: Tensor):
    """Backward formulas mix dtypes on purpose; autocast would cast one side of them."""
    return torch.autocast(tensor.device.type, enabled=False) if autocasts(tensor) else contextlib.nullcontext()
