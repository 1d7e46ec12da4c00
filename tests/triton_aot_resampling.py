"""Launches of the Triton kernels of StyleGAN's family, to be recorded and compiled."""

import torch

from tests.triton_aot import meta, op


def resampled(taps, up, down, dtype, last):
    geometry = [up] * 2, [down] * 2, [2, 2], [1, 1]
    op("upfirdn").upfirdn_fwd_triton(meta(8, 64, 32, 32, dtype=dtype, channels_last=last), meta(*taps), *geometry, False, 1.0, last)


def between(size, taps, up, act, dtype, learns=False, keep_signs=False, replicate=False):
    """filtered_act's three passes, down by 2."""
    x, vector = meta(2, 64, *size, dtype=dtype), meta(2, 64) if act == "snake_beta" else meta(64) if learns else None
    dims = len(size)
    padding = ([6], [5]) if replicate else ([11] * dims, [10] * dims)
    maps = (meta(*taps), meta(12), [up] * dims, [2] * dims, *padding, False, replicate)
    numbers = (meta(64), vector, act, 0.2, 1.4, None if replicate else 256.0)
    run = op("filtered_act")
    y, signs = run.filtered_act_fwd_triton(x, *maps, *numbers, keep_signs)
    if keep_signs:
        run.filtered_act_linear_triton(x, signs, *maps, act, 0.2, 1.4, False, list(size))
        run.filtered_act_linear_triton(y, signs, *maps, act, 0.2, 1.4, True, list(size))
    else:
        run.filtered_act_bwd_triton(y, x, *maps, *numbers)


def modulated_conv(shape, c_out, kernel, dtype, last, act, clamp=None, beside=True, alpha=False, form=(False, False)):
    """The passes of one layer whose result is as large as x; form: the prepared weight's."""
    m, (n, c, h, w) = op("modulated_conv"), shape
    x, y = meta(*shape, dtype=dtype, channels_last=last), meta(n, c_out, h, w, dtype=dtype, channels_last=last)
    style, vector, weight, pairs = meta(n, c), meta(c_out), meta(c_out, c, *kernel), meta(c_out, c)
    m.modulated_conv_scale_fwd_triton(x, style, last)
    m.modulated_conv_scale_bwd_triton(x, x, style, last)
    given = (meta(n, c_out), meta(n, 1, h, w)) if beside else (None, None)
    numbers = (*given, vector, vector if alpha else None, act, 0.2, 2**0.5, clamp, last)
    m.modulated_conv_finish_fwd_triton(y, *numbers)
    m.modulated_conv_finish_bwd_triton(y, y, *numbers)
    scale = vector if dtype != torch.float32 else None
    w, _ = m.modulated_conv_prepare_fwd_triton(weight, scale, *form, dtype)
    m.modulated_conv_prepare_bwd_triton(weight, w if w.numel() else weight, pairs, scale, *form)
