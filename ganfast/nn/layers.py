"""Convolutions: torch's modules with an activation in the same pass."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_scripting

from ganfast import _checks
from ganfast.nn.activated import Added, recording, refuse_partials
from ganfast.nn.by_class import Guarded, GuardedCopy
from ganfast.ops.conv_act.op import conv_act
from ganfast.ops.conv_transpose_act.op import conv_transpose_act
from ganfast.ops.upsample_conv_act.op import upsample_conv_act


class _ConvTransposeAct(GuardedCopy, Added):
    """``nn.ConvTranspose{n}d`` followed by ``act`` in one pass: its arguments, parameters and state_dict.

    Shapes: x [N, in_channels, {sizes}] or unbatched; y [N, out_channels, ...], sizes as torch's; ``output_size`` at call time as torch.
        With ``return_partials=True`` the call gives (y, partials) for ``BatchNormAct{n}d(..., partials=partials)``.
        ``residual`` at call time is of y's shape: y = (act(z) + residual) * ``factor``, with ``residual_first`` act(z + residual) * factor.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.conv_transpose_act``. ``alpha``: a float, or a tensor [1] or
        [out_channels] that becomes the learned parameter ``alpha``; act="prelu" without one learns a single slope from 0.25, as torch.
    """

    def forward(
        self, x: Tensor, output_size: list[int] | None = None, return_partials: bool = False, residual: Tensor | None = None
    ):
        if is_scripting():
            return self._as_torch(x, output_size, return_partials, residual)
        elif recording(x):
            return self._recorded(x, output_size=output_size, return_partials=return_partials, residual=residual)
        else:
            output_padding = self._output_padding(x, output_size, self.stride, self.padding, self.kernel_size, self._dims, self.dilation)
            return conv_transpose_act(
                x, self.weight, self.bias, stride=self.stride, padding=self.padding, output_padding=tuple(output_padding),
                groups=self.groups, dilation=self.dilation, act=self.act, alpha=self.alpha, return_partials=return_partials,
                residual=residual, residual_first=self.residual_first, factor=self.factor,
            )  # fmt: skip

    def _as_torch(self, x: Tensor, output_size: list[int] | None, return_partials: bool, residual: Tensor | None = None) -> Tensor:
        refuse_partials(return_partials)
        return self._finished(self._torch_forward(x, output_size), self._dims, residual)


class ConvTransposeAct1d(_ConvTransposeAct, nn.ConvTranspose1d): ...


class ConvTransposeAct2d(_ConvTransposeAct, nn.ConvTranspose2d): ...


class ConvTransposeAct3d(_ConvTransposeAct, nn.ConvTranspose3d): ...


class _ConvAct(GuardedCopy, Added):
    """``nn.Conv{n}d`` followed by ``act``: its arguments, parameters and state_dict, every padding mode.

    Shapes: x [N, in_channels, {sizes}] or unbatched; y [N, out_channels, ...], sizes as torch's.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.conv_act``. ``alpha`` and ``residual`` as in ``ConvTransposeAct{n}d``.
    """

    dilation = Guarded()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_scripting():
            return self._as_torch(x, residual)
        elif recording(x):
            return self._recorded(x, residual=residual)
        else:
            padding = self.padding
            if self.padding_mode != "zeros":
                x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
            return conv_act(
                x, self.weight, self.bias, stride=self.stride, padding=padding, dilation=vars(self)["dilation"], groups=self.groups,
                act=self.act, alpha=self.alpha, residual=residual, residual_first=self.residual_first, factor=self.factor,
            )  # fmt: skip

    def _as_torch(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self._finished(self._torch_forward(x), self._dims, residual)


class ConvAct1d(_ConvAct, nn.Conv1d): ...


class ConvAct2d(_ConvAct, nn.Conv2d): ...


class ConvAct3d(_ConvAct, nn.Conv3d): ...


class _UpsampleConvAct(GuardedCopy, Added):
    """``nn.Upsample(scale_factor)`` (nearest), ``nn.Conv{n}d`` with stride 1 and zero padding, and ``act`` in one pass;
    the convolution's parameters and state_dict.

    Shapes: x [N, in_channels, {sizes}] or unbatched; y [N, out_channels, ...], each size * scale_factor + 2*padding - kernel_size + 1.
        With ``return_partials=True`` the call gives (y, partials) for ``BatchNormAct{n}d(..., partials=partials)``.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.upsample_conv_act``. ``alpha`` and
        ``residual`` as in ``ConvTransposeAct{n}d``.
    """

    dilation = Guarded()

    def __init__(
        self, in_channels, out_channels, kernel_size=3, padding=1, groups=1, bias=True, device=None, dtype=None, *, scale_factor=2,
        act="linear", alpha=None, residual_first=False, factor=1.0,
    ):  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, 1, padding, 1, groups, bias, "zeros", device, dtype)
        if isinstance(self.padding, str):
            _checks.fail(type(self).__name__, f"padding is {padding!r}, wants an int or a tuple of them")
        self.scale_factor = scale_factor
        self._set_activation(act, alpha, device, dtype)
        self._set_residual(residual_first, factor)

    def forward(self, x: Tensor, return_partials: bool = False, residual: Tensor | None = None):
        if is_scripting():
            return self._as_torch(x, return_partials, residual)
        elif recording(x):
            return self._recorded(x, return_partials=return_partials, residual=residual)
        else:
            return upsample_conv_act(
                x, self.weight, self.bias, scale_factor=self.scale_factor, padding=self.padding, groups=self.groups, act=self.act,
                alpha=self.alpha, return_partials=return_partials, residual=residual, residual_first=self.residual_first,
                factor=self.factor,
            )  # fmt: skip

    def _as_torch(self, x: Tensor, return_partials: bool, residual: Tensor | None = None) -> Tensor:
        refuse_partials(return_partials)
        return self._finished(self._torch_forward(self._upsampled(x)), self._dims, residual)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale_factor={self.scale_factor}"


class UpsampleConvAct1d(_UpsampleConvAct, nn.Conv1d): ...


class UpsampleConvAct2d(_UpsampleConvAct, nn.Conv2d): ...


class UpsampleConvAct3d(_UpsampleConvAct, nn.Conv3d): ...


_KINDS = ("ConvAct", "ConvTransposeAct", "UpsampleConvAct")
__all__ = [f"{kind}{n}d" for kind in _KINDS for n in (1, 2, 3)]
