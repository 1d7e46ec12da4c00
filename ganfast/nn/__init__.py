"""The ops as modules: each an instance of the torch module it replaces, its arguments plus `act` and `alpha`."""

from ganfast.nn import layers, losses, norms
from ganfast.nn.layers import *  # noqa: F403
from ganfast.nn.losses import *  # noqa: F403
from ganfast.nn.norms import *  # noqa: F403

__all__ = layers.__all__ + losses.__all__ + norms.__all__
