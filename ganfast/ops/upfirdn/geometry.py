"""Factors, paddings and sizes of an upfirdn, along every spatial dimension in memory order, and those of its adjoint."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Of [height, width], or [length]: `up - 1` zeros after every value, `before` and `after` more zeros at the ends (negative: cut off),
    a filter of so many `taps`, of which every down-th result is kept. flip: the filter as it is (a correlation), else from its end to its
    beginning (a convolution)."""

    up: tuple[int, ...]
    down: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    taps: tuple[int, ...]
    flip: bool

    def size(self, of: tuple[int, ...]) -> tuple[int, ...]:
        """The result's size, of an input of this one; not positive where nothing is left."""
        return tuple((n * u + b + a - k) // d + 1 for n, u, d, b, a, k in zip(of, *self[:5]))

    def adjoint(self, of: tuple[int, ...]) -> "Geometry":
        """What leads a gradient of the result back to an input of this size: up and down change places, the filter is turned round."""
        before = tuple(k - b - 1 for k, b in zip(self.taps, self.before))
        after = tuple(n * u - m * d + b - u + 1 for n, m, u, d, b in zip(of, self.size(of), self.up, self.down, self.before))
        return Geometry(self.down, self.up, before, after, self.taps, not self.flip)
