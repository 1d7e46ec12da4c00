"""The networks of the examples, in plain torch; `ganfast.accelerate` makes them fast, as it does any model."""

from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganfast.models.mlp import MLPDiscriminator, MLPGenerator
from ganfast.models.r3gan import R3GANDiscriminator, R3GANGenerator
from ganfast.models.stylegan2 import StyleGAN2Generator
from ganfast.models.stylegan2_discriminator import StyleGAN2Discriminator

__all__ = [
    "DCGANDiscriminator", "DCGANGenerator", "MLPDiscriminator", "MLPGenerator", "R3GANDiscriminator", "R3GANGenerator",
    "StyleGAN2Discriminator", "StyleGAN2Generator",
]  # fmt: skip
