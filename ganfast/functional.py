"""The ops as functions; every one takes tensors of a CPU or GPU and returns fresh ones."""

from ganfast.ops.conv_transpose_act.op import conv_transpose_act

__all__ = ["conv_transpose_act"]
