"""Cases, and the published form written out: a weight for every image, all of them as groups of one convolution, the filter for itself."""

import torch
import torch.nn.functional as F
from torch import Tensor

LOW_PASS = (1.0, 3.0, 3.0, 1.0)
# name: x's size, kernel, up, down, filter's shape or None, padding in the published order
CASES = {
    "plain": ((5, 6), (3, 3), 1, 1, (4,), 1),
    "rgb": ((4, 5), (1, 1), 1, 1, None, 0),
    "up": ((5, 4), (3, 3), 2, 1, (4,), 1),
    "down": ((8, 7), (3, 3), 1, 2, (4,), 1),
    "1x1 up": ((3, 4), (1, 1), 2, 1, (4,), 0),
    "1x1 down": ((6, 8), (1, 1), 1, 2, (4,), 0),
    "up unfiltered": ((4, 3), (3, 3), 2, 1, None, 1),
    "down unfiltered": ((7, 6), (3, 3), 1, 2, None, 1),
    "1x1 down unfiltered": ((6, 5), (1, 1), 1, 2, None, [0, 1]),
    "full up": ((4, 5), (2, 3), 3, 1, (3, 5), [1, 2, 0, 3]),
    "full down": ((9, 8), (3, 2), 1, 3, (5, 2), [2, 1, 1, 0]),
    "cut off": ((7, 8), (3, 3), 1, 1, None, [-1, 2, 0, -2]),
    "wide": ((3, 4), (2, 2), 1, 1, None, 4),
    "even": ((4, 4), (4, 4), 2, 1, (4,), 2),
    "one pixel": ((1, 1), (3, 3), 2, 1, (4,), 1),
}
FULL = {"act": "leaky_relu", "alpha": 0.2, "gain": 2**0.5}


def filter_of(shape) -> Tensor | None:
    if shape is None:
        return None
    if shape == (4,):
        return torch.tensor(LOW_PASS) / sum(LOW_PASS)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) / 4  # not symmetric: its direction shows


def grouped(
    x, weight, style, demodulate=True, up=1, down=1, filter=None, padding=0, flip=True, noise=None, bias=None, act="linear", alpha=None,
    gain=1.0, clamp=None, eps=1e-8,
) -> Tensor:  # fmt: skip
    """In the dtype of x; in the order of the definition: zeros, border, the filter of `up`, convolution, the filter of `down`, every
    down-th."""
    n, c_in, h, w = x.shape
    each = weight[None] * style[:, None, :, None, None]
    if demodulate:
        each = each * (each.square().sum((2, 3, 4), keepdim=True) + eps).rsqrt()
    each = each if flip else each.flip((3, 4))
    values = [padding] * 4 if isinstance(padding, int) else [v for v in padding for _ in range(4 // len(padding))]
    taps = torch.ones(1, 1) if filter is None or up * down == 1 else filter if filter.dim() == 2 else filter[:, None] * filter
    taps = taps.to(x.dtype)
    kh, kw = taps.shape
    if up > 1:
        own = [(kw + up - 1) // 2, (kw - up) // 2, (kh + up - 1) // 2, (kh - up) // 2]
    else:
        own = [(kw - down + 1) // 2, (kw - down) // 2, (kh - down + 1) // 2, (kh - down) // 2] if down > 1 else [0] * 4
    large = x.new_zeros(n, c_in, h * up, w * up)
    large[:, :, ::up, ::up] = x
    large = F.pad(large, [v + o for v, o in zip(values, own)])
    along = lambda t, by: F.conv2d(t.flatten(0, 1)[:, None], by.flip((0, 1))[None, None])[:, 0].unflatten(0, t.shape[:2])
    if up > 1:
        large = along(large, taps * up**2)
    y = F.conv2d(large.flatten(0, 1)[None], each.flatten(0, 1), groups=n)[0].unflatten(0, (n, -1))
    y = (along(y, taps) if down > 1 else y)[:, :, ::down, ::down]
    y = y if noise is None else y + noise
    y = y if bias is None else y + bias[:, None, None]
    y = {"linear": lambda t: t, "leaky_relu": lambda t: F.leaky_relu(t, alpha), "tanh": torch.tanh, "silu": F.silu,
         "prelu": lambda t: F.prelu(t, alpha)}[act](y) * gain  # fmt: skip
    return y if clamp is None else y.clamp(-clamp, clamp)


def case(name: str, dtype=torch.float32, channels=(4, 3), batch: int = 2):
    """(x, weight, style, options) with filter, noise and bias."""
    size, kernel, up, down, taps, padding = CASES[name]
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    c_in, c_out = channels
    x, weight, style = draw(batch, c_in, *size), draw(c_out, c_in, *kernel), 1 + draw(batch, c_in) / 2
    options = {"up": up, "down": down, "filter": filter_of(taps), "padding": padding}
    with torch.no_grad():
        out = grouped(x.double(), weight.double(), style.double(), **options).shape[2:]
    return x, weight, style, options | {"noise": draw(batch, 1, *out) / 4, "bias": draw(c_out) / 4}


def with_epilogue(options: dict, dtype=torch.float64) -> dict:
    """The options for the oracle: its tensors in this dtype."""
    return {k: v.to(dtype) if isinstance(v, Tensor) and k != "filter" else v for k, v in options.items()}
