"""`bias_act`: checks, choice of backend, autograd."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks, _native
from ganfast._activations import SNAKE_BETA
from ganfast._autograd import kept
from ganfast._layout import dense, is_channels_last, memory_format
from ganfast._memo import Memo, look
from ganfast._periodic import numbers
from ganfast.ops.bias_act import kernels
from ganfast.ops.bias_act.autograd import BiasAct, Spec, forward_op, what_is_saved

_OP = "bias_act"


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    beta: float | Tensor | None = None,
    log_scale: bool = False,
    gain: float = 1.0,
    clamp: float | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    backend: str | None = None,
    open_output: bool = False,
) -> Tensor:
    """y = act(x + bias) * gain, limited to [-clamp, clamp] where ``clamp`` is given, in one pass.

    ``act`` may be any of the twelve, or "snake_beta": z + sin(alpha z)^2 / (beta + 1e-9), whose two parameters are both 1 unless given;
    ``log_scale``: alpha (snake's too) and beta are logarithms, 0 unless given.

    With ``residual`` y = (act(x + bias) * gain [clamped] + residual) * factor; with ``residual_first`` y = act(x + bias + residual) * gain
    [clamped] * factor.

    Shapes:
        x of any shape with one dimension or more, C its size along ``dim``; bias [C]; alpha, beta a float, [1] or [C]; y, residual as x.
    Dtypes: x float32, bfloat16, float16; float64 on reference, torch and cpu; y and residual as x; bias, alpha, beta any
        floating dtype. Sums are float32 (float64 for float64): y is rounded once. Autocast casts nothing.
    Layout: with ``dim`` 1 contiguous and channels_last in, the same out; with any other dim y is contiguous, and so should x be: it
        is copied where not. A residual in another layout than y's is copied to it.
    Grads: x, bias, alpha, beta, residual, to any order; zero where y is clamped. A value at the very bound counts as clamped where y or its
        signs were saved (README.md in this folder), else not, as in torch.clamp.
        With ``open_output`` y may be changed in place before its backward, as torch allows after a leaky_relu that is not in place: then
        a byte per element, the sign and whether y is clamped, is kept where y would be, for linear, relu, leaky_relu and prelu; other
        activations keep x, which must not be changed.
    Raises: TypeError, ValueError for what the shapes above forbid, a gain or factor that is not finite, a clamp that is not positive, a
        factor or residual_first without a residual; RuntimeError where a named backend cannot run.
    Source: Karras et al. 2019 and 2020, whose networks end every layer this way: leaky_relu 0.2, gain sqrt(2), clamp 256 in 16 bits.
        snake_beta: Lee et al. 2023, BigVGAN.
    """
    periodic = act == SNAKE_BETA or beta is not None or log_scale
    if periodic and isinstance(x, Tensor) and isinstance(dim, int) and -x.dim() <= dim < x.dim():  # else `planned` says what is wrong
        alpha = numbers(_OP, act, alpha, beta, log_scale, x.shape[dim], x)
    key = plan = None
    if _native.is_plain(x):
        try:  # a call that looks like an earlier one needs no checks; what cannot be a key goes the long way
            key = (
                x.shape, x.stride(), x.dtype, x.device, look(bias), dim, type(dim), act, look(alpha), gain, type(gain), clamp, type(clamp),
                _backends.requested(_OP, backend), open_output, look(residual), residual_first, factor, type(factor),
            )  # fmt: skip
            plan = _plans.get(key)
        except (AttributeError, TypeError, RuntimeError):  # a sparse tensor has no strides
            key = None
    if plan is None:
        plan = planned(x, bias, dim, act, alpha, gain, clamp, backend, open_output, residual, residual_first, factor)
        if key is not None:
            _plans[key] = plan
    return run(plan, x, bias, alpha, residual)


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec
    channels: int
    view: tuple[int, int, int] | None  # [before, C, after], where the passes could not take x as it is
    dense: bool


_plans = Memo()  # key -> Plan


def run(plan: Plan, x: Tensor, bias: Tensor | None, alpha: float | Tensor | None, residual: Tensor | None = None) -> Tensor:
    """The call, checked and decided."""
    spec = plan.spec
    if isinstance(alpha, Tensor):
        alpha = alpha if spec.act == SNAKE_BETA else _checks.per_channel(alpha, plan.channels)
    else:
        alpha = None
    if x.numel() == 0:
        y = x + sum((v.to(x.dtype).sum() * 0 for v in (bias, alpha) if v is not None), x.new_zeros(()))
        return y if residual is None else y + residual
    arranged = x if plan.view is None else x.reshape(plan.view)
    if not plan.dense:
        arranged = dense(arranged, spec.channels_last)
    if residual is not None:
        residual = dense(residual if plan.view is None else residual.reshape(plan.view), spec.channels_last)
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (bias is not None and bias.requires_grad)
        or (alpha is not None and alpha.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        y = BiasAct.apply(arranged, kept(bias) if spec.saves == "x" else bias, alpha, residual, spec)
        y = y[0] if isinstance(y, tuple) else y
    else:
        y, _ = forward_op(arranged, bias, alpha, residual, spec._replace(saves="nothing") if spec.saves == "signs" else spec)
    return y if plan.view is None else y.view(x.shape)


def planned(
    x, bias, dim=1, act="linear", alpha=None, gain=1.0, clamp=None, backend=None, open_output=False, residual=None, residual_first=False,
    factor=1.0,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    _checks.check_tensor(_OP, "x", x)
    _checks.check_floating(_OP, "x", x)
    rank = x.dim()
    if rank == 0:
        _checks.fail(_OP, "x has no dimensions, wants one or more")
    if isinstance(dim, bool) or not isinstance(dim, int):
        _checks.fail(_OP, f"dim is {dim!r}, wants an int", error=TypeError)
    if not -rank <= dim < rank:
        cause = "dim is 1 unless given; channels last of all are dim=-1" if dim == 1 else ""
        _checks.fail(_OP, f"dim is {dim}, x has shape {tuple(x.shape)} and wants one from {-rank} to {rank - 1}", cause)
    dim %= rank
    channels = x.shape[dim]
    if bias is not None:
        _checks.check_vector(_OP, "bias", bias, channels, x, f"entries of x along dim {dim}")
    alpha, alpha_value = (alpha, 0.0) if act == SNAKE_BETA else _checks.check_activation(_OP, act, alpha, channels, x)
    gain = _checks.check_number(_OP, "gain", gain, "A gain that learns is a multiplication of its own")
    if clamp is not None and (clamp := _checks.check_number(_OP, "clamp", clamp)) <= 0:
        _checks.fail(_OP, f"clamp is {clamp}, wants a positive number, the bound on |y|, or None", "For no clamp pass None")
    added, factor = _checks.check_residual(
        _OP, residual, x.shape, x, residual_first, factor, "gain is what multiplies y alone", _checks.CAST_ONE
    )
    if added == "first":  # nothing comes between gain, clamp and factor
        gain, clamp, factor = gain * factor, None if clamp is None else clamp * abs(factor), 1.0
    wanted = _backends.requested(_OP, backend)
    chosen = kernels.automatic(x, act) if wanted == "auto" else _backends.named(_OP, wanted, x)
    if chosen == "cuda" and act == SNAKE_BETA:
        _checks.fail(_OP, "backend 'cuda' cannot run: it has no snake_beta; triton has", error=RuntimeError)

    view, channels_last = None, False
    if dim == 1 and rank <= 5:
        channels_last = is_channels_last(x)
        is_dense = x.is_contiguous(memory_format=memory_format(rank, channels_last))
    else:
        view = (math.prod(x.shape[:dim]), channels, math.prod(x.shape[dim + 1 :]))
        is_dense = x.is_contiguous()
    saves = what_is_saved(act, alpha, alpha_value, gain, clamp, open_output, added, factor)
    spec = Spec(act, alpha_value, gain, clamp, saves, channels_last, chosen, added, factor)
    return Plan(spec, channels, view, is_dense)
