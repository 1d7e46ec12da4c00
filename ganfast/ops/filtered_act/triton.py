"""filtered_act in Triton. A program has a tile of the result. Both filters are small banded matrices, built from the taps where they are
used, so that both resamplings of a tile are matrix products: up, the activation and down happen in registers and shared memory, and of
the upsampled tensor nothing else exists. Which pass it is, and in which direction, is known when a kernel is compiled."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _triton
from ganfast.ops.filtered_act.maps import Shape
from ganfast.ops.filtered_act.triton_lines import filtered_act_lines_kernel
from ganfast.ops.filtered_act.triton_planes import filtered_act_planes_kernel
from ganfast.ops.upfirdn.geometry import Geometry


class Tile(NamedTuple):
    """Along one dimension: results that a program writes, and the powers of two that hold what it reads and makes."""

    step: int
    sources: int
    of_x: int
    middle: int
    results: int


def tile_of(first: Geometry, second: Geometry, again: Geometry, dim: int, middle: int) -> Tile:
    """The most results, a multiple of 4, whose upsampled values fit in `middle` and come of no more than `middle / 2` of the source,
    or four in as much as they take."""
    down, taps = second.down[dim], second.taps[dim]
    held = lambda n: max(16, _triton.next_power_of_2(n))
    reads = lambda step, g: (step * down + taps + g.taps[dim] - 2) // g.up[dim] + 2
    step = max(4, (middle - taps) // down // 4 * 4)
    while step > 4 and reads(step, first) > middle // 2:
        step -= 4
    return Tile(step, held(reads(step, first)), held(reads(step, again)), max(middle, held(step * down + taps)), held(step))


class Call(NamedTuple):
    """Of one pass: both maps in its direction, and how x itself goes up."""

    first: Geometry
    second: Geometry
    again: Geometry
    filters: tuple[Tensor, Tensor]
    middle: tuple[int, ...]
    size: tuple[int, ...]  # of the result
    gains: tuple[float, float]

    def reach(self, dim: int, all_of_it: bool) -> tuple[int, int]:
        """From which result to which the tiles go: all, and further where a value between that none reads still counts."""
        down, before = self.second.down[dim], self.second.before[dim]
        if not all_of_it:
            return 0, self.size[dim]
        return min(0, before // down), max(self.size[dim], -(-(self.middle[dim] + before) // down))


def call_of(size: tuple[int, ...], shape: Shape, up_filter: Tensor, down_filter: Tensor, transposed: bool) -> Call:
    """`size`: x's, whichever way the pass goes."""
    up, down = shape.first(up_filter), shape.second(down_filter)
    middle = up.size(size)
    gain = float(math.prod(shape.up))
    if transposed:
        return Call(down.adjoint(middle), up.adjoint(size), up, (down_filter, up_filter), middle, size, (1.0, gain))
    return Call(up, down, up, (up_filter, down_filter), middle, down.size(middle), (gain, gain))


