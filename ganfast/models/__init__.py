"""The networks of the examples, in plain torch; `ganfast.accelerate` makes them fast, as it does any model."""

from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganfast.models.mlp import MLPDiscriminator, MLPGenerator

__all__ = ["DCGANDiscriminator", "DCGANGenerator", "MLPDiscriminator", "MLPGenerator"]
