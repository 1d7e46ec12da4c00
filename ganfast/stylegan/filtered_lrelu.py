"""`torch_utils.ops.filtered_lrelu`: StyleGAN3's activation between two resamplings."""

import math
from collections.abc import Sequence

from torch import Tensor

from ganfast import functional
from ganfast.stylegan._impl import backend, number

__all__ = ["filtered_lrelu"]

_OP = "filtered_lrelu"


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
    clamp = None if clamp is None else number(_OP, "clamp", clamp)
    return functional.filtered_act(
        x, b, up_filter=fu, down_filter=fd, up=up, down=down, padding=padding, alpha=number(_OP, "slope", slope),
        gain=number(_OP, "gain", gain), clamp=clamp, flip=flip_filter, backend=backend(_OP, impl),
    )  # fmt: skip
