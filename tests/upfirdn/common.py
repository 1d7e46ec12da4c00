"""Cases and the formula written out: sums over taps, one result after the other."""

import itertools

import numpy as np
import torch

# name: x's size, filter's shape, up, down, padding, all in the published order
CASES = {
    "blur": ((9, 12), (4,), 1, 1, [2, 1, 2, 1]),
    "up": ((5, 7), (4,), 2, 1, [2, 1, 2, 1]),
    "down": ((9, 8), (4,), 1, 2, [1, 1, 1, 1]),
    "full": ((6, 7), (3, 4), 1, 1, [1, 2, 0, 1]),
    "full up": ((4, 5), (4, 3), [2, 3], 1, [2, 3, 1, 0]),
    "full down": ((9, 10), (3, 5), 1, [3, 2], [2, 2, 1, 1]),
    "both": ((7, 6), (6,), 2, 3, [3, 2, 1, 4]),
    "full both": ((7, 6), (5, 2), [3, 2], [2, 3], [0, 5, 2, 2]),
    "cut off": ((10, 11), (3,), 1, 1, [-2, -1, -3, 0]),
    "cut off up": ((8, 9), (4,), 2, 1, [-3, 2, 1, -4]),
    "all of x cut off": ((3, 4), (2,), 1, 1, [-5, 6, 9, -8]),
    "far": ((3, 2), (5,), 2, 2, [9, 7, 8, 11]),
    "long": ((12, 14), (12,), 2, 1, [6, 5, 6, 5]),
    "long down": ((20, 22), (12,), 1, 2, [5, 5, 5, 5]),
    "one tap": ((5, 6), (1,), 2, 2, 0),
    "one pixel": ((1, 1), (4, 4), 4, 1, [2, 2, 2, 2]),
    "line": ((17,), (4,), 1, 1, [2, 1]),
    "line up": ((9,), (12,), 2, 1, [6, 5]),
    "line down": ((23,), (6,), 1, 3, [3, 2]),
    "line both": ((11,), (7,), 3, 2, [-2, 4]),
}


def memory_order(value, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)[::-1]


def pairs(padding, dims: int) -> list[tuple[int, int]]:
    values = [padding] * 2 * dims if isinstance(padding, int) else list(padding)
    return list(zip(values[::2], values[1::2]))[::-1]


def by_definition(x: torch.Tensor, filter: torch.Tensor, up=1, down=1, padding=0, flip=False, gain=1.0) -> torch.Tensor:
    """In float64, from the meaning alone: the upsampled, padded tensor exists only as a function of its places."""
    dims = x.dim() - 2
    up, down, pad = memory_order(up, dims), memory_order(down, dims), pairs(padding, dims)
    taps = filter.double().numpy()
    if taps.ndim < dims:
        taps = np.multiply.outer(taps, taps)
    if not flip:
        taps = np.flip(taps)
    source = x.detach().double().numpy()
    size = [(n * u + b + a - k) // d + 1 for n, u, d, (b, a), k in zip(source.shape[2:], up, down, pad, taps.shape)]
    y = np.zeros((*source.shape[:2], *size))
    for place in itertools.product(*map(range, size)):
        for tap in itertools.product(*map(range, taps.shape)):
            at = [o * d + t - b for o, d, t, (b, _) in zip(place, down, tap, pad)]
            if all(a % u == 0 and 0 <= a // u < n for a, u, n in zip(at, up, source.shape[2:])):
                y[(..., *place)] += taps[tap] * source[(..., *(a // u for a, u in zip(at, up)))]
    return torch.from_numpy(y * gain)


def case(name: str, dtype=torch.float32, channels: int = 3):
    """(x, filter, options)"""
    size, taps, up, down, padding = CASES[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    x = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randn(taps, generator=generator), {"up": up, "down": down, "padding": padding}
