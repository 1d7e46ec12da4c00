"""The `cpu` backend's minimal filtering (csrc/conv_transpose_act/cpu_minimal.cpp): kernel 4, stride 2, padding 1 in float32 with
less than half of the multiplications. README.md in this folder derives it."""

import torch
from torch import Tensor

from ganfast import _native
from ganfast._layout import dense

LEAST_CHANNELS = 32

_native.define(
    "conv_transpose_act_minimal_native(Tensor x, Tensor weight, Tensor? bias, Tensor? alpha, str act, float alpha_value, bool transposed,"
    " int[] output_size, bool save_z) -> (Tensor, Tensor)"
)


def refusal(x: Tensor, weight: Tensor, stride, padding, dilation, groups: int) -> str | None:
    """Why it cannot compute a transposed convolution of x by weight [Cin, Cout, *k], or the data gradient of one for x = gz; None
    if it can."""
    if x.dtype != torch.float32 or x.dim() != 4:
        return f"{x.dim() - 2}-D in {x.dtype}, wants 2-D in float32: a half type would round the transformed values once more"
    if tuple(weight.shape[2:]) != (4, 4) or (tuple(stride), tuple(padding), tuple(dilation), groups) != ((2, 2), (1, 1), (1, 1), 1):
        return f"kernel {tuple(weight.shape[2:])}, stride {tuple(stride)}, padding {tuple(padding)}, wants 4, 2, 1; dilation and groups 1"
    if any(channels % 16 or channels < LEAST_CHANNELS for channels in weight.shape[:2]):
        return f"channels {tuple(weight.shape[:2])}, wants multiples of 16 from {LEAST_CHANNELS} on"
    return None


def run(x, weight, bias, alpha, act: str, alpha_value: float, transposed: bool, size, channels_last: bool, save_z: bool):
    """(y, z or an empty tensor): `transposed` the transposed convolution to `size`, else the ordinary one of the same weight."""
    y, z = torch.ops.ganfast.conv_transpose_act_minimal_native(
        dense(x, True), weight, bias, alpha, act, alpha_value, transposed, size, save_z
    )
    return dense(y, channels_last), dense(z, channels_last) if save_z else z
