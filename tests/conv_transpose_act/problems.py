"""Rows of conv_transpose_act's tests, and how a row becomes tensors, a call, and the oracle's view of it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import ganfast.functional as GF
from ganfast._activations import ACTIVATIONS, act_fwd
from ganfast._checks import int_list
from ganfast.ops.conv_transpose_act import reference
from ganfast.testing import Case

_EAGER = (None, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass(frozen=True)
class Row(Case):
    """One call. `alpha`: None, a float, or "tensor" for a learnable [Cout]; `layout`: see `lay_out`."""

    n: int = 2
    c_in: int = 5
    c_out: int = 6
    size: tuple[int, ...] = (4, 3)
    kernel: tuple[int, ...] = (4, 4)
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] = 0
    output_padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    act: str = "linear"
    alpha: float | str | None = None
    bias: bool = True
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float32

    def geometry(self) -> dict:
        names = ("stride", "padding", "output_padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def lists(self) -> list[list[int]]:
        dims = len(self.kernel)
        return [int_list("row", name, getattr(self, name), dims, 0) for name in ("stride", "padding", "output_padding", "dilation")]


def lay_out(x: Tensor, layout: str) -> Tensor:
    """A leaf's view or copy in that layout; gradients flow to the leaf."""
    fmt = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    if layout == "channels_last":
        return x.contiguous(memory_format=fmt)
    if layout == "sliced":
        return x.repeat_interleave(2, 1)[:, ::2].flip(-1).repeat_interleave(3, -1)[..., 1::3]
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded":
        return x[:1].expand_as(x)
    if layout == "unbatched":
        return x[0]
    assert layout == "contiguous", layout
    return x


def leaves(row: Row) -> dict[str, Tensor]:
    """x, weight, bias, alpha of the row's dtype, leaves without gradients; the weight keeps the variance of x."""
    x = torch.randn(row.n, row.c_in, *row.size)
    taps = 1.0
    for k, s in zip(row.kernel, row.lists()[0]):
        taps *= max(1.0, k / s)
    weight = torch.randn(row.c_in, row.c_out // row.groups, *row.kernel) / (row.c_in / row.groups * taps) ** 0.5
    found = {"x": x, "weight": weight}
    if row.bias:
        found["bias"] = torch.randn(row.c_out)
    if row.alpha == "tensor":
        found["alpha"] = torch.rand(row.c_out) + 0.5
    return {name: t.to(row.dtype) for name, t in found.items()}


def arguments(row: Row, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | float | None]:
    x = lay_out(tensors["x"], row.layout)
    weight = tensors["weight"]
    if row.layout == "channels_last":
        weight = lay_out(weight, row.layout)
    elif row.layout == "sliced":
        weight = weight.repeat_interleave(2, 0)[::2]
    return x, weight, tensors.get("bias"), tensors["alpha"] if row.alpha == "tensor" else row.alpha


def ours(row: Row, tensors: dict[str, Tensor], backend: str | None, **kwargs):
    x, weight, bias, alpha = arguments(row, tensors)
    return GF.conv_transpose_act(x, weight, bias, **row.geometry(), act=row.act, alpha=alpha, backend=backend, **kwargs)


def _activate(z: Tensor, row: Row, alpha) -> Tensor:
    tensor = alpha if isinstance(alpha, Tensor) else None
    value = ACTIVATIONS[row.act].default_alpha if alpha is None else alpha
    return act_fwd(z, row.act, tensor, 0.0 if tensor is not None or value is None else value)


def pre_activation(row: Row, tensors: dict[str, Tensor]) -> Tensor:
    """z by the reference's index arithmetic in the tensors' dtype; batched."""
    x, weight, bias, _ = arguments(row, tensors)
    x = x[None] if row.layout == "unbatched" else x
    return reference.conv_transpose(x, weight, bias, *row.lists(), row.groups)


def composite(row: Row, tensors: dict[str, Tensor]) -> Tensor:
    """y of the reference in the tensors' dtype, differentiable to any order. Never torch's own transposed convolution: the
    backward of that one writes out of bounds for some of the rows."""
    y = _activate(pre_activation(row, tensors), row, arguments(row, tensors)[3])
    return y[0] if row.layout == "unbatched" else y


def eager(row: Row, tensors: dict[str, Tensor]) -> Tensor:
    """Torch's own forward."""
    x, weight, bias, alpha = arguments(row, tensors)
    x = x[None] if row.layout == "unbatched" else x
    stride, padding, output_padding, dilation = row.lists()
    z = _EAGER[len(row.kernel)](x, weight, bias, stride, padding, output_padding, row.groups, dilation)
    y = _activate(z, row, alpha)
    return y[0] if row.layout == "unbatched" else y


def with_grad(tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    return {name: t.detach().to(dtype or t.dtype, copy=True).requires_grad_() for name, t in tensors.items()}


def gradient_for(row: Row, tensors: dict[str, Tensor]) -> Tensor:
    """gy, zero wherever rounding could put z on the other side of an activation's kink at 0."""
    z = pre_activation(row, {name: t.detach().double() for name, t in tensors.items()})
    z = z[0] if row.layout == "unbatched" else z
    near = z.abs() <= 4 * torch.finfo(row.dtype).eps * (z.abs().max() if z.numel() else 0)
    return torch.where(near, torch.zeros_like(z), torch.randn_like(z)).to(row.dtype)
