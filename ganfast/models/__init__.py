"""The networks of the examples, in plain torch; DCGAN's `fused=True` builds the same ones from ganfast's layers."""

from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganfast.models.mlp import MLPDiscriminator, MLPGenerator

__all__ = ["DCGANDiscriminator", "DCGANGenerator", "MLPDiscriminator", "MLPGenerator"]
