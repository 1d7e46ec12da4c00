"""`upsample_conv_act`: nearest upsampling and a stride-1 convolution as one transposed convolution."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _backends, _checks, _native, _tune, _tune_check
from ganfast._autograd import savable
from ganfast._layout import is_channels_last
from ganfast._memo import Memo
from ganfast.ops.conv_act.op import conv_act
from ganfast.ops.conv_transpose_act.arguments import check, check_residual
from ganfast.ops.conv_transpose_act.op import conv_transpose_act

_OP = "upsample_conv_act"


@functools.lru_cache(maxsize=64)
def _fold_matrix(kernel: tuple[int, ...], scale: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """[prod k, prod (k + scale - 1)] of zeros and ones: which taps of the convolution each transposed tap adds up."""
    matrix = torch.ones(1, 1, dtype=dtype)
    for k, s in zip(kernel, scale):
        sums = torch.arange(k)[:, None] + torch.arange(k + s - 1) - (k - 1)
        matrix = torch.kron(matrix, ((sums >= 0) & (sums < s)).to(dtype))
    return matrix


def fold_weight(weight: Tensor, scale: tuple[int, ...], groups: int) -> Tensor:
    """Conv weight [Cout, Cin/groups, *k] -> transposed weight [Cin, Cout/groups, *(k + scale - 1)], in weight's dtype.

    Tap t of an axis is the sum of the taps k with 0 <= t + k - (K - 1) < scale: those that read the same input pixel for one
    of the output pixels under it. Sums are float32, rounded once: on a CPU one matrix product; elsewhere plain additions, so that
    no TF32 switch touches a weight.
    """
    kernel, c_out = weight.shape[2:], weight.shape[0]
    size = [k + s - 1 for k, s in zip(kernel, scale)]
    folded = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if weight.device.type == "cpu":
        folded = (folded.flatten(2) @ _fold_matrix(tuple(kernel), tuple(scale), folded.dtype)).unflatten(2, size)
    else:
        folded = folded.flip(list(range(2, weight.dim())))
        for axis, s in zip(range(2, weight.dim()), scale):
            border = [0, 0] * (weight.dim() - 1 - axis) + [s - 1, s - 1]
            padded, length = F.pad(folded, border), folded.shape[axis] + s - 1
            folded = sum((padded.narrow(axis, m, length) for m in range(1, s)), padded.narrow(axis, 0, length))
    folded = folded.to(weight.dtype).unflatten(0, (groups, c_out // groups)).transpose(1, 2).flatten(0, 1)
    if weight.device.type == "cpu":
        return folded.contiguous()
    # Channels last: what the GPU kernels read without another copy.
    return folded.contiguous(memory_format=(torch.contiguous_format, torch.channels_last, torch.channels_last_3d)[len(kernel) - 1])


class Plan(NamedTuple):
    """What a call's shapes, layouts and options decide. way: "folded" into a transposed convolution, or "plain", the two modules as they
    are: for weights that outweigh the image, which folding reads and writes more than it saves."""

    scale: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    act: str
    return_partials: bool
    backend: str | None
    open_output: bool
    way: str
    final: bool  # False while the tuner could not measure
    residual_first: bool = False
    factor: float = 1.0


def run(
    plan: Plan, x, weight, bias, alpha, plain: Callable | None = None, folded: Callable | None = None, residual: Tensor | None = None
):
    """The call, checked and decided. plain, folded: in place of the convolutions that it is made of."""
    options = {"groups": plan.groups, "act": plan.act, "alpha": alpha, "backend": plan.backend, "open_output": plan.open_output}
    if residual is not None:
        options |= {"residual": residual, "residual_first": plan.residual_first, "factor": plan.factor}
    if plan.way == "plain":
        y = (plain or conv_act)(F.interpolate(x, scale_factor=plan.scale), weight, bias, padding=plan.padding, **options)
    else:
        padding = tuple(k - 1 - p for k, p in zip(weight.shape[2:], plan.padding))
        options |= {"stride": plan.scale, "padding": padding, "return_partials": plan.return_partials}
        y = (folded or conv_transpose_act)(x, fold_weight(weight, plan.scale, plan.groups), bias, **options)
    _backends.ran[_OP] = _backends.ran.get("conv_act" if plan.way == "plain" else "conv_transpose_act", "")
    return y


_settled = Memo()


def _decided(plan: Plan, x, weight, bias, alpha) -> Plan:
    """With the tuner's way: for the forward, and the backward where one may follow."""
    scale, padding, groups, act = plan[:4]
    if x.numel() == 0 or any(2 * p >= k for p, k in zip(padding, weight.shape[2:])):
        return plan  # folded: it says what is wrong, if anything; torch's weight gradient is not safe for such padding on a CPU
    rule = "folded" if x.shape[0] * x[0, 0].numel() >= 256 else "plain"
    if not _native.is_plain(x) or x.device.type != "cpu":
        return plan._replace(way="folded" if x.device.type != "cpu" else rule)
    learns = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (x, weight, bias, alpha))
    off = _tune.off_reason()
    key = (x.shape, x.stride(), x.dtype, weight.shape, weight.stride(), scale, padding, groups, act, learns, off)
    if (known := _settled.get(key)) is not None:
        return plan._replace(way=known)
    own = [savable(t).detach().requires_grad_(learns) if isinstance(t, Tensor) else t for t in (x, weight, bias, alpha)]
    gradient = _tune_check.Cotangent()

    def exact(shaken: bool) -> list[Tensor]:
        formula = lambda *own: run(plan._replace(way="plain", backend="reference"), *own)
        double = [_tune_check.in_double(t, x.dtype if shaken else None) if isinstance(t, Tensor) else t for t in own]
        return _tune_check.trial(formula, double, learns, gradient)

    sizes = f"w {tuple(weight.shape)} x{scale} p{padding} g{groups} {x.dtype}".replace("torch.", "")
    layout = f"{'nhwc' if is_channels_last(x) else 'nchw'}, {act}{', with gradients' if learns else ''}"
    ways = dict.fromkeys([rule, "folded", "plain"])
    call = lambda way: _tune_check.trial(functools.partial(run, plan._replace(way=way)), own, learns, gradient)
    calls = {way: functools.partial(call, way) for way in ways}
    check = _tune_check.Ways(own, exact, x.dtype)
    way, final = _tune.choose(f"{_OP} x {tuple(x.shape)} {sizes} {layout}", calls, x, f"{_OP} {sizes} {layout}", check)
    if final:
        _settled[key] = way
    return plan._replace(way=way, final=final)


