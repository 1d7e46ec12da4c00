"""`conv_act`: an ordinary convolution and an activation, its gradients by the transposed convolution's kernels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _backends, _checks, _native, _tune
from ganfast._activations import saved_form
from ganfast._autograd import autocast_dtype
from ganfast._layout import dense, dense_weight, is_channels_last, memory_format
from ganfast._memo import Memo, look
from ganfast.ops.bias_act import kernels as bias_act
from ganfast.ops.conv_transpose_act import choice, kernels
from ganfast.ops.conv_transpose_act.arguments import beside, cast_to, check, check_residual, check_size, dense_operands, empty
from ganfast.ops.conv_transpose_act.autograd import ConvAct, conv_act_op
from ganfast.ops.conv_transpose_act.choice import Spec

_OP = "conv_act"


def conv_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    backend: str | None = None,
    open_output: bool = False,
) -> Tensor:
    """y = act(conv(x, weight) + bias); 1-D, 2-D or 3-D by ``weight.dim() - 2``. The forward is torch's own convolution with the
    activation in place; the backward is one fused pass through bias and activation and the kernels of ``conv_transpose_act``.

    With ``residual`` y = (act(conv(x, weight) + bias) + residual) * factor; with ``residual_first``
    y = act(conv(x, weight) + bias + residual) * factor.

    Shapes:
        x [N, Cin, *in] or unbatched [Cin, *in]; weight [Cout, Cin/groups, *k]; bias [Cout]; alpha a float, [1] or [Cout].
        padding also "valid" or "same", as torch's. y and residual [N, Cout, *out],
        out = (in + 2*padding - dilation*(k - 1) - 1)//stride + 1.
    Dtypes: float32, bfloat16, float16; float64 on reference, torch and cpu. x, weight, bias and residual share it, or autocast casts them;
        so y has the convolution's dtype, where torch's sum with a float32 residual would be float32. In 16 bits the activation, the
        sum and the factor are formed in float32 and rounded once.
    Layout: channels_last out where x or the weight is channels_last, as torch's; else contiguous. A residual in another layout is copied.
    Grads: x, weight, bias, alpha, residual, to any order; nothing is computed that torch.autograd.grad was not asked for.
        With ``open_output`` y may be changed in place before its backward, as torch allows after a leaky_relu that is not in place: then
        a bool per element, the sign, is kept instead of y, for relu, leaky_relu and prelu with a float slope above 0; other activations
        keep their input.
    Raises: TypeError, ValueError for what the shapes above forbid, and a factor or residual_first without a residual; RuntimeError
        where a named backend cannot run.
        A named backend is that of the gradients and, for ``reference`` and ``cpu``, of the forward.
    Source: Dumoulin & Visin 2016, sections 2 and 4; README.md in this folder for the gradients.
    """
    key = plan = None
    if _native.is_plain(x):
        try:  # as in op.py: what is no tensor, or a list, goes the long way
            key = (
                x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.stride(), weight.dtype, weight.device,
                look(bias), look(alpha), stride, padding, dilation, groups, type(stride), type(padding), type(dilation), type(groups), act,
                _backends.requested(_OP, backend), autocast_dtype(x), _tune.off_reason(), open_output, torch.get_num_threads(),
                look(residual), residual_first, factor, type(factor),
            )  # fmt: skip
            plan = _plans.get(key)
        except (AttributeError, TypeError, RuntimeError):  # a sparse tensor has no strides
            key = None
    if plan is None:
        plan = planned(
            x, weight, bias, stride, padding, dilation, groups, act, alpha, backend, open_output, residual, residual_first, factor
        )
        if key is not None and plan.final:
            _plans[key] = plan
    return run(plan, x, weight, bias, alpha, residual)


class Plan(NamedTuple):
    """All that a call's shapes, dtypes, layouts and options decide."""

    spec: Spec  # of the transposed convolution whose data gradient this convolution is
    way: str  # the forward's backend
    inference: Spec  # without what a backward would need
    size: list[int]
    channels: int
    border: list[int] | None  # F.pad's, for padding that the convolution itself does not do
    cast: torch.dtype | None  # autocast's
    unbatched: bool
    x_dense: bool
    weight_dense: bool
    final: bool  # False while the tuner could not measure


_plans = Memo()  # key -> Plan


