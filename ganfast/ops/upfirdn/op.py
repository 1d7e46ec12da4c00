"""`upfirdn` and its three usual forms: checks, choice of backend, autograd."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks, _native
from ganfast._layout import dense, is_channels_last
from ganfast._memo import Memo, look
from ganfast.ops.upfirdn.autograd import Spec, Upfirdn, forward_op
from ganfast.ops.upfirdn.geometry import Geometry

_OP = "upfirdn"
_Factor = int | Sequence[int]


def upfirdn(
    x: Tensor,
    filter: Tensor,
    *,
    up: _Factor = 1,
    down: _Factor = 1,
    padding: _Factor = 0,
    flip: bool = False,
    gain: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """Every channel resampled: ``up - 1`` zeros after every value, zeros at the borders, a convolution with ``filter``, every down-th
    result kept, times ``gain``; in one pass, without the upsampled tensor.

    Shapes:
        x [N, C, H, W] or [N, C, L]. filter [taps], of 2-D x along both dimensions one after the other, or [h, w].
        up, down an int, or [x, y] of 2-D x. padding of the upsampled x, in its pixels, negative to cut off: an int; [left, right] of 1-D x;
        [x, y] or [left, right, top, bottom] of 2-D x.
        y [N, C, *out], out = (in * up + padding at both ends - taps) // down + 1.
    Dtypes: x float32, bfloat16, float16; float64 on reference, torch and cpu; y as x. filter any floating dtype. Sums are float32 (float64
        for float64) and rounded once, but by `torch`, and for long separable filters by `triton` and `cuda`, which round between both
        dimensions. Autocast casts nothing.
    Layout: contiguous and channels_last in, the same out.
    Grads: x, to any order: the same pass with up and down exchanged. The filter is a constant.
    Raises: TypeError, ValueError for what the shapes above forbid, for factors below 1, for a result without pixels and for a filter that
        requires grad; RuntimeError where a named backend cannot run.
    Source: Karras et al. 2019 and 2020, whose networks resample so; ``flip`` as in their published interface: False is a convolution,
        which reads the filter from its end, True a correlation. Crochiere & Rabiner 1983 for the polyphase form.
    """
    key = plan = None
    if _native.is_plain(x):
        try:  # a call that looks like an earlier one needs no checks; what cannot be a key goes the long way
            key = (
                x.shape, x.stride(), x.dtype, x.device, look(filter), filter.requires_grad, *map(number_key, (up, down, padding)), flip,
                type(flip), gain, type(gain), _backends.requested(_OP, backend),
            )  # fmt: skip
            plan = _plans.get(key)
        except (AttributeError, TypeError, RuntimeError):  # a sparse tensor has no strides
            key = None
    if plan is None:
        plan = planned(x, filter, up, down, padding, flip, gain, backend)
        if key is not None:
            _plans[key] = plan
    spec = plan.spec
    if x.shape[0] == 0 or x.shape[1] == 0:
        return x.new_empty(*x.shape[:2], *plan.size) + x.sum() * 0
    x = dense(x, spec.channels_last)
    if torch.is_grad_enabled() and x.requires_grad:
        return Upfirdn.apply(x, filter, spec)
    return forward_op(x, filter, spec)


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec
    size: tuple[int, ...]


_plans = Memo()  # key -> Plan


def number_key(value: object) -> tuple:
    """As a part of a key, in which 1, 1.0 and True are three."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    return type(value) in (list, tuple), *values, *map(type, values)


def planned(x, filter, up=1, down=1, padding=0, flip=False, gain=1.0, backend=None) -> Plan:
    """Every check, then every decision."""
    dims = check(_OP, x, filter)
    if not isinstance(flip, bool):
        _checks.fail(_OP, f"flip is {flip!r}, wants a bool", error=TypeError)
    gain = _checks.check_number(_OP, "gain", gain)
    before, after = check_padding(_OP, padding, dims)
    taps = tuple(filter.shape) if filter.dim() == dims else tuple(filter.shape) * dims
    geometry = Geometry(factors(_OP, "up", up, dims), factors(_OP, "down", down, dims), before, after, taps, flip)
    size = geometry.size(x.shape[2:])
    if any(n <= 0 for n in size) or 0 in x.shape[2:]:
        large = tuple(n * u + b + a for n, u, b, a in zip(x.shape[2:], geometry.up, before, after))
        _checks.fail(_OP, f"nothing is left: {taps} taps on {large} pixels, x of {tuple(x.shape[2:])} after up and padding",
                     "More padding, or a shorter filter")  # fmt: skip
    wanted = _backends.requested(_OP, backend)
    chosen = _backends.first_fused(x) if wanted == "auto" else _backends.named(_OP, wanted, x)
    return Plan(Spec(geometry, gain, is_channels_last(x), chosen), size)


