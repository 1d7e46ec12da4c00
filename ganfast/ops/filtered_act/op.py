"""`filtered_act`: checks, choice of backend and of what is saved, autograd."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks, _native
from ganfast._activations import ACTIVATIONS, PIECEWISE_LINEAR, SNAKE_BETA
from ganfast._autograd import kept
from ganfast._layout import dense, is_channels_last
from ganfast._memo import Memo, look
from ganfast._periodic import numbers
from ganfast.ops.filtered_act.autograd import FilteredAct, Spec, forward_op
from ganfast.ops.filtered_act.maps import Shape
from ganfast.ops.upfirdn.op import check, check_padding, factors, number_key

_OP = "filtered_act"
_NAMES = {name: name for name in (*ACTIVATIONS, SNAKE_BETA)}


def filtered_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    up_filter: Tensor | None = None,
    down_filter: Tensor | None = None,
    up: int | tuple[int, ...] = 1,
    down: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    act: str = "leaky_relu",
    alpha: float | Tensor | None = None,
    beta: float | Tensor | None = None,
    log_scale: bool = False,
    gain: float = 1.0,
    clamp: float | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> Tensor:
    """An activation without aliasing: x + bias is upsampled through ``up_filter``, activated, times ``gain``, limited to [-clamp, clamp]
    and downsampled through ``down_filter``; in one pass, without the upsampled tensor.

    It is `upfirdn(x + bias, up_filter, up=up, padding=padding, gain=up in each dimension)`, `bias_act` and `upfirdn(..., down_filter,
    down=down)`. With ``padding_mode="replicate"``, of 1-D x and ``padding`` 0, x and the activated values go on with their first and last
    value instead of zeros, and the paddings are those of `upsample` and `downsample`.

    Shapes:
        x [N, C, H, W] or [N, C, L]; bias [C]; filters [taps], of 2-D x along both dimensions, or [h, w]; None leaves x as it is.
        up, down an int, or [x, y] of 2-D x; padding of the upsampled x, as `upfirdn` takes it. alpha, beta a float, [1] or [C].
        y [N, C, *out], out = ((in * up + padding at both ends - taps + 1) - taps of the second filter) // down + 1; with "replicate"
        in * up // down.
    Dtypes: x float32, bfloat16, float16; float64 on reference, torch and cpu; y as x; all else any floating dtype. Everything between is
        float32 (float64 for float64), rounded once; `torch` rounds after each step, `triton` multiplies 16-bit x in TF32.
    Layout: contiguous and channels_last in, the same out; the latter costs a copy on each side.
    Grads: x, bias, alpha, beta, to any order; zero where clamped. The filters are constants. Kept for the backward: for linear, relu,
        leaky_relu and prelu with a float alpha two bits for each value of the upsampled x, where that is less than x; else x.
    Raises: TypeError, ValueError for what the shapes above forbid, factors below 1, a result without pixels, filters that require grad,
        a gain that is not finite, a clamp that is not positive, "replicate" with 2-D x or a padding; RuntimeError where a named backend
        cannot run (there is no `cuda`).
    Source: Karras et al. 2021, StyleGAN3: filtered_lrelu is leaky_relu 0.2 with gain sqrt(2); Lee et al. 2023, BigVGAN: Activation1d is
        snake or snake_beta between 12 taps of a Kaiser-windowed sinc, up and down by 2, "replicate".
    """
    key = plan = None
    if _native.is_plain(x):
        try:  # a call that looks like an earlier one needs no checks; what cannot be a key goes the long way
            key = (
                x.shape, x.stride(), x.dtype, x.device, look(bias), *map(_filter_key, (up_filter, down_filter)),
                *map(number_key, (up, down, padding)), act, look(alpha), look(beta), log_scale, gain, type(gain), clamp, type(clamp), flip,
                type(flip), padding_mode, _backends.requested(_OP, backend),
            )  # fmt: skip
            plan = _plans.get(key)
        except (AttributeError, TypeError, RuntimeError):  # a sparse tensor has no strides
            key = None
    if plan is None:
        options = (up, down, padding, act, alpha, beta, log_scale, gain, clamp, flip, padding_mode, backend)
        plan = planned(x, bias, up_filter, down_filter, *options)
        if key is not None:
            _plans[key] = plan
    spec = plan.spec
    if act == SNAKE_BETA or log_scale:
        alpha = numbers(_OP, act, alpha, beta, log_scale, x.shape[1], x)
    alpha = (alpha if act == SNAKE_BETA else _checks.per_channel(alpha, x.shape[1])) if isinstance(alpha, Tensor) else None
    up_filter = x.new_ones(1, dtype=plan.filters) if up_filter is None else up_filter
    down_filter = x.new_ones(1, dtype=plan.filters) if down_filter is None else down_filter
    if x.shape[0] == 0 or x.shape[1] == 0:
        return x.new_empty(*x.shape[:2], *plan.size) + sum(t.to(x.dtype).sum() * 0 for t in (x, bias, alpha) if t is not None)
    x = dense(x, spec.channels_last)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, bias, alpha)):
        if down_filter is up_filter and torch.compiler.is_compiling():  # dynamo takes no tensor twice
            down_filter = down_filter.view_as(down_filter)
        y = FilteredAct.apply(x, bias if spec.signs else kept(bias), alpha, up_filter, down_filter, spec)
        return y[0] if spec.signs else y
    return forward_op(x, bias, alpha, up_filter, down_filter, spec)[0]


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec
    size: tuple[int, ...]
    filters: torch.dtype  # of those that are not given


_plans = Memo()  # key -> Plan


def _filter_key(filter: Tensor | None) -> tuple:
    return look(filter), filter is not None and filter.requires_grad


def planned(
    x, bias=None, up_filter=None, down_filter=None, up=1, down=1, padding=0, act="leaky_relu", alpha=None, beta=None, log_scale=False,
    gain=1.0, clamp=None, flip=False, padding_mode="zeros", backend=None,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    _checks.check_tensor(_OP, "x", x)
    acc = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
    one = x.new_ones(1, dtype=acc)
    up_filter, down_filter = one if up_filter is None else up_filter, one if down_filter is None else down_filter
    dims = check(_OP, x, up_filter, "up_filter")
    check(_OP, x, down_filter, "down_filter")
    channels = x.shape[1]
    if bias is not None:
        _checks.check_vector(_OP, "bias", bias, channels, x)
    if not isinstance(act, str) or act not in _NAMES:
        _checks.nearest(_OP, "act", act, _NAMES)
    if act == SNAKE_BETA or beta is not None or log_scale:
        alpha = numbers(_OP, act, alpha, beta, log_scale, channels, x)
    alpha, alpha_value = (alpha, 0.0) if act == SNAKE_BETA else _checks.check_activation(_OP, act, alpha, channels, x)
    gain = _checks.check_number(_OP, "gain", gain)
    if clamp is not None and (clamp := _checks.check_number(_OP, "clamp", clamp)) <= 0:
        _checks.fail(_OP, f"clamp is {clamp}, wants a positive number or None", "For no clamp pass None")
    if not isinstance(flip, bool):
        _checks.fail(_OP, f"flip is {flip!r}, wants a bool", error=TypeError)
    if padding_mode not in ("zeros", "replicate"):
        _checks.nearest(_OP, "padding_mode", padding_mode, ("zeros", "replicate"))
    before, after = check_padding(_OP, padding, dims)
    replicate, up, down = padding_mode == "replicate", factors(_OP, "up", up, dims), factors(_OP, "down", down, dims)
    if replicate:
        if dims != 1 or any(before + after):
            given = f"x of {dims} spatial dimensions" if dims != 1 else f"padding {padding!r}"
            _checks.fail(_OP, f"padding_mode 'replicate' was given with {given}, wants [N, C, L] and padding 0", "Sizes are kept by itself")
        taps = up_filter.shape[0]
        before, after = ((taps + up[0] - 1) // 2,), ((taps - up[0]) // 2,)
    shape = Shape(up, down, before, after, flip, replicate)
    middle = shape.first(up_filter).size(tuple(x.shape[2:]))
    size = shape.second(down_filter).size(middle)
    if min(*middle, *size, *x.shape[2:]) <= 0:
        _checks.fail(_OP, f"nothing is left: x of {tuple(x.shape[2:])} has {middle} values when upsampled and padded, then {size}",
                     "More padding, or shorter filters")  # fmt: skip
    wanted = _backends.requested(_OP, backend)
    if wanted == "cuda":
        _checks.fail(_OP, "backend 'cuda' cannot run: it has no filtered_act; triton has", error=RuntimeError)
    chosen = _automatic(x) if wanted == "auto" else _backends.named(_OP, wanted, x)
    linear = act in ("linear", *PIECEWISE_LINEAR) and alpha is None
    bytes_ = math.prod(middle[:-1]) * ((middle[-1] + 3) // 4)
    signs = linear and not replicate and bytes_ < math.prod(x.shape[2:]) * x.itemsize
    return Plan(Spec(shape, act, alpha_value, gain, clamp, signs, is_channels_last(x), chosen), size, acc)


def _automatic(x: Tensor) -> str:
    chosen = _backends.first_fused(x)
    return "torch" if chosen == "cuda" else chosen
