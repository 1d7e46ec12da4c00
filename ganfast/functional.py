"""The ops as functions; every one takes tensors of a CPU or GPU and returns fresh ones."""

from ganfast.ops.batch_norm_act.instance import instance_norm_act
from ganfast.ops.batch_norm_act.op import batch_norm_act
from ganfast.ops.bias_act.op import bias_act
from ganfast.ops.conv_act.op import conv_act
from ganfast.ops.conv_transpose_act.op import conv_transpose_act
from ganfast.ops.filtered_act.op import filtered_act
from ganfast.ops.gan_loss.op import LossStats, discriminator_loss, generator_loss
from ganfast.ops.gather_images.op import gather_images
from ganfast.ops.group_norm_act.layer import layer_norm_act
from ganfast.ops.group_norm_act.op import group_norm_act
from ganfast.ops.modulated_conv.op import modulated_conv
from ganfast.ops.normalised_weights.op import equalised_weights, spectral_norms, weight_norms
from ganfast.ops.upfirdn.filters import setup_filter
from ganfast.ops.upfirdn.op import downsample, filter, upfirdn, upsample
from ganfast.ops.upsample_conv_act.op import upsample_conv_act

__all__ = [
    "LossStats",
    "batch_norm_act",
    "bias_act",
    "conv_act",
    "conv_transpose_act",
    "discriminator_loss",
    "downsample",
    "equalised_weights",
    "filter",
    "filtered_act",
    "gather_images",
    "generator_loss",
    "group_norm_act",
    "instance_norm_act",
    "layer_norm_act",
    "modulated_conv",
    "setup_filter",
    "spectral_norms",
    "upfirdn",
    "upsample",
    "upsample_conv_act",
    "weight_norms",
]
