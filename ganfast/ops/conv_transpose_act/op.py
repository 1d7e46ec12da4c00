"""`conv_transpose_act`: checks, choice of backend, autograd."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks, _native, _tune
from ganfast._activations import saved_form
from ganfast._autograd import autocast_dtype
from ganfast._layout import dense, dense_weight, is_channels_last, memory_format
from ganfast._memo import Memo
from ganfast.ops.bias_act import kernels as bias_act
from ganfast.ops.conv_transpose_act import choice, kernels
from ganfast.ops.conv_transpose_act.arguments import beside, cast_to, check, check_residual, check_size, dense_operands, empty
from ganfast.ops.conv_transpose_act.autograd import ConvTransposeAct, forward_op
from ganfast.ops.conv_transpose_act.choice import Spec

_OP = "conv_transpose_act"


def conv_transpose_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    return_partials: bool = False,
    backend: str | None = None,
    open_output: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = act(conv_transpose(x, weight) + bias), in one pass; 1-D, 2-D or 3-D by ``weight.dim() - 2``.

    With ``residual`` y = (act(conv_transpose(x, weight) + bias) + residual) * factor; with ``residual_first``
    y = act(conv_transpose(x, weight) + bias + residual) * factor.

    Shapes:
        x [N, Cin, *in] or unbatched [Cin, *in]; weight [Cin, Cout/groups, *k]; bias [Cout]; alpha a float, [1] or [Cout].
        y and residual [N, Cout, *out],
        out = (in - 1)*stride - 2*padding + dilation*(k - 1) + output_padding + 1.
        With ``return_partials``: (y, partials), partials [T, 3, Cout] = count, mean, M2 of y, for ``batch_norm_act``; no residual.
    Dtypes: float32, bfloat16, float16; float64 on reference, torch and cpu. x, weight, bias and residual share it, or autocast casts them.
        Sums are float32 (float64 for float64), also with the residual. float32 on a GPU follows torch's TF32 switch for convolutions.
    Layout: channels_last out where x or the weight is channels_last, as torch's; else contiguous. A residual in another layout is copied.
    Grads: x, weight, bias, alpha, residual, to any order; partials carry none.
        With ``open_output`` y may be changed in place before its backward, as torch allows after a leaky_relu that is not in place: then
        a bool per element, the sign, is kept instead of y, for relu, leaky_relu and prelu with a float slope above 0; other activations
        keep their input.
    Raises: TypeError, ValueError for what the shapes above forbid, and a factor or residual_first without a residual; RuntimeError
        where a named backend cannot run.
    Source: Dumoulin & Visin 2016, sections 4 and 5; README.md in this folder for the phases.
    """
    key = plan = None
    if _native.is_plain(x):
        try:  # a call that looks like an earlier one needs no checks; what is no tensor, or a list, goes the long way
            key = (
                x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.stride(), weight.dtype, weight.device,
                None if bias is None else (bias.shape, bias.dtype, bias.device),
                (alpha.shape, alpha.dtype, alpha.device) if isinstance(alpha, Tensor) else alpha, stride, padding, output_padding, groups,
                dilation, type(stride), type(padding), type(output_padding), type(groups), type(dilation), act,
                return_partials, _backends.requested(_OP, backend), autocast_dtype(x), _tune.off_reason(), open_output,
                None if residual is None else (residual.shape, residual.dtype, residual.device), residual_first, factor, type(factor),
                # A tile for TF32 is none for exact float32, one for aligned memory none for any other.
                (torch.backends.cudnn.conv.fp32_precision, x.data_ptr() % 16) if x.is_cuda else torch.get_num_threads(),
            )  # fmt: skip
            plan = _plans.get(key)
        except (AttributeError, TypeError, RuntimeError):  # a sparse tensor has no strides
            key = None
    if plan is None:
        plan = planned(
            x, weight, bias, stride, padding, output_padding, groups, dilation, act, alpha, return_partials, backend, open_output,
            residual, residual_first, factor,
        )  # fmt: skip
        if key is not None and plan.final:
            _plans[key] = plan
    return run(plan, x, weight, bias, alpha, residual)


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec
    inference: Spec  # without what a backward would need
    size: list[int]
    channels: int
    cast: torch.dtype | None  # autocast's
    unbatched: bool
    x_dense: bool
    weight_dense: bool
    final: bool  # False while the tuner could not measure


