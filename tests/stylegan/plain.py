"""The published operations by their meaning, in plain torch: what stand-ins of the modules compute in the tests."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

ACTS = {  # formula, default gain
    "linear": (lambda x, alpha: x, 1),
    "relu": (lambda x, alpha: F.relu(x), 2**0.5),
    "lrelu": (lambda x, alpha: F.leaky_relu(x, 0.2 if alpha is None else alpha), 2**0.5),
    "tanh": (lambda x, alpha: torch.tanh(x), 1),
    "sigmoid": (lambda x, alpha: torch.sigmoid(x), 1),
    "elu": (lambda x, alpha: F.elu(x), 1),
    "selu": (lambda x, alpha: F.selu(x), 1),
    "softplus": (lambda x, alpha: F.softplus(x), 1),
    "swish": (lambda x, alpha: F.silu(x), 2**0.5),
}


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    formula, usual = ACTS[act]
    z = x if b is None else x + b.view(*(-1 if i == dim else 1 for i in range(x.dim())))
    y = formula(z, alpha) * (usual if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def pads_of(padding):
    values = [padding] * 2 if isinstance(padding, int) else list(padding)
    return values if len(values) == 4 else [values[0], values[0], values[1], values[1]]


def pair(value):
    return [value] * 2 if isinstance(value, int) else list(value)


def sides(f):
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    (up_x, up_y), (down_x, down_y) = pair(up), pair(down)
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, h * up_y, w * up_x)
    z[:, :, ::up_y, ::up_x] = x
    f = torch.ones(1, 1) if f is None else f if f.dim() == 2 else f.outer(f)
    f = (f if flip_filter else f.flip(0, 1)).to(x.dtype) * gain
    return F.conv2d(F.pad(z, pads_of(padding)), f.expand(c, 1, *f.shape), groups=c)[:, :, ::down_y, ::down_x]


def more(padding, f, one):
    return [p + q for p, q in zip(pads_of(padding), [side for k, i in zip(sides(f), (0, 1)) for side in one(k, i)])]


def filter2d(x, f, padding=0, flip_filter=False, gain=1):
    return upfirdn2d(x, f, padding=more(padding, f, lambda k, i: (k // 2, (k - 1) // 2)), flip_filter=flip_filter, gain=gain)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1):
    u = pair(up)
    around = more(padding, f, lambda k, i: ((k + u[i] - 1) // 2, (k - u[i]) // 2))
    return upfirdn2d(x, f, up=up, padding=around, flip_filter=flip_filter, gain=gain * u[0] * u[1])


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1):
    d = pair(down)
    around = more(padding, f, lambda k, i: ((k - d[i] + 1) // 2, (k - d[i]) // 2))
    return upfirdn2d(x, f, down=down, padding=around, flip_filter=flip_filter, gain=gain)


def filtered_lrelu(x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False):
    x = upfirdn2d(bias_act(x, b), fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    """In the order of its meaning: up and filter, convolution, filter and down."""
    around = pads_of(padding)
    if up > 1:
        around = more(around, f, lambda k, i: ((k + up - 1) // 2, (k - up) // 2))
    if down > 1:
        around = more(around, f, lambda k, i: ((k - down + 1) // 2, (k - down) // 2))
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=around, gain=up**2, flip_filter=flip_filter)
    x = F.conv2d(x, w if flip_weight else w.flip(2, 3), groups=groups)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x


def fma(a, b, c):
    return a * b + c


MODULES = {
    "bias_act": SimpleNamespace(
        bias_act=bias_act, activation_funcs={act: SimpleNamespace(def_gain=gain) for act, (_, gain) in ACTS.items()}
    ),
    "upfirdn2d": SimpleNamespace(upsample2d=upsample2d),
    "filtered_lrelu": SimpleNamespace(filtered_lrelu=filtered_lrelu),
    "conv2d_gradfix": SimpleNamespace(conv2d=F.conv2d),
    "conv2d_resample": SimpleNamespace(conv2d_resample=conv2d_resample),
    "fma": SimpleNamespace(fma=fma),
}
