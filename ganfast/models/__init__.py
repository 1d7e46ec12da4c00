"""The networks of the examples, in plain torch; `fused=True` builds the same ones from ganfast's layers."""

from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator

__all__ = ["DCGANDiscriminator", "DCGANGenerator"]
