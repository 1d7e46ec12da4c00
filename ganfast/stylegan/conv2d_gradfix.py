"""`torch_utils.ops.conv2d_gradfix`: convolutions with derivatives of every order, whose weight gradients can be left out."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

from ganfast import _autograd, functional

__all__ = ["conv2d", "conv_transpose2d", "enabled", "no_weight_gradients", "weight_gradients_disabled"]

enabled = True  # False: torch's own convolutions, which compute every gradient
weight_gradients_disabled = False  # whether `no_weight_gradients` is in force: for reading
home = sys.modules[__name__]  # the module whose `enabled` is obeyed: that which scripts import by the official name

_Numbers = int | Sequence[int]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Numbers = 1,
    padding: _Numbers = 0,
    dilation: _Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv2d, by `ganfast.functional.conv_act`."""
    conv = functional.conv_act if home.enabled else F.conv2d
    return conv(input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Numbers = 1,
    padding: _Numbers = 0,
    output_padding: _Numbers = 0,
    groups: int = 1,
    dilation: _Numbers = 1,
) -> Tensor:
    """torch.nn.functional.conv_transpose2d, by `ganfast.functional.conv_transpose_act`."""
    conv = functional.conv_transpose_act if home.enabled else F.conv_transpose2d
    return conv(input, weight, bias, stride=stride, padding=padding, output_padding=output_padding, groups=groups, dilation=dilation)


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """A backward inside leaves out the gradients of the weights and biases of these convolutions; what create_graph=True builds inside has
    all of them when it is differentiated outside. With `disable` False nothing changes, inside another one neither."""
    before = home.weight_gradients_disabled
    home.weight_gradients_disabled = before or bool(disable)
    try:
        with _autograd.no_weight_gradients() if disable else contextlib.nullcontext():
            yield
    finally:
        home.weight_gradients_disabled = before