_plans = Memo()  # key -> Plan


def run(
    plan: Plan, x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float | Tensor | None, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    spec = plan.spec
    if plan.cast is not None:
        x, weight, bias = cast_to(plan.cast, x, weight, bias)
    x = x.unsqueeze(0) if plan.unbatched else x
    x, weight, alpha = dense_operands(plan, x, weight, alpha)
    residual = beside(plan, residual)
    if x.shape[0] == 0:
        y, partials = empty((x, weight, bias, alpha, residual), plan.channels, plan.size)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, alpha, residual)):
        y, _, partials = ConvTransposeAct.apply(x, weight, bias, alpha, residual, spec)
    else:
        y, _, partials = forward_op(x, weight, bias, alpha, plan.inference, residual)
    if plan.unbatched:
        y = y.squeeze(0)
    return (y, partials) if spec.partials else y


def planned(
    x, weight, bias, stride=1, padding=0, output_padding=0, groups=1, dilation=1, act="linear", alpha=None, return_partials=False,
    backend=None, open_output=False, residual=None, residual_first=False, factor=1.0,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    x, weight, bias, alpha, alpha_value, channels, cast, unbatched = check(_OP, x, weight, bias, groups, act, alpha, transposed=True)
    x, dims = x.unsqueeze(0) if unbatched else x, weight.dim() - 2
    stride = tuple(_checks.int_list(_OP, "stride", stride, dims, 1))
    padding = tuple(_checks.int_list(_OP, "padding", padding, dims, 0))
    output_padding = tuple(_checks.int_list(_OP, "output_padding", output_padding, dims, 0))
    dilation = tuple(_checks.int_list(_OP, "dilation", dilation, dims, 1))
    size = _check_output(x, weight, stride, padding, output_padding, dilation)
    shape = (*(() if unbatched else x.shape[:1]), channels, *size)
    added, factor = check_residual(_OP, residual, shape, x, cast, residual_first, factor)
    if added and return_partials:
        _checks.fail(
            _OP, "return_partials with a residual is not supported", "Leave it out: batch_norm_act takes the statistics of x itself"
        )

    channels_last = is_channels_last(x, weight)
    x_dense, weight_dense = x.is_contiguous(memory_format=memory_format(x.dim(), channels_last)), dense_weight(weight) is weight
    form = saved_form(act, alpha, alpha_value, open_output, added, factor)
    wanted = _backends.requested(_OP, backend)
    if wanted != "auto":
        _backends.named(_OP, wanted, x)
    act_backend = bias_act.automatic(x, act) if wanted == "auto" else wanted
    spec = Spec(
        stride, padding, output_padding, dilation, groups, act, alpha_value, channels_last, form == "z", bool(return_partials),
        wanted, act_backend, wanted, form == "signs", added, factor,
    )  # fmt: skip
    final = True
    if wanted == "auto":
        chosen, final = "torch", True
        if x.shape[0]:
            chosen, final = choice.forward(dense(x, channels_last), dense_weight(weight), bias, alpha, spec)
        spec = spec._replace(backend=chosen)
    return Plan(spec, spec._replace(save_z=False, keep_signs=False), size, channels, cast, unbatched, x_dense, weight_dense, final)


def _check_output(x, weight, stride, padding, output_padding, dilation) -> list[int]:
    for op, s, d in zip(output_padding, stride, dilation):
        if op >= max(s, d):
            _checks.fail(
                _OP, f"output_padding is {tuple(output_padding)}, wants each smaller than max(stride, dilation) = {max(s, d)}",
                "A larger one would append pixels that no stride can have dropped",
            )  # fmt: skip
    size = kernels.output_size(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    return check_size(_OP, size, x, "padding is too large for this kernel")
