"""The networks of the examples, in plain torch; `ganfast.accelerate` makes them fast, as it does any model."""

from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganfast.models.mlp import MLPDiscriminator, MLPGenerator
from ganfast.models.r3gan import R3GANDiscriminator, R3GANGenerator
from ganfast.models.stylegan2 import StyleGAN2Generator
from ganfast.models.stylegan2_discriminator import StyleGAN2Discriminator
from ganfast.models.vocoder import BigVGANGenerator
from ganfast.models.vocoder_discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator

__all__ = [
    "BigVGANGenerator", "DCGANDiscriminator", "DCGANGenerator", "MLPDiscriminator", "MLPGenerator", "MultiPeriodDiscriminator",
    "MultiResolutionDiscriminator", "R3GANDiscriminator", "R3GANGenerator", "StyleGAN2Discriminator", "StyleGAN2Generator",
]  # fmt: skip
