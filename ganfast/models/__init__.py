"""The networks of the examples, in plain torch; `ganfast.accelerate` makes them fast, as it does any model."""

from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganfast.models.mlp import MLPDiscriminator, MLPGenerator
from ganfast.models.vocoder import BigVGANGenerator
from ganfast.models.vocoder_discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator

__all__ = [
    "BigVGANGenerator", "DCGANDiscriminator", "DCGANGenerator", "MLPDiscriminator", "MLPGenerator", "MultiPeriodDiscriminator",
    "MultiResolutionDiscriminator",
]  # fmt: skip
