"""The ops as modules: each an instance of the torch module it replaces, its arguments plus `act` and `alpha`."""

from ganfast.nn.layers import (
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
    ConvAct1d,
    ConvAct2d,
    ConvAct3d,
    ConvTransposeAct1d,
    ConvTransposeAct2d,
    ConvTransposeAct3d,
    InstanceNormAct1d,
    InstanceNormAct2d,
    InstanceNormAct3d,
    UpsampleConvAct1d,
    UpsampleConvAct2d,
    UpsampleConvAct3d,
)
from ganfast.nn.losses import DiscriminatorLoss, GeneratorLoss

__all__ = [
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "ConvAct1d",
    "ConvAct2d",
    "ConvAct3d",
    "ConvTransposeAct1d",
    "ConvTransposeAct2d",
    "ConvTransposeAct3d",
    "DiscriminatorLoss",
    "GeneratorLoss",
    "InstanceNormAct1d",
    "InstanceNormAct2d",
    "InstanceNormAct3d",
    "UpsampleConvAct1d",
    "UpsampleConvAct2d",
    "UpsampleConvAct3d",
]
