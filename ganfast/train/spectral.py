"""Spectral normalisation of a discriminator, by torch's own parametrization."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ganfast.train.randomness import mixed

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, nn.Embedding)


def normalise(discriminator: nn.Module, seed: int) -> None:
    """Every layer with a weight matrix, in place; those whose weight is made of something else already stay as they are. The first vectors
    are drawn from `seed`.

    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks".
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mixed(seed, "spectral"))
        for layer in [m for m in discriminator.modules() if isinstance(m, LAYERS) and isinstance(m._parameters.get("weight"), Tensor)]:
            parametrizations.spectral_norm(layer)