def run(plan: Plan, x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float | Tensor | None, residual: Tensor | None = None) -> Tensor:
    spec = plan.spec
    if plan.cast is not None:
        x, weight, bias = cast_to(plan.cast, x, weight, bias)
    x = x.unsqueeze(0) if plan.unbatched else x
    x = x if plan.border is None else F.pad(x, plan.border)
    x, weight, alpha = dense_operands(plan, x, weight, alpha)
    residual = beside(plan, residual)
    if x.shape[0] == 0:
        y, _ = empty((x, weight, bias, alpha, residual), plan.channels, plan.size)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, alpha, residual)):
        y, _ = ConvAct.apply(x, weight, bias, alpha, residual, spec, plan.way)
    else:
        y, _ = conv_act_op(x, weight, bias, alpha, plan.inference, plan.way, residual)
    return y.squeeze(0) if plan.unbatched else y


def planned(
    x, weight, bias, stride=1, padding=0, dilation=1, groups=1, act="linear", alpha=None, backend=None, open_output=False, residual=None,
    residual_first=False, factor=1.0,
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    x, weight, bias, alpha, alpha_value, channels, cast, unbatched = check(_OP, x, weight, bias, groups, act, alpha, transposed=False)
    x, dims = x.unsqueeze(0) if unbatched else x, weight.dim() - 2
    stride = tuple(_checks.int_list(_OP, "stride", stride, dims, 1))
    dilation = tuple(_checks.int_list(_OP, "dilation", dilation, dims, 1))
    padding, border = _check_padding(padding, weight.shape[2:], stride, dilation)
    if border is not None:
        x = F.pad(x, border)
    size = kernels.conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    check_size(_OP, size, x, "The kernel is larger than x")
    shape = (*(() if unbatched else x.shape[:1]), channels, *size)
    added, factor = check_residual(_OP, residual, shape, x, cast, residual_first, factor)

    channels_last = is_channels_last(x, weight)
    x_dense, weight_dense = x.is_contiguous(memory_format=memory_format(x.dim(), channels_last)), dense_weight(weight) is weight
    wanted = _backends.requested(_OP, backend)
    if wanted != "auto":
        _backends.named(_OP, wanted, x)
    # What the strided windows leave over at the end is the output padding of the gradient that leads back.
    covered = kernels.output_size(size, weight.shape[2:], stride, padding, (0,) * dims, dilation)
    left_over = tuple(i - c for i, c in zip(x.shape[2:], covered))
    act_backend = bias_act.automatic(x, act) if wanted == "auto" else wanted
    form = saved_form(act, alpha, alpha_value, open_output, added, factor)
    spec = Spec(
        stride, padding, left_over, dilation, groups, act, alpha_value, channels_last, form == "z", False,
        wanted, act_backend, wanted, form == "signs", added, factor,
    )  # fmt: skip
    way, final = wanted, True
    if wanted == "auto":
        way = "torch"
        if x.shape[0]:
            way, final = choice.conv(dense(x, channels_last), dense_weight(weight), bias, alpha, size, spec)
    inference = spec._replace(save_z=False, keep_signs=False)
    return Plan(spec, way, inference, size, channels, border, cast, unbatched, x_dense, weight_dense, final)


def _check_padding(padding, kernel, stride, dilation) -> tuple[tuple[int, ...], list[int] | None]:
    """(the convolution's own padding, F.pad's border for the rest or None). Padding of more than the kernel's reach, which no
    transposed convolution undoes safely, and the odd half of "same" are made of zeros beforehand."""
    reach = [d * (k - 1) for d, k in zip(dilation, kernel)]
    if isinstance(padding, str):
        if padding not in ("valid", "same"):
            _checks.nearest(_OP, "padding", padding, ("valid", "same"))
        if padding == "same" and any(s != 1 for s in stride):
            _checks.fail(_OP, f"padding is 'same', stride {stride}", "Strided outputs are smaller than x: give the padding as a number")
        before = [r // 2 if padding == "same" else 0 for r in reach]
        after = [r - b if padding == "same" else 0 for r, b in zip(reach, before)]
    else:
        before = after = _checks.int_list(_OP, "padding", padding, len(kernel), 0)
    own = tuple(0 if b > r else b for b, r in zip(before, reach))
    border = [n for b, a, o in reversed(list(zip(before, after, own))) for n in (b - o, a - o)]
    return own, border if any(border) else None
