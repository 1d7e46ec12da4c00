"""Spectral normalisation of a discriminator, by torch's own parametrization."""

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, nn.Embedding)


def normalise(discriminator: nn.Module, seed: int) -> None:
    """Every layer with a weight matrix, in place; those that have a parametrization already stay as they are. Its first vectors are drawn
    from `seed`.

    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in [m for m in discriminator.modules() if isinstance(m, LAYERS) and not parametrize.is_parametrized(m, "weight")]:
            parametrizations.spectral_norm(layer)
