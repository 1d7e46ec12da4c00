"""upfirdn in Triton: a program makes a block of the result, and reads of x only what a tap meets that is no zero between. Neighbours read
the same values, which come from the first cache."""

import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast.ops.upfirdn.geometry import Geometry


@triton.jit
def _line(o, shift, UP: tl.constexpr, DOWN: tl.constexpr):
    """(the first tap that meets a value of x, that value's place) for results o; `shift`: a multiple of UP less the zeros before, not
    negative, so that no division sees a negative number; places count from that multiple."""
    at = o * DOWN + shift
    first = (UP - at % UP) % UP
    return first, (at + first) // UP


@triton.jit
def upfirdn_fwd_kernel(
    x, filter, y, gain, total, c, h, w, out_h, out_w, shift_y, shift_x, from_y, from_x,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr, TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr,
    SEPARABLE: tl.constexpr, FLIP: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x [planes, h, w] -> y [planes, out_h, out_w] of `total` values, or with CHANNELS_LAST [N, h, w, c] -> [N, out_h, out_w, c].
    filter [TAPS_Y] for both dimensions if SEPARABLE, else [TAPS_Y, TAPS_X]. from_y, from_x: the places of x's first values, see `_line`."""
    pid = tl.program_id(0)
    e = (pid.to(tl.int64) if WIDE else pid) * BLOCK + tl.arange(0, BLOCK)
    mask = e < total
    if CHANNELS_LAST:
        channel, pixel = (e % c).to(tl.int32), e // c
    else:
        channel, pixel = 0, e
    ox, oy, plane = (pixel % out_w).to(tl.int32), (pixel // out_w % out_h).to(tl.int32), pixel // out_w // out_h
    first_y, place_y = _line(oy, shift_y, UP_Y, DOWN_Y)
    first_x, place_x = _line(ox, shift_x, UP_X, DOWN_X)
    acc = tl.zeros((BLOCK,), tl.float32)
    for j in range((TAPS_Y + UP_Y - 1) // UP_Y):
        ty, iy = first_y + j * UP_Y, place_y + j - from_y
        reads_y = mask & (ty < TAPS_Y) & (iy >= 0) & (iy < h)
        row = plane * h + iy
        along = tl.zeros((BLOCK,), tl.float32)
        for i in range((TAPS_X + UP_X - 1) // UP_X):
            tx, ix = first_x + i * UP_X, place_x + i - from_x
            reads = reads_y & (tx < TAPS_X) & (ix >= 0) & (ix < w)
            at = row * w + ix
            if CHANNELS_LAST:
                at = at * c + channel
            value = tl.load(x + at, mask=reads, other=0.0).to(tl.float32)
            k = tx if SEPARABLE else ty * TAPS_X + tx
            last = TAPS_X - 1 if SEPARABLE else TAPS_Y * TAPS_X - 1
            value *= tl.load(filter + (k if FLIP else last - k), mask=reads, other=0.0)
            along += value
        if SEPARABLE:
            along *= tl.load(filter + (ty if FLIP else TAPS_Y - 1 - ty), mask=reads_y, other=0.0)
        acc += along
    tl.store(y + e, (acc * gain).to(y.dtype.element_ty), mask=mask)


def upfirdn_fwd_triton(x: Tensor, filter: Tensor, up, down, before, after, flip: bool, gain: float, channels_last: bool) -> Tensor:
    """x [N, C, H, W]; filter float32, [taps] of both dimensions or [h, w]."""
    taps = tuple(filter.shape) if filter.dim() == 2 else (filter.shape[0],) * 2
    g = Geometry(tuple(up), tuple(down), tuple(before), tuple(after), taps, flip)
    n, c, h, w = x.shape
    out_h, out_w = g.size((h, w))
    y = _triton.empty((n, c, out_h, out_w), x, x.dtype, channels_last)
    zeros = [_triton.cdiv(max(b, 0), u) for b, u in zip(g.before, g.up)]  # of x, before its first value
    shifts = [z * u - b for z, u, b in zip(zeros, g.up, g.before)]
    block = min(_triton.next_power_of_2(y.numel()), 1024)
    with _triton.on_device(x):
        upfirdn_fwd_kernel[(_triton.cdiv(y.numel(), block),)](
            x, filter, y, gain, y.numel(), c, h, w, out_h, out_w, *shifts, *zeros,
            UP_Y=g.up[0], UP_X=g.up[1], DOWN_Y=g.down[0], DOWN_X=g.down[1], TAPS_Y=g.taps[0], TAPS_X=g.taps[1], SEPARABLE=filter.dim() == 1,
            FLIP=g.flip, CHANNELS_LAST=channels_last, WIDE=max(x.numel(), y.numel()) >= _triton.wide_from, BLOCK=block, num_warps=4,
        )  # fmt: skip
    return y
