"""How upsampling, filter, convolution and downsampling follow each other. By definition zeros come between x's pixels, the border around
them, filter and convolution over that, and every down-th result is kept; all are convolutions without a border of their own, so they may
change places, and the border goes to whichever comes first."""

from typing import NamedTuple

from torch import Tensor

from ganfast import _checks
from ganfast.ops.upfirdn.geometry import Geometry
from ganfast.ops.upfirdn.op import check, check_padding


class Route(NamedTuple):
    """Of one call: `upfirdn`'s options before the convolution and after it, or None; the convolution's; the weight's form."""

    before: dict | None
    after: dict | None
    transposed: bool  # the convolution, so the weight is [Cin, Cout, kh, kw]
    turn: bool  # the weight's taps from the end
    stride: int
    padding: tuple[int, int]
    filters: bool  # whether the filter is used
    size: tuple[int, int]  # of y


def route(op: str, x: Tensor, weight: Tensor, up: int, down: int, filter: Tensor | None, padding, flip: bool) -> Route:
    """Raises: TypeError, ValueError."""
    for name, value in (("up", up), ("down", down)):
        if isinstance(value, bool) or not isinstance(value, int):
            _checks.fail(op, f"{name} is {value!r}, wants an int, for both dimensions", error=TypeError)
        if value < 1:
            _checks.fail(op, f"{name} is {value}, wants a positive number")
    if up > 1 and down > 1:
        _checks.fail(op, f"up is {up} and down {down}, wants at least one of them to be 1", "A call of upfirdn does both")
    if filter is not None:
        check(op, x, filter)
    before, after = check_padding(op, padding, 2)
    filters = filter is not None and up * down > 1
    taps = (1, 1) if not filters else tuple(filter.shape) if filter.dim() == 2 else (filter.shape[0],) * 2
    if up > 1:
        own = [((k + up - 1) // 2, (k - up) // 2) for k in taps]
    else:
        own = [((k - down + 1) // 2, (k - down) // 2) if down > 1 else (0, 0) for k in taps]
    before, after = (tuple(p + o[i] for p, o in zip(given, own)) for i, given in enumerate((before, after)))
    kernel = tuple(weight.shape[2:])
    reach = tuple(k + t - 1 for k, t in zip(kernel, taps))
    size = Geometry((up, up), (down, down), before, after, reach, flip).size(tuple(x.shape[2:]))
    if any(length <= 0 for length in size):
        _checks.fail(op, f"the output would have no pixels: {size} from input {tuple(x.shape[2:])}", "Kernel and filter are larger than x")
    one = kernel == (1, 1)
    turn, first, last, stride, own_padding = not flip and not one, None, None, 1, (0, 0)
    border = lambda b, a: {"padding": [b[1], a[1], b[0], a[0]]}
    if up > 1:
        if one:
            last = {"up": up, "gain": float(up**2)} | border(before, after)
        else:  # the transposed convolution reads taps from the end, has kernel - 1 pixels of border and lacks the zeros after the last
            turn, stride = flip, up
            b = [p - (k - 1) for p, k in zip(before, kernel)]
            a = [p - (k - 1) + up - 1 for p, k in zip(after, kernel)]
            last = {"gain": float(up**2)} | border(b, a)
    elif one and down > 1:
        first = {"down": down} | border(before, after)
    else:
        stride = down
        if not filters and before == after and min(before) >= 0:
            own_padding = before
        elif filters or any((*before, *after)):
            first = border(before, after)
    return Route(first, last, up > 1 and not one, turn, stride, own_padding, filters, size)
