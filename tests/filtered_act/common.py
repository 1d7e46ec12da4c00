"""Cases, and both published forms written out in torch's own convolutions, differentiable to any order."""

import math

import torch
import torch.nn.functional as F

_CONV = (None, F.conv1d, F.conv2d)
_ACT = {
    "linear": lambda z, a, b: z,
    "relu": lambda z, a, b: z.relu(),
    "leaky_relu": lambda z, a, b: F.leaky_relu(z, a),
    "prelu": lambda z, a, b: F.prelu(z, a),
    "tanh": lambda z, a, b: z.tanh(),
    "softplus": lambda z, a, b: F.softplus(z, a),
    "snake": lambda z, a, b: z + torch.sin(a * z).square() / a,
    "snake_beta": lambda z, a, b: z + torch.sin(a * z).square() / (b + 1e-9),
}

# name: size of x, filters' shapes, up, down, padding, in the published order
CASES = {
    "stylegan3": ((9, 11), (12,), (12,), 2, 2, [9, 8, 9, 8]),
    "stylegan3 up 4": ((6, 7), (24,), (12,), 4, 2, [10, 11, 12, 13]),
    "radial": ((8, 7), (8,), (6, 6), 2, 2, [6, 5, 6, 5]),
    "full": ((7, 8), (3, 4), (4, 3), [2, 1], [1, 2], [2, 3, 1, 2]),
    "same size": ((7, 6), (4,), (4,), 1, 1, [3, 3, 3, 3]),
    "none up": ((12, 13), (1,), (6,), 1, 2, 0),
    "cut off": ((12, 11), (4,), (4,), 2, 2, [-2, 3, 1, -3]),
    "odd rests": ((9, 8), (5,), (3,), 3, 2, [1, 2, 4, 3]),
    "far": ((3, 4), (4,), (3,), 2, 2, [9, 8, 7, 10]),
    "tall": ((41, 5), (4,), (4,), 2, 2, [2, 1, 2, 1]),
    "line": ((19,), (12,), (12,), 2, 2, [11, 10]),
    "line rests": ((17,), (5,), (4,), 3, 2, [-1, 4]),
    "line none": ((9,), (1,), (1,), 1, 1, 0),
    "line long": ((1300,), (6,), (6,), 2, 2, [5, 5]),
    "line far": ((5,), (3,), (3,), 2, 2, [9, 8]),
}
# name: length, taps, up, down; with edges that go on
EDGES = {
    "bigvgan": (37, 12, 12, 2, 2),
    "bigvgan long": (2100, 12, 12, 2, 2),
    "one value": (1, 12, 12, 2, 2),
    "odd taps": (16, 7, 5, 2, 2),
    "up 3 down 2": (11, 9, 6, 3, 2),
    "down 3": (12, 4, 1, 1, 3),
    "short": (3, 12, 12, 4, 4),
}


def case(name: str, dtype=torch.float32, channels: int = 3, batch: int = 2):
    """(x, bias, options)"""
    size, up_taps, down_taps, up, down, padding = CASES[name]
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    x, bias = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in ((batch, channels, *size), channels))
    taps = {key: torch.rand(shape, generator=g) - 0.2 for key, shape in (("up_filter", up_taps), ("down_filter", down_taps))}
    return x, bias, {"up": up, "down": down, "padding": padding, **taps}


def edge_case(name: str, dtype=torch.float32, channels: int = 3, batch: int = 2):
    length, up_taps, down_taps, up, down = EDGES[name]
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    x, bias = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in ((batch, channels, length), channels))
    taps = {"up_filter": torch.rand(up_taps, generator=g) - 0.2, "down_filter": torch.rand(down_taps, generator=g) - 0.2}
    return x, bias, {"up": up, "down": down, "padding_mode": "replicate", **taps}


def _pair(value, dims):
    return [value] * dims if isinstance(value, int) else list(value)[::-1]


def _weight(taps, dims, channels, gain, flip, dtype):
    taps = taps.to(dtype)
    taps = torch.outer(taps, taps) if taps.dim() < dims else taps
    taps = taps if flip else taps.flip(list(range(dims)))
    return (taps * gain).expand(channels, 1, *taps.shape)


def _upsampled(x, taps, up, pads, flip):
    """Zeros between, then pads [left, right, ...] of zeros or cut off, then the filter."""
    dims = x.dim() - 2
    size = [n * u for n, u in zip(x.shape[2:], up)]
    wide = x.new_zeros(*x.shape[:2], *size)
    at = (..., *[slice(None, None, u) for u in up])
    index = torch.zeros(size, dtype=torch.bool)
    index[at[1:]] = True
    wide = wide.masked_scatter(index, x.reshape(-1)) if x.numel() else wide
    return _CONV[dims](F.pad(wide, pads), _weight(taps, dims, x.shape[1], math.prod(up), flip, x.dtype), groups=x.shape[1])


def by_definition(x, bias, *, up_filter, down_filter, up, down, padding=0, act, alpha=None, beta=None, gain=1.0, clamp=None, flip=False,
                  padding_mode="zeros"):  # fmt: skip
    dims = x.dim() - 2
    up, down = _pair(up, dims), _pair(down, dims)
    column = lambda v: v.to(x.dtype).view(1, -1, *[1] * dims) if isinstance(v, torch.Tensor) else v
    z = x if bias is None else x + column(bias)
    replicate = padding_mode == "replicate"
    if replicate:  # as BigVGAN does it: x longer at both ends, the surplus cut off
        u, k, more = up[0], len(up_filter), len(up_filter)
        z = F.pad(z, [more, more], mode="replicate")
        wide = _upsampled(z, up_filter, up, [(k + u - 1) // 2, (k - u) // 2], flip)
        z = wide[..., more * u : wide.shape[-1] - more * u]
    else:
        z = _upsampled(z, up_filter, up, [padding] * 2 * dims if isinstance(padding, int) else list(padding), flip)
    alpha = column(alpha) if act != "prelu" else alpha.to(x.dtype)
    y = _ACT[act](z, alpha, column(beta)) * gain
    y = y if clamp is None else y.clamp(-clamp, clamp)
    if replicate:
        k, d = len(down_filter), down[0]
        before, after = (k - d + 1) // 2, (k - d) // 2
        y = F.pad(y, [max(before, 0), max(after, 0)], mode="replicate")
        y = y[..., max(-before, 0) : y.shape[-1] - max(-after, 0)]
    return _CONV[dims](y, _weight(down_filter, dims, x.shape[1], 1.0, flip, x.dtype), stride=tuple(down), groups=x.shape[1])


def parameters(act: str, channels: int = 3):
    """Keyword arguments of an activation: floats for those that take one, vectors for those that learn."""
    g = torch.Generator().manual_seed(5)
    if act == "prelu":
        return {"alpha": torch.rand(channels, generator=g, dtype=torch.float64) * 0.4 + 0.1}
    if act in ("snake", "snake_beta"):
        both = {
            "alpha": torch.rand(channels, generator=g, dtype=torch.float64) + 0.4,
            "beta": torch.rand(channels, generator=g, dtype=torch.float64) + 0.7,
        }
        return both if act == "snake_beta" else {"alpha": both["alpha"]}
    return {"leaky_relu": {"alpha": 0.2}, "softplus": {"alpha": 1.5}}.get(act, {})
