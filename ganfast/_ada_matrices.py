"""What `ganfast.ada` draws and does: an image's one geometric map and its one map of colours, and images resampled by the former."""

import math

import torch
from torch import Tensor

import ganfast.functional as GF
from ganfast.stylegan.grid_sample_gradfix import grid_sample

UNIFORMS, NORMALS = 21, 7  # numbers an image is drawn from, whatever the policy: equal draws make equal colours without the geometry too

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Daubechies' least asymmetric wavelet of 6 vanishing moments, its low-pass filter (Daubechies 1992, "Ten lectures on wavelets", table
6.3). It is orthogonal to itself two places on, so that up by it and down by its mirror image give back what was there."""

_BEFORE, _AFTER = 3, 2  # pixels that the 12 taps, two to a pixel, reach to either side
# In pixels, how far the first upsampled place lies before the first pixel. It would be 1/4 with a filter whose centre of mass were its
# middle; sym6's is at 5.1 of 0 ... 11, and a flip about another point than this one would move what it flips.
_FIRST = (sum(i * tap for i, tap in enumerate(SYM6)) / sum(SYM6) - 5) / 2


def geometry(u: Tensor, z: Tensor, p: Tensor | float, names: tuple[str, ...], height: int, width: int) -> Tensor:
    """[N, 3, 3]: where in the image, in pixels from its centre, to the right and down, an image's result takes what it shows; the inverse
    of the paper's G. u [N, 21], z [N, 7]. The identity, bit for bit, of images for which nothing was drawn.

    G is the last map times the one before ... times the first; its inverse is made of the maps' own inverses in the same order.
    """
    one, zero = torch.ones_like(u[:, 0]), torch.zeros_like(u[:, 0])
    found = _matrix((one, zero, zero), (zero, one, zero), (zero, zero, one))
    drawn = lambda gate, value, otherwise, chance=p: torch.where(u[:, gate] < chance, value, otherwise)
    scaled = lambda x, y: _matrix((1 / x, zero, zero), (zero, 1 / y, zero), (zero, zero, one))
    turned = lambda cosine, sine: _matrix((cosine, sine, zero), (-sine, cosine, zero), (zero, zero, one))
    moved = lambda x, y: _matrix((one, zero, -x), (zero, one, -y), (zero, zero, one))
    if "blit" in names:
        quarters = drawn(1, (4 * u[:, 14]).floor(), zero)
        right, down = (((2 * u[:, i] - 1) * size / 8).round() for i, size in ((15, width), (16, height)))
        found = _product(found, scaled(drawn(0, 1 - 2 * (2 * u[:, 13]).floor(), one), one))
        # Of whole quarters the cosines are whole numbers, which those of a computed angle are not quite.
        found = _product(found, turned(*((quarters == a).to(u) - (quarters == a + 2).to(u) for a in (0, 1))))
        found = _product(found, moved(drawn(2, right, zero), drawn(2, down, zero)))
    if "geom" in names:
        turns = 1 - (1 - p) ** 0.5  # twice, so that an image stays unturned with probability 1 - p
        sizes, ratios = (drawn(gate, (0.2 * math.log(2) * z[:, i]).exp(), one) for gate, i in ((3, 0), (5, 1)))
        first, second = (drawn(gate, math.pi * (2 * u[:, i] - 1), zero, turns) for gate, i in ((4, 17), (6, 18)))
        right, down = (drawn(7, z[:, i] * size / 8, zero) for i, size in ((2, width), (3, height)))
        maps = scaled(sizes, sizes), turned(first.cos(), first.sin()), scaled(ratios, 1 / ratios), turned(second.cos(), second.sin())
        for one_map in (*maps, moved(right, down)):
            found = _product(found, one_map)
    return found


def _matrix(*rows: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Not by matmul, which where TF32 is allowed rounds places in an image to 11 bits."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def colours(u: Tensor, z: Tensor, p: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(along, across, turned, added), each [N]: of a colour its grey part is multiplied by `along`, what is left of it by `across`, and
    that, turned a quarter round the grey axis, by `turned`.

    With v the grey axis and K x the product v x x, the paper's matrices are: contrast c I; luma flip I - 2 i v v^T; hue
    v v^T + cos (I - v v^T) + sin K; saturation v v^T + s (I - v v^T). All are sums of v v^T, I - v v^T and K, of which the first gives 0
    with either other and K^2 = -(I - v v^T); so is their product, c (1 - 2 i) v v^T + c s (cos (I - v v^T) + sin K), and brightness b,
    which comes first and lies along v, is multiplied by c (1 - 2 i).
    """
    one, zero = torch.ones_like(u[:, 0]), torch.zeros_like(u[:, 0])
    drawn = lambda gate, value, otherwise: torch.where(u[:, gate] < p, value, otherwise)
    bright = drawn(8, 0.2 * z[:, 4], zero)
    contrast = drawn(9, (0.5 * math.log(2) * z[:, 5]).exp(), one)
    flipped = drawn(10, 1 - 2 * (2 * u[:, 19]).floor(), one)
    hue = drawn(11, math.pi * (2 * u[:, 20] - 1), zero)
    saturation = drawn(12, (math.log(2) * z[:, 6]).exp(), one)
    along = contrast * flipped
    return along, contrast * saturation * hue.cos(), contrast * saturation * hue.sin(), along * bright


