"""Launches of the norms' Triton kernels, to be recorded and compiled."""

import importlib

from tests.triton_aot import meta, op


def norm(shape, dtype, last, act, alpha=False, per_image=False):
    x, c = meta(*shape, dtype=dtype, channels_last=last), meta(shape[1] * shape[0] if per_image else shape[1])
    a, bn = c if alpha else None, op("batch_norm_act")
    bn.batch_norm_act_stats_triton(x, per_image, last)
    bn.batch_norm_act_fwd_triton(x, c, c, c, c, a, act, 0.2, last)
    bn.batch_norm_act_bwd_triton(x, x, c, c, c, c, a, act, 0.2, True, last)


def modulated(shape, dtype, last, act, groups, full=False, first=None, alpha=False, factor=1.0):
    """Norms with scale and shift from outside, of x's shape where `full`; first: a residual's place, or None."""
    bn = importlib.import_module("ganfast.ops.batch_norm_act.triton_modulated")
    image = lambda there=True: meta(*shape, dtype=dtype, channels_last=last) if there else None
    c = meta(shape[1])
    statistics = meta(shape[0] * shape[1]) if groups else c
    scale = image() if full else meta(*shape[:2])
    operands = (statistics, statistics, c, c, scale, scale, image(first is not None), c if alpha else None, act, 0.2)
    bn.batch_norm_act_modulated_fwd_triton(image(), *operands, bool(first), factor, last)
    operands = operands if first else (*operands[:6], None, *operands[7:])
    bn.batch_norm_act_modulated_bwd_triton(image(), image(), *operands, factor, groups, True, last)


def group_norm(shape, dtype, last, act, groups, alpha=False, scale=False, backward=True):
    gn = op("group_norm_act")
    x, c, of_groups = meta(*shape, dtype=dtype, channels_last=last), meta(shape[1]), meta(shape[0] * groups)
    modulation = meta(*shape[:2]) if scale else None
    vectors = (c, c, modulation, modulation, c if alpha else None, groups)
    gn.group_norm_act_stats_triton(x, groups, 1e-5, last)
    gn.group_norm_act_fwd_triton(x, *vectors, 1e-5, act, 0.2, last)
    if backward:
        gn.group_norm_act_bwd_triton(x, x, of_groups, of_groups, *vectors, act, 0.2, last)
