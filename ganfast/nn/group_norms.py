"""Group norm and layer norm with an activation in the same pass."""

import torch
from torch import Tensor, nn
from torch.jit import is_scripting

from ganfast.nn.activated import Activated, recording
from ganfast.ops.group_norm_act.layer import layer_norm_act
from ganfast.ops.group_norm_act.op import group_norm_act

__all__ = ["GroupNormAct", "LayerNormAct"]


class GroupNormAct(Activated, nn.GroupNorm):
    """``nn.GroupNorm`` followed by ``act`` in one pass: its arguments, parameters and state_dict.

    Shapes: x [N, num_channels] or [N, num_channels, *spatial] up to 3-D; y the same. ``scale`` and ``shift`` at call time as in
        ``ganfast.functional.group_norm_act``.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.group_norm_act``. ``alpha`` as in ``ConvTransposeAct{n}d``.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        if is_scripting():
            return self._as_torch(x, scale, shift)
        elif recording(x):
            return self._recorded(x, scale=scale, shift=shift)
        else:
            return group_norm_act(
                x, self.num_groups, self.weight, self.bias, eps=self.eps, act=self.act, alpha=self.alpha, scale=scale, shift=shift
            )

    def _as_torch(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        z = self._torch_forward(x)
        if scale is not None and shift is not None:
            ones = [1] * (x.dim() - scale.dim())
            z = torch.addcmul(shift.view(list(shift.shape) + ones), z, scale.view(list(scale.shape) + ones))
        return self._activated(z, x.dim() - 2)


class LayerNormAct(Activated, nn.LayerNorm):
    """``nn.LayerNorm`` followed by ``act`` in one pass: its arguments, parameters and state_dict.

    Shapes: x [*, *normalized_shape]; y the same. ``alpha``: a float, or a tensor [1] or, where normalized_shape is one number, [that
        number], that becomes the learned parameter ``alpha``.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.layer_norm_act``.
    """

    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            return self._as_torch(x)
        elif recording(x):
            return self._recorded(x)
        else:
            return layer_norm_act(x, self.normalized_shape, self.weight, self.bias, eps=self.eps, act=self.act, alpha=self.alpha)

    def _as_torch(self, x: Tensor) -> Tensor:
        return self._activated(self._torch_forward(x), 0)
