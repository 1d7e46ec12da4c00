"""Norms: torch's modules with an activation in the same pass, an affine from outside and a residual where a call has them."""

import torch
from torch import Tensor, nn
from torch.jit import is_scripting

from ganfast import _checks
from ganfast.nn.activated import Activated, Added, recording, refuse_partials
from ganfast.nn.by_class import Guarded
from ganfast.ops.batch_norm_act.instance import instance_norm_act
from ganfast.ops.batch_norm_act.op import batch_norm_act
from ganfast.ops.group_norm_act.layer import layer_norm_act
from ganfast.ops.group_norm_act.op import group_norm_act

__all__ = [*(f"{kind}{n}d" for kind in ("BatchNormAct", "InstanceNormAct") for n in (1, 2, 3)), "GroupNormAct", "LayerNormAct"]


class Modulated(Added):
    """A norm whose call takes scale and shift, and a residual."""

    def _modulated(self, z: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """By torch's functions."""
        if scale is None and shift is None:
            return z
        if scale is None or shift is None:
            raise ValueError("scale and shift come together; one of them is None")
        ones = [1] * (z.dim() - scale.dim())
        by, more = scale.to(z.dtype).view(list(scale.shape) + ones), shift.to(z.dtype).view(list(shift.shape) + ones)
        return torch.addcmul(more, z, by)


def count_batch(norm: nn.Module) -> float:
    """Counts the batch in train mode, as torch's batch norm does; the momentum to move its running statistics by."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    return momentum


class _BatchNormAct(Modulated):
    """``nn.BatchNorm{n}d`` followed by ``act`` in one pass: its arguments, parameters, buffers and state_dict.

    Shapes: x [N, num_features, {sizes}], in 1-D also [N, num_features]; y the same. ``partials`` [T, 3, num_features]: statistics that
        ``ConvTransposeAct{n}d`` returned for x; used in train mode, ignored in eval. ``scale``, ``shift`` and ``residual`` at call time as
        in ``ganfast.functional.batch_norm_act``; ``residual_first`` and ``factor`` are constants of the layer.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.batch_norm_act``. ``alpha`` as in ``ConvTransposeAct{n}d``.
    """

    eps = Guarded()

    def forward(
        self, x: Tensor, partials: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if is_scripting():
            return self._as_torch(x, partials, scale, shift, residual)
        elif recording(x):
            return self._recorded(x, partials=partials, scale=scale, shift=shift, residual=residual)
        else:
            self._check_input_dim(x)
            momentum = count_batch(self)
            of_batch = self.training or self.running_mean is None
            kept = (self.running_mean, self.running_var) if not self.training or self.track_running_stats else (None, None)
            return batch_norm_act(
                x, *kept, self.weight, self.bias, training=of_batch, momentum=momentum, eps=vars(self)["eps"], act=self.act,
                alpha=self.alpha, partials=partials if of_batch else None, scale=scale, shift=shift, residual=residual,
                residual_first=self.residual_first, factor=self.factor,
            )  # fmt: skip

    def _as_torch(
        self, x: Tensor, partials: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        refuse_partials(partials is not None)
        return self._finished(self._modulated(self._torch_forward(x), scale, shift), x.dim() - 2, residual)


class BatchNormAct1d(_BatchNormAct, nn.BatchNorm1d): ...


class BatchNormAct2d(_BatchNormAct, nn.BatchNorm2d): ...


class BatchNormAct3d(_BatchNormAct, nn.BatchNorm3d): ...


class _InstanceNormAct(Modulated):
    """``nn.InstanceNorm{n}d`` followed by ``act`` in one pass: its arguments, parameters and state_dict; the same in train and
    eval mode, as torch's without running statistics.

    Shapes: x [N, num_features, {sizes}] or unbatched; y the same. ``scale``, ``shift``, [N, num_features] or x's shape, and ``residual`` at
        call time as in ``ganfast.functional.instance_norm_act``; ``residual_first`` and ``factor`` are constants of the layer.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.instance_norm_act``; ValueError for ``track_running_stats=True``.
        ``alpha`` as in ``ConvTransposeAct{n}d``.
    """

    def _check_options(self) -> None:
        if self.track_running_stats:
            _checks.fail(type(self).__name__, "track_running_stats=True is not supported, every image is normalised by its own statistics",
                         f"Running ones want nn.{type(self).__name__.replace('Act', '')} and an activation after it")  # fmt: skip

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        if is_scripting():
            return self._as_torch(x, scale, shift, residual)
        elif recording(x):
            return self._recorded(x, scale=scale, shift=shift, residual=residual)
        else:
            self._check_input_dim(x)
            unbatched = x.dim() == self._get_no_batch_dim()
            if unbatched:
                x, scale, shift, residual = (t if t is None else t.unsqueeze(0) for t in (x, scale, shift, residual))
            y = instance_norm_act(
                x, self.weight, self.bias, eps=self.eps, act=self.act, alpha=self.alpha, scale=scale, shift=shift, residual=residual,
                residual_first=self.residual_first, factor=self.factor,
            )  # fmt: skip
            return y.squeeze(0) if unbatched else y

    def _as_torch(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        return self._finished(self._modulated(self._torch_forward(x), scale, shift), self._dims, residual)


class InstanceNormAct1d(_InstanceNormAct, nn.InstanceNorm1d): ...


class InstanceNormAct2d(_InstanceNormAct, nn.InstanceNorm2d): ...


class InstanceNormAct3d(_InstanceNormAct, nn.InstanceNorm3d): ...


class GroupNormAct(Modulated, nn.GroupNorm):
    """``nn.GroupNorm`` followed by ``act`` in one pass: its arguments, parameters and state_dict.

    Shapes: x [N, num_channels] or [N, num_channels, *spatial] up to 3-D; y the same. ``scale``, ``shift`` and ``residual`` at call time as
        in ``ganfast.functional.group_norm_act``; ``residual_first`` and ``factor`` are constants of the layer.
    Dtypes, Layout, Grads, Raises, Source: see ``ganfast.functional.group_norm_act``. ``alpha``: a float, or a tensor [1] or [num_channels]
        that becomes the learned parameter ``alpha``.
    """

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        if is_scripting():
            return self._as_torch(x, scale, shift, residual)
        elif recording(x):
            return self._recorded(x, scale=scale, shift=shift, residual=residual)
        else:
            return group_norm_act(
                x, self.num_groups, self.weight, self.bias, eps=self.eps, act=self.act, alpha=self.alpha, scale=scale, shift=shift,
                residual=residual, residual_first=self.residual_first, factor=self.factor,
            )  # fmt: skip

    def _as_torch(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        return self._finished(self._modulated(self._torch_forward(x), scale, shift), x.dim() - 2, residual)


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
