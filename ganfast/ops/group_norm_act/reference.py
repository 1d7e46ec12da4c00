"""Group norm + activation by its definition, in plain torch: batch norm's modulated formulas over groups of each image's channels."""

import torch

from ganfast.ops.batch_norm_act.modulated_reference import gradients, modulated_norm_act, normalised, spread, statistics


def group_norm_act_fwd_reference(x, weight, bias, scale, shift, alpha, groups, eps, act, alpha_value):
    """(y, mean, invstd [N * groups])"""
    mean, var = statistics(x, groups)
    xhat = normalised(x.to(mean.dtype), groups, eps)[0]
    y = modulated_norm_act(xhat, weight, bias, scale, shift, None, alpha, act, alpha_value, False, 1.0)
    return y.to(x.dtype), mean, torch.rsqrt(var + eps)


def group_norm_act_bwd_reference(gy, x, mean, invstd, weight, bias, scale, shift, alpha, groups, act, alpha_value):
    """(gx, gweight, gbias, galpha, gscale, gshift), None where there is no such tensor."""
    acc, statistics_of = mean.dtype, (spread(mean, x), spread(invstd, x))
    args = (weight, bias, scale, shift, None, alpha, act, alpha_value, 1.0, groups, True, None)
    gx, *rest = gradients(gy.to(acc), x.to(acc), *statistics_of, *args)[:6]
    return gx.to(x.dtype), *rest
