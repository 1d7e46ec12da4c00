"""Launches of the convolutions' and bias_act's Triton kernels, to be recorded and compiled."""

import importlib

import torch

from tests.triton_aot import meta, op


def conv(shape, c_out, kernel, stride, padding, dtype, last, act="relu", dilation=1, groups=1, save_z=False, alpha=False, residual="",
         signs=False, **kwargs):  # fmt: skip
    rank = len(shape) - 2
    x = meta(*shape, dtype=dtype, channels_last=last)
    weight = meta(shape[1], c_out // groups, *[kernel] * rank, dtype=dtype, channels_last=last)
    per_dim = [[stride] * rank, [padding] * rank, [0] * rank, [dilation] * rank]
    if residual:
        size = [(i - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 for i in shape[2:]]
        image = meta(shape[0], c_out, *size, dtype=dtype, channels_last=last)
        kwargs |= {"residual": image, "residual_first": residual == "first", "factor": 0.7, "keep_signs": signs}
    op("conv_transpose_act").conv_transpose_act_fwd_triton(
        x, weight, meta(c_out), meta(c_out) if alpha else None, *per_dim, groups, act, 0.2, last, save_z, not residual, **kwargs
    )


def few(shape, c_out, kernel, stride, padding, dtype, last, save_z=False, alpha=False, partials=True):
    """Every configuration of the few-channel kernel."""
    op = importlib.import_module("ganfast.ops.conv_transpose_act.triton_few")
    rank = len(shape) - 2
    x, weight = meta(*shape, dtype=dtype, channels_last=last), meta(shape[1], c_out, *[kernel] * rank, dtype=dtype)
    per_dim = [[stride] * rank, [padding] * rank, [0] * rank, [1] * rank]
    assert op.few_reason(x, weight, *per_dim, 1, last) is None
    for config in op.few_configurations(x, weight, *per_dim, 1, last):
        op.conv_transpose_act_fwd_few_triton(
            x, weight, meta(c_out), meta(c_out) if alpha else None, *per_dim, 1, "tanh", 0.2, last, save_z, partials, config=config
        )


def epilogue(shape, dtype, last, act, alpha=False, from_y=False, gain=1.0, clamp=None, residual="", signs=False):
    x, c = meta(*shape, dtype=dtype, channels_last=last), meta(shape[1])
    a, op_triton = c if alpha else None, op("bias_act")
    added = (x if residual else None, residual == "first", 0.7, signs)
    _, found = op_triton.bias_act_fwd_triton(x, c, a, act, 0.2, gain, clamp, last, *added)
    op_triton.bias_act_bwd_triton(x, found if signs and clamp is None else x, c, a, act, 0.2, gain, clamp, from_y or signs, last)


def conv_tma(shape, c_out, dtype, act, config="", **kwargs):
    """Where only the copy engine's kernel fits: a name of it would be refused elsewhere."""
    return lambda capability: conv(shape, c_out, 4, 2, 1, dtype, True, act, config=config, capability=capability, **kwargs)


def conv_tma_scaled(capability):
    """The launcher's arguments that the op does not pass."""
    from ganfast.ops.conv_transpose_act import triton_configs, triton_tma

    x, weight, c = (meta(*shape, dtype=torch.bfloat16, channels_last=True) for shape in ((8, 64, 8, 8), (64, 64, 4, 4), (8, 64, 16, 16)))
    vector = meta(64)
    p = op("conv_transpose_act")._problem(x, weight, [2, 2], [1, 1], [0, 0], [1, 1], 1, True, False, capability)
    blocks = triton_configs.parse(triton_configs.tma_configurations(p)[0])
    triton_tma.conv_transpose_act_fwd_tma(p, blocks, x, weight, None, None, "relu", 0.0, c, None, False, vector, vector)
