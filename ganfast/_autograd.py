"""What every op's backward asks: will this be differentiated again, and is autocast in the way."""

import contextlib

import torch
from torch import Tensor


def differentiates() -> bool:
    """True where a backward must build a graph. A compiled region has no double backward (torch refuses it), and its
    backward is traced with grad mode on, so tracing counts as no."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def no_autocast(tensor: Tensor):
    """Backward formulas mix dtypes on purpose; autocast would cast one side of them."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()
