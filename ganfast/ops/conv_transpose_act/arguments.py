"""What `conv_transpose_act`, `conv_act` and `upsample_conv_act` check and prepare alike; their messages name the op that was called."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast._autograd import autocast_dtype
from ganfast._layout import dense, dense_weight


class Arguments(NamedTuple):
    """Checked arguments: x, weight and bias in one dtype, x as it came, batched or not."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    alpha: Tensor | None  # [Cout]
    alpha_value: float
    channels: int  # Cout
    cast: torch.dtype | None  # autocast's
    unbatched: bool


def check(op: str, x, weight, bias, groups, act, alpha, *, transposed: bool) -> Arguments:
    """Every check that does not depend on the geometry. `transposed`: weight is [Cin, Cout/groups, *k], else [Cout, Cin/groups, *k].

    Raises: TypeError, ValueError.
    """
    _checks.check_tensor(op, "x", x)
    _checks.check_tensor(op, "weight", weight)
    dims = weight.dim() - 2
    if dims not in (1, 2, 3):
        layout = "[Cin, Cout/groups, *kernel]" if transposed else "[Cout, Cin/groups, *kernel]"
        _checks.fail(op, f"weight has {weight.dim()} dimensions, wants 3, 4 or 5: {layout}")
    if x.dim() not in (dims + 1, dims + 2):
        _checks.fail(op, f"x has {x.dim()} dimensions, wants {dims + 2} ([N, Cin, ...]) or {dims + 1} (unbatched) for this weight")
    _checks.check_floating(op, "x", x)
    if bias is not None:
        _checks.check_tensor(op, "bias", bias)
    cast = autocast_dtype(x)
    if cast is not None:
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None:  # a cast would hide an integer one
                _checks.check_floating(op, name, tensor)
        x, weight, bias = cast_to(cast, x, weight, bias)
    _checks.check_like(op, "weight", weight, x)
    channels = _check_channels(op, x.shape[-dims - 1], weight, groups, transposed)
    if 0 in x.shape[x.dim() - dims :]:
        _checks.fail(op, f"x has no pixels: shape {tuple(x.shape)}")
    if bias is not None:
        _checks.check_vector(op, "bias", bias, channels, x, "output channels")
        _checks.check_like(op, "bias", bias, x)
    alpha, alpha_value = _checks.check_activation(op, act, alpha, channels, x)
    return Arguments(x, weight, bias, alpha, alpha_value, channels, cast, x.dim() == dims + 1)


def _check_channels(op: str, x_channels: int, weight: Tensor, groups: int, transposed: bool) -> int:
    """Cout."""
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        _checks.fail(op, f"groups is {groups!r}, wants a positive int")
    outer, inner = weight.shape[0], weight.shape[1] * groups
    if outer % groups:
        _checks.fail(op, f"groups is {groups}, wants a divisor of {'Cin' if transposed else 'Cout'}={outer}")
    c_in, c_out = (outer, inner) if transposed else (inner, outer)
    if x_channels != c_in:
        cause = ""
        if transposed:
            mixed_up = weight.shape[1] == x_channels
            stored = "Conv2d weights are stored [Cout, Cin, ...]", "Transposed weights are [Cin, Cout/groups, ...]"
            cause = stored[0] if mixed_up else stored[1]
        elif x_channels == c_out:
            cause = "Transposed weights are stored [Cin, Cout, ...], this wants a convolution's"
        _checks.fail(op, f"weight expects Cin={c_in}, x has {x_channels} channels", cause)
    if 0 in weight.shape:
        _checks.fail(op, f"weight has shape {tuple(weight.shape)}, wants no empty dimension")
    return c_out


def check_residual(op: str, residual, shape, x: Tensor, cast: torch.dtype | None, first, factor) -> tuple[str, float]:
    """(where it is added, the factor) of a residual of y's shape; x as the convolution takes it: autocast casts the residual too."""
    if cast is not None and isinstance(residual, Tensor):
        _checks.check_floating(op, "residual", residual)
        (residual,) = cast_to(cast, residual)
    return _checks.check_residual(op, residual, shape, x, first, factor, "bias_act has a gain, which multiplies its output alone")


def check_size(op: str, size: list[int], x: Tensor, cause: str) -> list[int]:
    """The output's size, which must have pixels; x [N, Cin, *in]."""
    if any(length <= 0 for length in size):
        _checks.fail(op, f"the output would have no pixels: {tuple(size)} from input {tuple(x.shape[2:])}", cause)
    return size


def cast_to(dtype: torch.dtype | None, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    if dtype is None:
        return tensors
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def dense_operands(plan, x: Tensor, weight: Tensor, alpha) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [N, Cin, *in] and weight in dense memory, alpha as a vector [Cout] or None, as the plan of an earlier look at them says."""
    x = x if plan.x_dense else dense(x, plan.spec.channels_last)
    weight = weight if plan.weight_dense else dense_weight(weight)
    return x, weight, _checks.per_channel(alpha, plan.channels) if isinstance(alpha, Tensor) else None


def beside(plan, residual: Tensor | None) -> Tensor | None:
    """The residual as the passes read it: of y's dtype, batched, in y's layout."""
    if residual is None:
        return None
    (residual,) = cast_to(plan.cast, residual)
    return dense(residual.unsqueeze(0) if plan.unbatched else residual, plan.spec.channels_last)


def empty(inputs: tuple[Tensor | None, ...], channels: int, size: list[int]) -> tuple[Tensor, Tensor]:
    """(y, partials) of the empty batch: right shapes, and zero gradients for whatever asks."""
    x = inputs[0]
    y = x.new_empty(0, channels, *size)
    for t in inputs:
        if t is not None and t.requires_grad:
            y = y + t.to(y.dtype).sum() * 0
    return y, x.new_zeros((1, 3, channels), dtype=torch.promote_types(x.dtype, torch.float32))
