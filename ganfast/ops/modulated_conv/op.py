"""`modulated_conv`: checks, what the options come to, the steps one after the other."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks, _native
from ganfast._autograd import autocast_dtype, kept, no_autocast
from ganfast._layout import dense, dense_weight, is_channels_last
from ganfast._memo import Memo, look
from ganfast.ops.conv_act.op import conv_act
from ganfast.ops.conv_transpose_act.op import conv_transpose_act
from ganfast.ops.modulated_conv import kernels, reference
from ganfast.ops.modulated_conv.autograd import Few, Finish, Prepare, Scale, Spec
from ganfast.ops.modulated_conv.route import Route, route
from ganfast.ops.upfirdn.op import upfirdn

_OP = "modulated_conv"


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    up: int = 1,
    down: int = 1,
    filter: Tensor | None = None,
    padding: int | Sequence[int] = 0,
    flip: bool = True,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    gain: float = 1.0,
    clamp: float | None = None,
    eps: float = 1e-8,
    backend: str | None = None,
) -> Tensor:
    """A convolution whose weight every image scales along its input channels, by its row of ``style``, and, with ``demodulate``, divides
    by the norm that it then has for each output channel; and what follows it in a layer: y = act(that + noise + bias) * gain, limited to
    [-clamp, clamp]. One weight serves all images: x is scaled before the convolution, its result after it, in one pass with noise, bias
    and activation.

    With ``up`` zeros come between the pixels of x, ``padding`` around that, then ``filter`` times up**2, then the convolution; with
    ``down`` every down-th result is kept, and the filter comes before the convolution too. The steps take the order that costs least.

    Shapes:
        x [N, Cin, H, W]; weight [Cout, Cin, kh, kw]; style [N, Cin]; bias [Cout]; alpha a float, [1] or [Cout].
        filter [taps], along both dimensions one after the other, or [h, w]; None: none; not used where up and down are 1.
        padding of the upsampled x, in its pixels, negative to cut off: an int, [x, y] or [left, right, top, bottom]. The filter's own
        border, which keeps the picture where it is, comes on top: with an odd kernel of k and a padding of k // 2 y is up or 1/down times
        x's size.
        noise, already times its strength, broadcasts to [N, 1, Hout, Wout]; y [N, Cout, Hout, Wout].
    Dtypes: x float32, bfloat16, float16; float64 on reference, torch and cpu; y as x, or what autocast casts x to. All else any floating
        dtype: the weight is rounded to x's, the others are not. ``eps`` is added to the sum of squares of weight times style, in every
        dtype the same. 16 bits are safe with ``demodulate`` and without: with it weight and styles are divided by their largest entries
        first, for each output channel and each image, the weight by the root of Cin * kh * kw too; without it, in float16, a power of two
        for each input channel moves from the styles to the weight. So no style overflows where the weight times the style would not; in
        float16's gradients one image's styles may, where another's are far larger and nothing is demodulated.
    Layout: channels_last out where x or the weight is channels_last; else contiguous.
    Grads: x, weight, style, noise, bias, alpha, to any order. The filter is a constant.
    Raises: TypeError, ValueError for what the shapes above forbid, factors below 1 or both above, a result without pixels; RuntimeError
        where a named backend cannot run.
    Source: Karras et al. 2020, section 2.2 and equations 1 to 3; arguments as their published interface has them, ``flip`` its flip_weight:
        True is a correlation, as torch's convolutions, False a convolution. The filter is a convolution.
    """
    key = plan = None
    if _native.is_plain(x):
        try:  # a call that looks like an earlier one needs no checks; what cannot be a key goes the long way
            key = (
                x.shape, x.stride(), x.dtype, x.device, weight.stride(), *map(look, (weight, style, filter, noise, bias, alpha)),
                filter is not None and filter.requires_grad, *map(_typed, (demodulate, up, down, flip, act, gain, clamp, eps)),
                _typed(padding), _backends.requested(_OP, backend), autocast_dtype(x),
            )  # fmt: skip
            plan = _plans.get(key)
        except (AttributeError, TypeError, RuntimeError):  # a sparse tensor has no strides
            key = None
    if plan is None:
        plan = planned(x, weight, style, demodulate, up, down, filter, padding, flip, noise, bias, act, alpha, gain, clamp, eps, backend)
        if key is not None:
            _plans[key] = plan
    with no_autocast(x):
        return run(plan, x, weight, style, filter, noise, bias, alpha)


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec
    route: Route
    demodulate: bool
    eps: float
    channels: int
    dtype: torch.dtype  # of x, after autocast
    folds: bool  # the styles into weights of each image's own
    backend: str  # as it was asked for


_plans = Memo()  # key -> Plan
_FEW_CHANNELS = 8  # of the result, at most, for weights of each image's own


def _typed(value: object) -> tuple:
    """As a part of a key, in which 1, 1.0 and True are three."""
    return (type(value), *value, *map(type, value)) if isinstance(value, (list, tuple)) else (type(value), value)


def run(plan: Plan, x, weight, style, filter, noise, bias, alpha) -> Tensor:
    """The call, checked and decided."""
    spec, way = plan.spec, plan.route
    acc = torch.promote_types(plan.dtype, torch.float32)
    size = (x.shape[0], plan.channels, *way.size)
    if x.shape[0] == 0:
        learns = (t for t in (x, weight, style, noise, bias, alpha) if isinstance(t, Tensor))
        return x.new_empty(size, dtype=plan.dtype) + sum(t.sum() * 0 for t in learns).to(plan.dtype)
    x, style = dense(x.to(plan.dtype), spec.channels_last), style.to(acc)
    weight, style, d = _weight_and_styles(plan, weight, style)
    learns = torch.is_grad_enabled()
    if plan.folds:
        each = weight.flatten(1).to(acc) * style[:, None]
        few = Few.apply if learns and _any(x, each) else kernels.few_fwd
        t = few(x, each, spec.channels_last)
    else:
        x = Scale.apply(x, style, spec) if learns and _any(x, style) else kernels.scale_fwd(x, style, spec.channels_last, spec.backend)
        t = _convolved(plan, x, weight, filter)
    noise = None if noise is None else noise.to(acc).expand(size[0], 1, *size[2:]).contiguous()
    bias, alpha = kept(bias), _checks.per_channel(alpha, plan.channels) if isinstance(alpha, Tensor) else None
    if learns and _any(t, d, noise, bias, alpha):
        y = Finish.apply(t, d, noise, bias, alpha, spec)
    else:
        y = kernels.finish_fwd_(t, d, noise, bias, alpha, *spec)
    _backends.ran[_OP] = spec.backend
    return y


def _any(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _weight_and_styles(plan: Plan, weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """(the weight as the convolution takes it, the styles that scale x, what its result is multiplied by [N, Cout] or None). The largest
    entries are constants here: y does not depend on them, so its derivative by way of them is zero."""
    dtype, way = style.dtype if plan.folds and not plan.demodulate else plan.dtype, plan.route
    weight = dense_weight(weight if weight.dtype in (dtype, style.dtype) else weight.to(style.dtype))
    scale, eps = None, plan.eps
    if plan.demodulate and dtype.itemsize == 2:
        zero_as = eps**0.5 or 1.0  # of only zeros: their gradient is in scale too
        of_style = _or(style.detach().abs().amax(1, keepdim=True), zero_as)
        of_weight = _or(weight[0].numel() ** 0.5 * weight.detach().abs().amax((1, 2, 3)).to(style.dtype), zero_as)
        style, scale = style / of_style, of_weight.reciprocal()
        # in the scale of what is divided; the bounds keep its square, and d to the third power, in float32
        eps = (scale * eps**0.5 / of_style).clamp(1e-12, 1e18).square()
    elif dtype == torch.float16:
        # A channel's power of two above its styles goes to the weight, but for what would make that overflow: x times the rest is no larger
        # than x where the weight times the style is finite. Of what is infinite the exponent is 0: it stays where it is.
        exponent = lambda t: torch.frexp(t.to(style.dtype)).exponent
        room = 15 - exponent(weight.detach().abs().amax((0, 2, 3)))
        power = torch.minimum(exponent(style.detach().abs().amax(0)), room).clamp(-126, 126).to(style.dtype).exp2()
        style, weight = style / power, weight.to(style.dtype) * power[:, None, None]
    if not plan.demodulate and not plan.folds and reference.is_itself(weight, scale, way.transposed, way.turn, dtype):
        return weight, style, None
    if torch.is_grad_enabled() and weight.requires_grad:
        weight, q = Prepare.apply(weight, scale, way.transposed, way.turn, dtype, plan.spec.backend)
    else:
        w, q = kernels.prepare_fwd(weight, scale, way.transposed, way.turn, dtype, plan.spec.backend)
        weight = w if w.numel() else weight
    d = (style.square() @ q.t() + eps).rsqrt() if plan.demodulate else None
    return weight, style, d


def _or(largest: Tensor, zero_as: float) -> Tensor:
    """What to divide by; also in place of what has no reciprocal."""
    return largest.masked_fill(largest < torch.finfo(largest.dtype).tiny, zero_as)


def _convolved(plan: Plan, x: Tensor, weight: Tensor, filter: Tensor | None) -> Tensor:
    """The scaled x through filter and convolution."""
    way = plan.route
    one = x.new_ones(1, dtype=torch.float32) if filter is None or not way.filters else None
    if way.before is not None:
        x = upfirdn(x, filter if one is None else one, **way.before, backend=plan.backend)
    if way.transposed:
        x = conv_transpose_act(x, weight, stride=way.stride, backend=plan.backend)
    else:
        x = conv_act(x, weight, stride=way.stride, padding=way.padding, backend=plan.backend)
    if way.after is not None:
        x = upfirdn(x, filter if one is None else one, **way.after, backend=plan.backend)
    return dense(x, plan.spec.channels_last)


def planned(
    x, weight, style, demodulate=True, up=1, down=1, filter=None, padding=0, flip=True, noise=None, bias=None, act="linear", alpha=None,
    gain=1.0, clamp=None, eps=1e-8, backend=None,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    for name, tensor, shape in (("x", x, "[N, Cin, H, W]"), ("weight", weight, "[Cout, Cin, kh, kw]"), ("style", style, "[N, Cin]")):
        _checks.check_tensor(_OP, name, tensor)
        if tensor.dim() != shape.count(",") + 1:
            _checks.fail(_OP, f"{name} has shape {tuple(tensor.shape)}, wants {shape}")
        _checks.check_floating(_OP, name, tensor)
        _checks.check_device(_OP, name, tensor, x)
    n, c_in = x.shape[:2]
    c_out = weight.shape[0]
    if weight.shape[1] != c_in:
        cause = "Transposed weights are stored [Cin, Cout, ...], this wants a convolution's" if c_out == c_in else ""
        _checks.fail(_OP, f"weight expects Cin={weight.shape[1]}, x has {c_in} channels", cause)
    if 0 in weight.shape or 0 in x.shape[1:]:
        _checks.fail(_OP, f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}, wants no empty dimension but N")
    if tuple(style.shape) != (n, c_in):
        cause = "Styles of the mapping network go through the layer's affine first" if style.shape[0] == n else ""
        _checks.fail(_OP, f"style has shape {tuple(style.shape)}, wants {(n, c_in)}, one entry for each input channel of each image", cause)
    for name, value in (("demodulate", demodulate), ("flip", flip)):
        if not isinstance(value, bool):
            _checks.fail(_OP, f"{name} is {value!r}, wants a bool", error=TypeError)
    way = route(_OP, x, weight, up, down, filter, padding, flip)
    if noise is not None:
        _check_noise(noise, (n, 1, *way.size), x)
    if bias is not None:
        _checks.check_vector(_OP, "bias", bias, c_out, x, "output channels")
    alpha, alpha_value = _checks.check_activation(_OP, act, alpha, c_out, x)
    gain = _checks.check_number(_OP, "gain", gain, "A gain that learns is a multiplication of its own")
    if clamp is not None and (clamp := _checks.check_number(_OP, "clamp", clamp)) <= 0:
        _checks.fail(_OP, f"clamp is {clamp}, wants a positive number, the bound on |y|, or None", "For no clamp pass None")
    if (eps := _checks.check_number(_OP, "eps", eps)) < 0:
        _checks.fail(_OP, f"eps is {eps}, wants no negative number")
    cast = autocast_dtype(x)
    dtype = x.dtype if cast is None or x.dtype == torch.float64 else cast
    wanted = _backends.requested(_OP, backend)
    if wanted == "cuda":
        _checks.fail(_OP, "backend 'cuda' cannot run: it has no modulated_conv; triton has", error=RuntimeError)
    chosen = _backends.first_fused(x, dtype) if wanted == "auto" else _backends.named(_OP, wanted, x, dtype)
    chosen = "torch" if chosen == "cuda" else chosen
    spec = Spec(act, alpha_value, gain, clamp, is_channels_last(x, weight), chosen)
    plain = way.stride == 1 and way.before is way.after is None and way.padding == (0, 0)
    folds = chosen == "cpu" and plain and weight[0, 0].numel() == 1 and c_out <= _FEW_CHANNELS
    return Plan(spec, way, demodulate, eps, c_out, dtype, folds, wanted)


def _check_noise(noise: object, shape: tuple[int, ...], x: Tensor) -> None:
    _checks.check_tensor(_OP, "noise", noise)
    _checks.check_floating(_OP, "noise", noise)
    _checks.check_device(_OP, "noise", noise, x)
    given = (1,) * (4 - noise.dim()) + tuple(noise.shape)
    if len(given) != 4 or any(g not in (1, s) for g, s in zip(given, shape)):
        cause = "All channels share it" if len(given) == 4 and given[1] != 1 else "It is as large as y, not as x"
        _checks.fail(_OP, f"noise has shape {tuple(noise.shape)}, wants one that broadcasts to {shape}", cause)
