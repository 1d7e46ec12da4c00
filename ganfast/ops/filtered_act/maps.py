"""The two resamplings around the activation and their adjoints, each an upfirdn and what lies beyond the edges."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast.ops.upfirdn.geometry import Geometry

# (x, filter, geometry, gain) -> y
Run = Callable[[Tensor, Tensor, Geometry, float], Tensor]


class Shape(NamedTuple):
    """Of [height, width], or [length], in memory order. before, after: zeros around the upsampled x, negative to cut off. replicate: x and
    the activated values go on with their last one instead, and sizes stay as they are."""

    up: tuple[int, ...]
    down: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    flip: bool
    replicate: bool

    def first(self, filter: Tensor) -> Geometry:
        ones = (1,) * len(self.up)
        return Geometry(self.up, ones, self.before, self.after, taps(filter, len(self.up)), self.flip)

    def second(self, filter: Tensor) -> Geometry:
        """After the activation. With replicate its paddings keep the values in place."""
        ones, k = (1,) * len(self.up), taps(filter, len(self.up))
        before = tuple((t - d + 1) // 2 if self.replicate else 0 for t, d in zip(k, self.down))
        after = tuple((t - d) // 2 if self.replicate else 0 for t, d in zip(k, self.down))
        return Geometry(ones, self.down, before, after, k, self.flip)


def taps(filter: Tensor, dims: int) -> tuple[int, ...]:
    return tuple(filter.shape) if filter.dim() == dims else tuple(filter.shape) * dims


class Maps(NamedTuple):
    """`run` is an upfirdn of any backend, differentiable or not."""

    shape: Shape
    up_filter: Tensor
    down_filter: Tensor
    run: Run

    @property
    def _gain(self) -> float:
        return float(math.prod(self.shape.up))

    def up(self, x: Tensor) -> Tensor:
        g = self.shape.first(self.up_filter)
        return self._over(x, self.up_filter, g, self._gain)

    def down(self, x: Tensor) -> Tensor:
        g = self.shape.second(self.down_filter)
        return self._over(x, self.down_filter, g, 1.0)

    def up_adjoint(self, gy: Tensor, size: tuple[int, ...]) -> Tensor:
        return self._back(gy, self.up_filter, self.shape.first(self.up_filter), self._gain, size)

    def down_adjoint(self, gy: Tensor, size: tuple[int, ...]) -> Tensor:
        return self._back(gy, self.down_filter, self.shape.second(self.down_filter), 1.0, size)

    def middle(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return self.shape.first(self.up_filter).size(size)

    def _over(self, x: Tensor, filter: Tensor, g: Geometry, gain: float) -> Tensor:
        if not self.shape.replicate:
            return self.run(x, filter, g, gain)
        each, g = _widened(g)
        return self.run(F.pad(x, [each, each], mode="replicate"), filter, g, gain)

    def _back(self, gy: Tensor, filter: Tensor, g: Geometry, gain: float, size: tuple[int, ...]) -> Tensor:
        if not self.shape.replicate:
            return self.run(gy, filter, g.adjoint(size), gain)
        each, g = _widened(g)
        wide = self.run(gy, filter, g.adjoint((size[0] + 2 * each,)), gain)
        return _folded(wide, each)


def _widened(g: Geometry) -> tuple[int, Geometry]:
    """How many of its last values x is extended by at both ends, and the map of what is extended so: no zeros are left of its own."""
    each = -(-max(g.before[0], g.after[0], 0) // g.up[0])
    less = each * g.up[0]
    return each, g._replace(before=(g.before[0] - less,), after=(g.after[0] - less,))


def _folded(wide: Tensor, each: int) -> Tensor:
    """The adjoint of extending by the last value, differentiable."""
    if each == 0:
        return wide
    n = wide.shape[-1] - 2 * each
    first, last = wide[..., :each].sum(-1, keepdim=True), wide[..., each + n :].sum(-1, keepdim=True)
    inner = wide[..., each : each + n]
    return inner + F.pad(first, [0, n - 1]) + F.pad(last, [n - 1, 0])


def column(bias: Tensor | None, x: Tensor) -> Tensor | float:
    return 0.0 if bias is None else bias.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))


def packed(codes: Tensor) -> Tensor:
    """[..., W] of 0 to 3 -> uint8 [..., ceil(W / 4)], the first in the lowest bits."""
    codes = F.pad(codes, [0, -codes.shape[-1] % 4]).unflatten(-1, (-1, 4)).to(torch.uint8)
    return codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6


def unpacked(bytes_: Tensor, width: int) -> Tensor:
    parts = [bytes_ >> shift & 3 for shift in (0, 2, 4, 6)]
    return torch.stack(parts, -1).flatten(-2)[..., :width]
