"""`torch_utils.ops.fma`."""

import torch
from torch import Tensor

__all__ = ["fma"]


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c, broadcast; derivatives of every order. It is torch's own addcmul, one pass."""
    return torch.addcmul(c, a, b)
