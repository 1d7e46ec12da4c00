"""The `torch` backend: torch's own batch norm kernels, then the activation as a pass of its own."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd
from ganfast.ops.batch_norm_act.reference import is_per_image, reduced_dims


def _one_image(x, mean) -> Tensor:
    """[N, C, ...] -> [1, N * C, ...], whose batch norm is x's instance norm, if mean says so; a copy of channels_last x, as torch's."""
    return x.reshape(1, -1, *x.shape[2:]) if is_per_image(mean, x) else x


def _normalise(x, mean, invstd, weight, bias) -> Tensor:
    # The kernel takes a variance; with eps = 0 it gets this inverse deviation back.
    return torch.native_batch_norm(x, weight, bias, mean, invstd.square().reciprocal(), False, 0.0, 0.0)[0]


def batch_norm_act_fwd_torch(x, mean, invstd, weight, bias, alpha, act, alpha_value, channels_last) -> Tensor:
    return act_fwd(_normalise(_one_image(x, mean), mean, invstd, weight, bias), act, alpha, alpha_value)


def batch_norm_act_bwd_torch(gy, x, mean, invstd, weight, bias, alpha, act, alpha_value, training, channels_last):
    acc, gy, x = mean.dtype, _one_image(gy, mean), _one_image(x, mean)
    z = None if act == "linear" else _normalise(x, mean, invstd, weight, bias)
    if act in ("linear", "relu"):  # which round nothing
        g = exact = act_bwd(gy, z, act, alpha, alpha_value, False)
    else:
        exact = act_bwd(gy.to(acc), z.to(acc), act, alpha, alpha_value, False)
        g = exact.to(gy.dtype)
    galpha = mean.new_empty(0) if alpha is None else act_alpha_bwd(gy.to(acc), z.to(acc), act, alpha).sum(reduced_dims(x))
    unit = torch.ones_like(mean) if weight is None else weight
    variance = invstd.square().reciprocal()
    gx, gweight, gbias = torch.ops.aten.native_batch_norm_backward(
        g, x, unit, mean, variance, mean, invstd, training, 0.0, [True, True, True]
    )
    gbias = gbias.to(acc) if exact is g else exact.sum(reduced_dims(x))  # from values not yet rounded to x's dtype
    return gx, gweight.to(acc), gbias, galpha