def check(op: str, x: object, filter: object, name: str = "filter") -> int:
    """Dimensions of x, whose filter has as many or one."""
    _checks.check_tensor(op, "x", x)
    _checks.check_floating(op, "x", x)
    if x.dim() not in (3, 4):
        _checks.fail(op, f"x has shape {tuple(x.shape)}, wants [N, C, L] or [N, C, H, W]")
    dims = x.dim() - 2
    _checks.check_tensor(op, name, filter)
    _checks.check_floating(op, name, filter)
    _checks.check_device(op, name, filter, x)
    if filter.dim() not in (1, dims) or 0 in filter.shape:
        wants = "[taps]" if dims == 1 else "[taps] or [h, w]"
        _checks.fail(op, f"{name} has shape {tuple(filter.shape)}, wants {wants} of at least one tap")
    if filter.requires_grad:
        _checks.fail(op, f"{name} requires grad, and is a constant here", f"Pass {name}.detach(), or learn it as a convolution's weight")
    return dims


def factors(op: str, name: str, value: object, dims: int) -> tuple[int, ...]:
    """In memory order; the published order of a pair is [x, y]."""
    return tuple(reversed(_checks.int_list(op, name, value, dims, 1)))


def check_padding(op: str, value: object, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before, after) along each dimension, in memory order."""
    values = [value] if isinstance(value, int) else value
    wants = "an int, [left, right]" if dims == 1 else "an int, [x, y] or [left, right, top, bottom]"
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        _checks.fail(op, f"padding is {value!r}, wants {wants}", error=TypeError)
    if not all(-_checks.LARGEST <= v <= _checks.LARGEST for v in values):
        _checks.fail(op, f"padding is {value!r}, wants at most {_checks.LARGEST} to either side")
    if len(values) == 1:
        values = list(values) * 2 * dims
    elif len(values) == 2 and dims == 2:
        values = [values[0], values[0], values[1], values[1]]
    if len(values) != 2 * dims:
        _checks.fail(op, f"padding has {len(values)} entries, wants {wants}")
    pairs = list(reversed(list(zip(values[::2], values[1::2]))))
    return tuple(b for b, _ in pairs), tuple(a for _, a in pairs)


def _usual(op: str, x: Tensor, filter: Tensor, padding: _Factor, around) -> list[int]:
    """The padding [left, right, (top, bottom)] that keeps the picture where it is, and the caller's on top; `around(taps, dimension)`."""
    dims = check(op, x, filter)
    before, after = check_padding(op, padding, dims)
    taps = filter.shape if filter.dim() == dims else filter.shape * dims
    own = [around(k, d) for d, k in enumerate(taps)]
    return [n for d in reversed(range(dims)) for n in (before[d] + own[d][0], after[d] + own[d][1])]


def upsample(
    x: Tensor, filter: Tensor, *, up: _Factor = 2, padding: _Factor = 0, flip: bool = False, gain: float = 1.0, backend: str | None = None
) -> Tensor:
    """`upfirdn` to ``up`` times the size, the mean kept: the zeros between are made up for by a gain of up in each dimension.

    Shapes: as `upfirdn`'s; y [N, C, *in * up], with ``padding`` 0. Dtypes, Layout, Grads, Raises: as `upfirdn`'s.
    Source: the published interface's upsample2d, its paddings and gain.
    """
    each = factors("upsample", "up", up, check("upsample", x, filter))
    around = _usual("upsample", x, filter, padding, lambda k, d: ((k + each[d] - 1) // 2, (k - each[d]) // 2))
    return upfirdn(x, filter, up=up, padding=around, flip=flip, gain=gain * math.prod(each), backend=backend)


def downsample(
    x: Tensor, filter: Tensor, *, down: _Factor = 2, padding: _Factor = 0, flip: bool = False, gain: float = 1.0, backend: str | None = None
) -> Tensor:
    """`upfirdn` to a down-th of the size.

    Shapes: as `upfirdn`'s; y [N, C, *in // down], with ``padding`` 0 and sizes that ``down`` divides. Dtypes, Layout, Grads, Raises: as
    `upfirdn`'s.
    Source: the published interface's downsample2d, its paddings.
    """
    each = factors("downsample", "down", down, check("downsample", x, filter))
    around = _usual("downsample", x, filter, padding, lambda k, d: ((k - each[d] + 1) // 2, (k - each[d]) // 2))
    return upfirdn(x, filter, down=down, padding=around, flip=flip, gain=gain, backend=backend)


def filter(
    x: Tensor, filter: Tensor, *, padding: _Factor = 0, flip: bool = False, gain: float = 1.0, backend: str | None = None
) -> Tensor:
    """`upfirdn` at the same size.

    Shapes: as `upfirdn`'s; y as x, with ``padding`` 0. Dtypes, Layout, Grads, Raises: as `upfirdn`'s.
    Source: the published interface's filter2d, its paddings.
    """
    around = _usual("filter", x, filter, padding, lambda k, d: (k // 2, (k - 1) // 2))
    return upfirdn(x, filter, padding=around, flip=flip, gain=gain, backend=backend)
