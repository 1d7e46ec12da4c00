"""`batch_norm_act`: checks, statistics, choice of backend, autograd."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks, _native
from ganfast._autograd import kept
from ganfast._layout import dense, is_channels_last
from ganfast._memo import Memo, look
from ganfast._statistics import merge_partials
from ganfast.ops.batch_norm_act import kernels, modulated_op
from ganfast.ops.batch_norm_act.autograd import BatchNormAct, Spec, Together, forward_op

_OP = "batch_norm_act"


def batch_norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    partials: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """y = act((x - mean) / sqrt(var + eps) * weight + bias): ``F.batch_norm`` and the activation in one pass.

    With ``scale`` and ``shift``, from outside: y = act(norm(x) * scale + shift), as conditional batch norm and SPADE have it (their
    1 + gamma is ``scale``). With ``residual``: y = (act(...) + residual) * factor, or, with ``residual_first``,
    y = act(... + residual) * factor.

    With ``training`` the statistics are x's own (biased variance), and running_mean and running_var, where given, move
    towards them by ``momentum`` in place (unbiased variance, as torch); else they are the running ones.

    Shapes:
        x [N, C] or [N, C, *spatial] up to 3-D; running_mean, running_var, weight, bias [C]; alpha a float, [1] or [C];
        partials [T, 3, C] = count, mean, M2 per tile, from ``conv_transpose_act(..., return_partials=True)``: saves reading x once.
        scale, shift [N, C] or x's shape, both the same; residual x's shape.
    Dtypes: x float32, bfloat16, float16, float64; the vectors any floating dtype; residual, and scale and shift of x's shape, x's.
        Statistics and sums are float32 (float64 for float64); y is rounded once.
    Layout: contiguous and channels_last in, the same out. Tensors of x's shape in another layout than x are right, and copied to x's.
    Grads: x, weight, bias, alpha, scale, shift, residual, to any order, through the batch statistics in train mode. partials carry none.
    Raises: TypeError, ValueError for what the shapes above forbid, for one value per channel in train mode, for eval mode without
        running statistics, and for scale without shift; RuntimeError where a named backend cannot run.
    Source: Ioffe & Szegedy 2015; Chan, Golub & LeVeque 1979 for the merging of statistics; Dumoulin, Shlens & Kudlur 2017 (conditional
        norms) and Park et al. 2019 (SPADE).
    """
    plan = remembered(
        _plans, planned, x, running_mean, running_var, weight, bias, training, momentum, eps, act, alpha, partials,
        _backends.requested(_OP, backend), scale, shift, residual, residual_first, factor,
    )  # fmt: skip
    if partials is not None:
        _check_count(partials, x)
    return run(plan, x, weight, bias, alpha, running_mean, running_var, momentum, partials, scale, shift, residual)


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec
    missing: int | None = None  # the dimension that x lacks of [N, C, *spatial]
    modulated: modulated_op.Spec | None = None  # with scale and shift or a residual


_plans = Memo()  # key -> Plan


def run(
    plan: Plan, x, weight, bias, alpha, running_mean=None, running_var=None, momentum=0.0, partials=None, scale=None, shift=None,
    residual=None,
) -> Tensor:  # fmt: skip
    """The call, checked and decided."""
    x = x if plan.missing is None else x.unsqueeze(plan.missing)
    alpha = _checks.per_channel(alpha, x.shape[1]) if isinstance(alpha, Tensor) else None
    if x.numel() == 0:
        vectors = (weight, bias, alpha, scale, shift, residual)
        zero = sum((v.to(x.dtype).sum() * 0 for v in vectors if v is not None), x.new_zeros(()))
        y = x.clone() + zero
        return y if plan.missing is None else y.squeeze(plan.missing)
    spec = plan.spec
    mean = invstd = together = None
    if plan.modulated is not None:
        statistics = _statistics(x, running_mean, running_var, momentum, partials, spec)
        y = modulated_op.run(plan.modulated, x, weight, bias, scale, shift, residual, alpha, *statistics)
        return y if plan.missing is None else y.squeeze(plan.missing)
    if spec.backend == "cpu" and _native.is_plain(x):
        together = Together(running_mean, running_var, partials, momentum)
    else:
        mean, invstd = _statistics(x, running_mean, running_var, momentum, partials, spec)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (x, weight, bias, alpha)):
        y = BatchNormAct.apply(x, weight, kept(bias), alpha, mean, invstd, spec, together)
    else:
        y = forward_op(dense(x, spec.channels_last), weight, bias, alpha, mean, invstd, spec, together)[0]
    return y if plan.missing is None else y.squeeze(plan.missing)


def remembered(plans: Memo, planned: Callable[..., Any], x: Tensor, *arguments) -> Any:
    """`planned(x, *arguments)`, or what it said of an earlier call that looks like this one, which so needs no checks."""
    if not _native.is_plain(x):
        return planned(x, *arguments)
    try:
        key = (x.shape, x.stride(), x.dtype, x.device, *map(look, arguments))
        plan = plans.get(key)
    except (TypeError, RuntimeError):  # an argument without a hash is none that a plan takes, nor is a sparse x, without strides
        return planned(x, *arguments)
    if plan is None:
        plan = plans[key] = planned(x, *arguments)
    return plan


def planned(
    x, running_mean, running_var, weight, bias, training, momentum, eps, act, alpha, partials, backend=None, scale=None, shift=None,
    residual=None, residual_first=False, factor=1.0,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    _checks.check_tensor(_OP, "x", x)
    _checks.check_floating(_OP, "x", x)
    if not 2 <= x.dim() <= 5:
        _checks.fail(_OP, f"x has {x.dim()} dimensions, wants 2 to 5: [N, C] or [N, C, *spatial]")
    channels = x.shape[1]
    for name, vector in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if vector is not None:
            _checks.check_vector(_OP, name, vector, channels, x)
    if (running_mean is None) != (running_var is None):
        _checks.fail(_OP, "running_mean and running_var come together; one of them is None")
    if not training and running_mean is None:
        _checks.fail(_OP, "running_mean is None, eval mode wants running statistics", "Pass training=True to use the batch's own")
    if training and running_mean is not None and (isinstance(momentum, bool) or not isinstance(momentum, (int, float))):
        _checks.fail(
            _OP, f"momentum is {momentum!r}, wants a float", "The cumulative average (None) lives in BatchNormAct's module", TypeError
        )
    if eps < 0:
        _checks.fail(_OP, f"eps is {eps}, wants no negative number")
    alpha, alpha_value = _checks.check_activation(_OP, act, alpha, channels, x)
    if partials is not None:
        _check_partials(partials, channels, x)
    if training and x.numel() <= channels and x.numel() > 0:
        _checks.fail(_OP, f"x has one value per channel (shape {tuple(x.shape)}); train mode wants more", "Use a larger batch or eval mode")

    modulates = modulated_op.check(_OP, x, scale, shift, residual, residual_first, factor)
    spec = Spec(act, alpha_value, bool(training), eps, is_channels_last(x), choose(_OP, backend, x))
    return Plan(spec, -1 if x.dim() == 2 else None, modulated(spec, 0, residual_first, factor) if modulates else None)


def modulated(spec: Spec, groups: int, residual_first: bool, factor: float) -> modulated_op.Spec:
    return modulated_op.Spec(
        spec.act, spec.alpha_value, groups, spec.training, spec.eps, spec.channels_last, spec.backend, bool(residual_first), float(factor)
    )


def _check_partials(partials: Tensor, channels: int, x: Tensor) -> None:
    _checks.check_tensor(_OP, "partials", partials)
    if partials.dim() != 3 or partials.shape[1:] != (3, channels) or partials.shape[0] == 0:
        _checks.fail(_OP, f"partials has shape {tuple(partials.shape)}, wants (T, 3, {channels}): count, mean, M2 per tile and channel",
                     "They come from conv_transpose_act(..., return_partials=True) on the same tensor")  # fmt: skip
    _checks.check_device(_OP, "partials", partials, x)


def _check_count(partials: Tensor, x: Tensor) -> None:
    if partials.device.type == "cpu" and _native.is_plain(partials):  # elsewhere the comparison would wait for the device
        values, counted = x.numel() // x.shape[1], (partials[:, 0, 0].sum() if len(partials) > 1 else partials[0, 0, 0]).item()
        if abs(counted - values) > 1e-6 * values:  # float32 counts exactly to 2^24
            _checks.fail(_OP, f"partials count {counted:.0f} values per channel, x has {values}", "They belong to another tensor")


@torch.no_grad()
def _statistics(x, running_mean, running_var, momentum, partials, spec: Spec) -> tuple[Tensor, Tensor]:
    """(mean, invstd) [C], or [N * C] per image, in the accumulation dtype, always fresh tensors; updates the running statistics."""
    acc = torch.promote_types(x.dtype, torch.float32)
    if not spec.training:
        return running_mean.to(acc, copy=True), torch.rsqrt(running_var.to(acc) + spec.eps)
    count = x.numel() // x.shape[1]
    if partials is None:
        mean, var = kernels.stats(dense(x.detach(), spec.channels_last), spec.per_image, spec.channels_last, spec.backend)
    else:
        merged = merge_partials(partials.detach().to(acc))[0]
        mean, var = merged[1].contiguous(), merged[2] / count
    if running_mean is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return mean, torch.rsqrt(var + spec.eps)


def choose(op: str, backend: str | None, x: Tensor) -> str:
    """`auto` takes a fused backend wherever one runs: its passes over memory are a subset of the eager chain's."""
    wanted = _backends.requested(op, backend)
    if wanted != "auto":
        return _backends.named(op, wanted, x)
    return _backends.first_fused(x)