def upsample_conv_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_factor: int | tuple[int, ...] = 2,
    padding: int | tuple[int, ...] = 1,
    groups: int = 1,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    return_partials: bool = False,
    backend: str | None = None,
    open_output: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = act(conv(nearest_upsample(x, scale_factor), weight) + bias), in one pass that never makes the upsampled image.

    ``act(F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1))`` with 2.25 times fewer multiplications: the
    taps that read the same input pixel are added into a k4 s2 p1 transposed convolution first, on the fly.

    Shapes:
        x [N, Cin, *in] or unbatched [Cin, *in]; weight [Cout, Cin/groups, *k], 1-D to 3-D, as nn.Conv's; bias [Cout];
        alpha a float, [1] or [Cout]. y and residual [N, Cout, *out], out = in*scale_factor + 2*padding - k + 1.
        With ``return_partials``: (y, partials) as in ``conv_transpose_act``.
    Dtypes, Layout: as ``conv_transpose_act``; 16-bit weights are added in float32 and rounded once.
    Grads: x, weight, bias, alpha, residual, to any order.
    ``residual``, ``residual_first``, ``factor`` and ``open_output`` as in ``conv_transpose_act``.
    Raises: TypeError, ValueError for what the shapes above forbid and for a padding of k or more; RuntimeError where a named
        backend cannot run.
    Source: Odena, Dumoulin & Olah 2016 (resize-convolution); the fold is derived in README.md in this folder.
    """
    plan = planned(
        x, weight, bias, scale_factor, padding, groups, act, alpha, return_partials, backend, open_output, residual, residual_first, factor
    )
    return run(plan, x, weight, bias, alpha, residual=residual)


def planned(
    x, weight, bias, scale_factor=2, padding=1, groups=1, act="linear", alpha=None, return_partials=False, backend=None, open_output=False,
    residual=None, residual_first=False, factor=1.0,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    seen, weight, bias, _, _, _, cast, unbatched = check(_OP, x, weight, bias, groups, act, alpha, transposed=False)
    dims = weight.dim() - 2
    scale = tuple(_checks.int_list(_OP, "scale_factor", scale_factor, dims, 1))
    pads = tuple(_checks.int_list(_OP, "padding", padding, dims, 0))
    for k, p in zip(weight.shape[2:], pads):
        if p >= k:
            _checks.fail(
                _OP, f"padding is {padding!r}, wants less than the kernel's {k}", "Rows of nothing but bias would surround the image"
            )
    sizes = [i * s + 2 * p - k + 1 for i, s, p, k in zip(seen.shape[-dims:], scale, pads, weight.shape[2:])]
    shape = (*(() if unbatched else seen.shape[:1]), weight.shape[0], *sizes)
    _, factor = check_residual(_OP, residual, shape, seen, cast, residual_first, factor)
    plan = Plan(scale, pads, groups, act, return_partials, backend, open_output, "folded", True, residual_first, factor)
    choosing = not return_partials and not unbatched and cast is None and _backends.requested(_OP, backend) == "auto"
    return _decided(plan, x, weight, bias, alpha) if choosing else plan
