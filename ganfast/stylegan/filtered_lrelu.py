"""`torch_utils.ops.filtered_lrelu`: StyleGAN3's activation between two resamplings."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ganfast import functional
from ganfast.stylegan._impl import backend

__all__ = ["filtered_lrelu"]


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "cuda",
) -> Tensor:
    """down(clamp(leaky_relu(up(x + b)) * gain)): up by fu, with `padding` of the upsampled image, the mean kept; down by fd."""
    return _filtered_act(
        x, b, up_filter=fu, down_filter=fd, up=up, down=down, padding=padding, alpha=float(slope), gain=float(gain),
        clamp=None if clamp is None else float(clamp), flip=flip_filter, backend=backend("filtered_lrelu", impl),
    )  # fmt: skip


def _filtered_act(x, bias, *, up_filter, down_filter, up, down, padding, alpha, gain, clamp, flip, backend) -> Tensor:
    up_filter, down_filter = (torch.ones([1, 1], device=x.device) if f is None else f for f in (up_filter, down_filter))
    x = x if bias is None else functional.bias_act(x, bias, backend=backend)
    x = functional.upfirdn(x, up_filter, up=up, padding=padding, flip=flip, gain=up**2, backend=backend)
    x = functional.bias_act(x, act="leaky_relu", alpha=alpha, gain=gain, clamp=clamp, backend=backend)
    return functional.upfirdn(x, down_filter, down=down, flip=flip, backend=backend)