def coloured(x: Tensor, maps: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """x [N, 1 or 3, H, W]; of grey images, which lie on the grey axis, only brightness, contrast and luma flip are seen."""
    along, across, turned, added = (each[:, None, None, None] for each in maps)
    if x.shape[1] == 1:
        return torch.where((along != 1) | (added != 0), x * along + added, x)
    grey = x.mean(1, keepdim=True)
    beside = (x.roll(1, 1) - x.roll(-1, 1)) / math.sqrt(3)  # K x
    found = x * across + (grey * (along - across) + added) + beside * turned
    return torch.where((along != 1) | (across != 1) | (turned != 0) | (added != 0), found, x)


def resampled(x: Tensor, inverse: Tensor) -> Tensor:
    """x [N, C, H, W], each image under its map: to twice the size by sym6, sampled bilinearly there, down again by sym6's mirror image.

    Beyond its borders an image goes on mirrored, for ever: mirrored it repeats itself after 2 (size - 1) pixels, so that one period,
    upsampled, is all there is, and a place is looked up modulo the period. No map leads outside of it, and the size of what is computed
    depends on no draw, which the host would have to wait for.
    """
    filter = _row(x, *(tap / math.sqrt(2) for tap in SYM6))
    sizes = x.shape[2:]
    periods = [max(2 * (size - 1), 1) for size in sizes]
    whole = x
    for dim, (size, period) in enumerate(zip(sizes, periods), 2):
        at = torch.arange(-_BEFORE, period + _AFTER + 1, device=x.device).remainder(period)
        whole = whole.index_select(dim, torch.where(at < size, at, period - at))
    large = GF.upfirdn(whole, filter, up=2, gain=4.0)  # places 0 ... 2 period, the last to be mixed with the one before
    # The places that the filter wants on its way down, from 5 before the image to 5 behind, in pixels from the image's centre.
    rows, columns = (torch.arange(-5, 2 * size + 5, dtype=x.dtype, device=x.device) / 2 - _FIRST - (size - 1) / 2 for size in sizes)
    # [N, height, width, 2], as grid_sample takes them: to the right and down, in periods, of which the whole ones are taken off.
    across, down, moved = (inverse[:, :2] / _row(x, *periods[::-1])[:, None]).unbind(2)
    moved = moved + _row(x, *(((size - 1) / 2 + _FIRST) / period for size, period in zip(sizes[::-1], periods[::-1])))
    places = torch.addcmul(rows[:, None, None] * down[:, None, None] + moved[:, None, None], columns[:, None], across[:, None, None])
    held = [2 * period + 1 for period in periods[::-1]]  # -1 ... 1 from edge to edge of so many places
    scale, first = _row(x, *(2 * (n - 1) / n for n in held)), _row(x, *(1 / n - 1 for n in held))
    return GF.upfirdn(grid_sample(large, torch.addcmul(first, places.remainder_(1.0), scale)), filter, down=2, flip=True)


def _row(like: Tensor, *values: float) -> Tensor:
    """These numbers on a tensor's device, made there: a copy from the host would wait, and could not be recorded."""
    return torch.cat([torch.full((1,), value, dtype=like.dtype, device=like.device) for value in values])
