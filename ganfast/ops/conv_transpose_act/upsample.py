"""`upsample_conv_act`: nearest upsampling and a stride-1 convolution as one transposed convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks
from ganfast._autograd import autocasts
from ganfast.ops.conv_transpose_act.op import conv_transpose_act

_OP = "upsample_conv_act"


def fold_weight(weight: Tensor, scale: list[int], groups: int) -> Tensor:
    """Conv weight [Cout, Cin/groups, *k] -> transposed weight [Cin, Cout/groups, *(k + scale - 1)], in weight's dtype.

    Tap t of an axis is the sum of the taps k with 0 <= t + k - (K - 1) < scale: those that read the same input pixel for one
    of the output pixels under it. Sums are float32, rounded once; plain additions, so that no TF32 switch touches a weight.
    """
    dims = weight.dim() - 2
    folded = weight.to(torch.promote_types(weight.dtype, torch.float32)).flip(list(range(2, 2 + dims)))
    for axis, s in zip(range(2, 2 + dims), scale):
        border = [0, 0] * (weight.dim() - 1 - axis) + [s - 1, s - 1]
        padded, length = F.pad(folded, border), folded.shape[axis] + s - 1
        folded = sum((padded.narrow(axis, m, length) for m in range(1, s)), padded.narrow(axis, 0, length))
    c_out = weight.shape[0]
    folded = folded.to(weight.dtype).unflatten(0, (groups, c_out // groups)).transpose(1, 2).flatten(0, 1)
    # Channels last: what the GPU kernels and the CPU's convolutions read without another copy.
    return folded.contiguous(memory_format=(None, torch.contiguous_format, torch.channels_last, torch.channels_last_3d)[dims])


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
    return_partials: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = act(conv(nearest_upsample(x, scale_factor), weight) + bias), in one pass that never makes the upsampled image.

    ``act(F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1))`` with 2.25 times fewer multiplications: the
    taps that read the same input pixel are added into a k4 s2 p1 transposed convolution first, on the fly.

    Shapes:
        x [N, Cin, *in] or unbatched [Cin, *in]; weight [Cout, Cin/groups, *k], 1-D to 3-D, as nn.Conv's; bias [Cout];
        alpha a float, [1] or [Cout]. y [N, Cout, *out], out = in*scale_factor + 2*padding - k + 1.
        With ``return_partials``: (y, partials) as in ``conv_transpose_act``.
    Dtypes, Layout: as ``conv_transpose_act``; 16-bit weights are added in float32 and rounded once.
    Grads: x, weight, bias, alpha, to any order.
    Raises: TypeError, ValueError for what the shapes above forbid and for a padding of k or more; RuntimeError where a named
        backend cannot run.
    Source: Odena, Dumoulin & Olah 2016 (resize-convolution); the fold is derived in README.md in this folder.
    """
    _checks.check_tensor(_OP, "x", x)
    _checks.check_tensor(_OP, "weight", weight)
    dims = weight.dim() - 2
    if dims not in (1, 2, 3):
        _checks.fail(_OP, f"weight has {weight.dim()} dimensions, wants 3, 4 or 5: [Cout, Cin/groups, *kernel]")
    _checks.check_floating(_OP, "weight", weight)
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        _checks.fail(_OP, f"groups is {groups!r}, wants a positive divisor of Cout={weight.shape[0]}")
    if x.dim() in (dims + 1, dims + 2) and x.shape[-dims - 1] != weight.shape[1] * groups:
        cause = (
            "Transposed weights are stored [Cin, Cout, ...], this wants a convolution's" if x.shape[-dims - 1] == weight.shape[0] else ""
        )
        _checks.fail(_OP, f"weight expects Cin={weight.shape[1] * groups}, x has {x.shape[-dims - 1]} channels", cause)
    if autocasts(x) and x.dtype != torch.float64:
        weight = weight.to(torch.get_autocast_dtype(x.device.type))
    scale = _checks.int_list(_OP, "scale_factor", scale_factor, dims, 1)
    pads = _checks.int_list(_OP, "padding", padding, dims, 0)
    for k, p in zip(weight.shape[2:], pads):
        if p >= k:
            _checks.fail(
                _OP, f"padding is {padding!r}, wants less than the kernel's {k}", "Rows of nothing but bias would surround the image"
            )
    return conv_transpose_act(
        x, fold_weight(weight, scale, groups), bias, stride=tuple(scale), padding=tuple(k - 1 - p for k, p in zip(weight.shape[2:], pads)),
        groups=groups, act=act, alpha=alpha, return_partials=return_partials, backend=backend,
    )  # fmt: skip