def _launch(
    call: Call, source: Tensor, x, bias, alpha, out, signs, act, alpha_value, gain, clamp, kind: str, replicate: bool, transposed: bool
):
    """The sums [planes, tiles, 3] of a backward, else an empty tensor."""
    n, c = source.shape[:2]
    planes, dims = n * c, source.dim() - 2
    sums_alpha = kind == "backward"
    reaches = [call.reach(d, sums_alpha or signs is not None) for d in range(dims)]
    numbers = (alpha_value, gain, 0.0 if clamp is None else clamp, *call.gains)
    sizes_of_x = x.shape[2:] if x is not None else (0,) * dims
    constants = {
        "FLIP1": call.first.flip, "FLIP2": call.second.flip, "ACT": act, "PASS": kind, "TRANSPOSED": transposed,
        "CLAMPS": clamp is not None, "PRECISION": "tf32x3" if source.dtype == torch.float32 else "tf32",
    }  # fmt: skip
    if dims == 1:
        tile = tile_of(call.first, call.second, call.again, 0, 128)
        tiles = _triton.cdiv(reaches[0][1] - reaches[0][0], tile.step)
        sums = _triton.empty((planes, tiles, 3) if sums_alpha else 0, source, torch.float32)
        block = 16 if planes <= 16 else 32
        filtered_act_lines_kernel[(tiles * _triton.cdiv(planes, block),)](
            source, x, *call.filters, bias, alpha, out, signs, sums, *numbers, planes, c, source.shape[2], *sizes_of_x, *call.middle,
            *call.size, call.first.before[0], call.second.before[0], call.again.before[0], reaches[0][0], tiles,
            UP=call.first.up[0], DOWN=call.second.down[0], TAPS1=call.first.taps[0], TAPS2=call.second.taps[0], REPLICATE=replicate,
            STEP=tile.step, BLOCK_P=block, BLOCK_S=tile.sources, BLOCK_X=tile.of_x, BLOCK_M=tile.middle, BLOCK_O=tile.results, **constants,
            num_warps=8,
        )  # fmt: skip
        return sums
    both = [tile_of(call.first, call.second, call.again, d, 64) for d in range(2)]
    most = lambda name: max(getattr(tile, name) for tile in both)
    while both[0].middle != both[1].middle:
        both = [tile_of(call.first, call.second, call.again, d, most("middle")) for d in range(2)]
    tiles = [_triton.cdiv(end - begin, tile.step) for (begin, end), tile in zip(reaches, both)]
    sums = _triton.empty((planes, math.prod(tiles), 3) if sums_alpha else 0, source, torch.float32)
    separable = all(filter.dim() == 1 for filter in call.filters)
    filtered_act_planes_kernel[(math.prod(tiles) * planes,)](
        source, x, *call.filters, bias, alpha, out, signs, sums, *numbers, c, *source.shape[2:], *sizes_of_x, *call.middle, *call.size,
        *call.first.before, *call.second.before, *call.again.before, reaches[0][0], reaches[1][0], *tiles,
        UP_Y=call.first.up[0], UP_X=call.first.up[1], DOWN_Y=call.second.down[0], DOWN_X=call.second.down[1], TAPS1_Y=call.first.taps[0],
        TAPS1_X=call.first.taps[1], TAPS2_Y=call.second.taps[0], TAPS2_X=call.second.taps[1], SEPARABLE1=call.filters[0].dim() == 1,
        SEPARABLE2=call.filters[1].dim() == 1, STEP_Y=both[0].step, STEP_X=both[1].step, BLOCK_S=most("sources"), BLOCK_X=most("of_x"),
        BLOCK_M=most("middle"), BLOCK_O=most("results"), **constants, num_warps=8 if separable else 4,
    )  # fmt: skip
    return sums


def _floats(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.to(torch.float32).contiguous() for t in tensors]


def filtered_act_fwd_triton(
    x, up_filter, down_filter, up, down, before, after, flip, replicate, bias, alpha, act, alpha_value, gain, clamp, keep_signs
) -> tuple[Tensor, Tensor]:
    """x [N, C, L] or [N, C, H, W], contiguous."""
    up_filter, down_filter, bias, alpha = _floats(up_filter, down_filter, bias, alpha)
    shape = Shape(tuple(up), tuple(down), tuple(before), tuple(after), flip, replicate)
    call = call_of(tuple(x.shape[2:]), shape, up_filter, down_filter, False)
    y = _triton.empty((*x.shape[:2], *call.size), x)
    packed = (*x.shape[:2], *call.middle[:-1], (call.middle[-1] + 3) // 4)
    signs = _triton.empty(packed if keep_signs else 0, x, torch.uint8)
    with _triton.on_device(x):
        _launch(call, x, None, bias, alpha, y, signs if keep_signs else None, act, alpha_value, gain, clamp, "forward", replicate, False)
    return y, signs


def filtered_act_bwd_triton(
    gy, x, up_filter, down_filter, up, down, before, after, flip, replicate, bias, alpha, act, alpha_value, gain, clamp
) -> tuple[Tensor, Tensor, Tensor]:
    up_filter, down_filter, bias, alpha = _floats(up_filter, down_filter, bias, alpha)
    shape = Shape(tuple(up), tuple(down), tuple(before), tuple(after), flip, replicate)
    call = call_of(tuple(x.shape[2:]), shape, up_filter, down_filter, True)
    gx = _triton.empty(x.shape, x)
    with _triton.on_device(gy):
        sums = _launch(call, gy, x, bias, alpha, gx, None, act, alpha_value, gain, clamp, "backward", replicate, True)
    n, c = x.shape[:2]
    of_bias, *of_alpha = sums.view(n, c, -1, 3)[..., : 1 if alpha is None else alpha.dim() + 1].sum((0, 2)).t().contiguous()
    galpha = sums.new_empty(0) if alpha is None else torch.stack(of_alpha).view(alpha.shape)
    return gx, of_bias, galpha


def filtered_act_linear_triton(
    v, signs, up_filter, down_filter, up, down, before, after, flip, replicate, act, alpha_value, gain, transposed, size
) -> Tensor:
    up_filter, down_filter = _floats(up_filter, down_filter)
    shape = Shape(tuple(up), tuple(down), tuple(before), tuple(after), flip, replicate)
    call = call_of(tuple(size), shape, up_filter, down_filter, transposed)
    y = _triton.empty((*v.shape[:2], *call.size), v)
    with _triton.on_device(v):
        _launch(call, v, None, None, None, y, signs, act, alpha_value, gain, None, "linear", replicate, transposed)
    return y
