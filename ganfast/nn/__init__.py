"""The ops as modules: each an instance of the torch module it replaces, its arguments plus `act` and `alpha`."""

from ganfast.nn import group_norms, layers, losses
from ganfast.nn.group_norms import *  # noqa: F403
from ganfast.nn.layers import *  # noqa: F403
from ganfast.nn.losses import *  # noqa: F403

__all__ = group_norms.__all__ + layers.__all__ + losses.__all__
