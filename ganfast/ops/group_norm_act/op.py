"""`group_norm_act`: checks, choice of backend, autograd."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks
from ganfast._autograd import kept
from ganfast._layout import dense, is_channels_last
from ganfast._memo import Memo
from ganfast.ops.batch_norm_act import modulated_op
from ganfast.ops.batch_norm_act.op import choose, remembered
from ganfast.ops.group_norm_act import kernels
from ganfast.ops.group_norm_act.autograd import GroupNormAct, Spec, forward_op

_OP = "group_norm_act"


def group_norm_act(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """y = act((x - mean) / sqrt(var + eps) * weight + bias), mean and biased variance of each image's each group of C / groups channels:
    ``F.group_norm`` and the activation in one pass.

    With ``scale`` and ``shift``, from outside: y = act(norm(x) * scale + shift), as the blocks of diffusion models take their time
    embedding (their 1 + scale is ``scale``). With ``residual``: y = (act(...) + residual) * factor, or, with ``residual_first``,
    y = act(... + residual) * factor.

    Shapes:
        x [N, C] or [N, C, *spatial] up to 3-D; groups divides C; weight, bias [C]; alpha a float, [1] or [C]; scale, shift [N, C] or x's
        shape, both the same; residual x's shape.
    Dtypes: x float32, bfloat16, float16, float64; the vectors any floating dtype; residual, and scale and shift of x's shape, x's.
        Statistics and sums are float32 (float64 for float64); y is rounded once.
    Layout: contiguous and channels_last in, the same out; neither is copied, but by the `torch` backend. Tensors of x's shape in
        another layout than x are right, and copied to x's.
    Grads: x, weight, bias, alpha, scale, shift, residual, to any order, through the statistics.
    Raises: TypeError, ValueError for what the shapes above forbid, for groups that do not divide C, for one image with one value in
        a group and for scale without shift; RuntimeError where a named backend cannot run.
    Source: Wu & He 2018; Chan, Golub & LeVeque 1979 for the merging of statistics; README.md in this folder for the two ways.
    """
    wanted = _backends.requested(_OP, backend)
    plan = remembered(_plans, planned, x, groups, weight, bias, eps, act, alpha, wanted, scale, shift, residual, residual_first, factor)
    return run(plan, x, weight, bias, alpha, scale, shift, residual)


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec
    flat: bool  # x is [N, C]
    elementwise: modulated_op.Spec | None  # where tensors of x's shape are read beside it, or rows have each its own affine


_plans = Memo()  # key -> Plan


def run(plan: Plan, x, weight, bias, alpha, scale=None, shift=None, residual=None) -> Tensor:
    """The call, checked and decided."""
    x = x.unsqueeze(-1) if plan.flat else x
    alpha = _checks.per_channel(alpha, x.shape[1]) if isinstance(alpha, Tensor) else None
    tensors, spec = (x, weight, bias, scale, shift, alpha), plan.spec
    if x.numel() == 0:
        y = x + sum((t.to(x.dtype).sum() * 0 for t in (*tensors[1:], residual) if t is not None), x.new_zeros(()))
    elif plan.elementwise is not None:
        with torch.no_grad():
            columns = kernels.stats(dense(x.detach(), spec.channels_last), spec.groups, spec.eps, spec.channels_last, spec.backend)[2:]
        y = modulated_op.run(plan.elementwise, x, weight, bias, scale, shift, residual, alpha, *columns)
        _backends.ran[_OP] = spec.backend
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        y = GroupNormAct.apply(dense(x, spec.channels_last), weight, kept(bias), scale, kept(shift), alpha, spec)
    else:
        y = forward_op(dense(x, spec.channels_last), *tensors[1:], spec)[0]
    return y.squeeze(-1) if plan.flat else y


def planned(
    x, groups, weight=None, bias=None, eps=1e-5, act="linear", alpha=None, backend=None, scale=None, shift=None, residual=None,
    residual_first=False, factor=1.0,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    _checks.check_tensor(_OP, "x", x)
    _checks.check_floating(_OP, "x", x)
    if not 2 <= x.dim() <= 5:
        _checks.fail(_OP, f"x has {x.dim()} dimensions, wants 2 to 5: [N, C] or [N, C, *spatial]")
    channels = x.shape[1]
    if isinstance(groups, bool) or not isinstance(groups, int):
        _checks.fail(_OP, f"groups is {groups!r}, wants an int", error=TypeError)
    if groups < 1 or channels % groups:
        divisors = [d for d in range(1, channels + 1) if channels % d == 0]
        _checks.fail(_OP, f"groups is {groups}, wants a divisor of x's {channels} channels: {', '.join(map(str, divisors[:12]))}")
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            _checks.check_vector(_OP, name, vector, channels, x)
    if eps < 0:
        _checks.fail(_OP, f"eps is {eps}, wants no negative number")
    alpha, alpha_value = _checks.check_activation(_OP, act, alpha, channels, x)
    if x.numel() == groups and x.shape[0] == 1:  # more of them give the bias, as torch's
        received = f"x has one value in a group (shape {tuple(x.shape)}, {groups} groups)"
        _checks.fail(_OP, f"{received}, wants more to normalise", "Use fewer groups")
    modulates = modulated_op.check(_OP, x, scale, shift, residual, residual_first, factor)
    spec = Spec(act, alpha_value, groups, eps, is_channels_last(x), choose(_OP, backend, x))
    # The rows of [N, C] share one affine in the passes of this op's own.
    full = residual is not None or (modulates and (scale.dim() > 2 or x.shape[:2].numel() == x.numel()))
    elementwise = None
    if full:
        elementwise = modulated_op.Spec(
            act, alpha_value, groups, True, eps, spec.channels_last, spec.backend, bool(residual_first), float(factor)
        )
    return Plan(spec, x.dim() == 2, elementwise)
