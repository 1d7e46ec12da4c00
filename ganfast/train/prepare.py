"""Prepares the networks (device, memory format, spectral norm, synchronised batch norm, equal weights) and makes their optimizers."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ganfast.train.config import TrainConfig
from ganfast.train.distributed import sync_batch_norm
from ganfast.train.distributed.world import World
from ganfast.train.randomness import mixed

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, nn.Embedding)


def normalise(discriminator: nn.Module, seed: int) -> None:
    """Spectral normalisation of every layer with a weight matrix, in place. Layers whose weight is already computed from other parameters
    stay as they are. The power iteration's first vectors are drawn from `seed`.

    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks".
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mixed(seed, "spectral"))
        for layer in [m for m in discriminator.modules() if isinstance(m, LAYERS) and isinstance(m._parameters.get("weight"), Tensor)]:
            parametrizations.spectral_norm(layer)


def prepare(networks: dict[str, nn.Module], config: TrainConfig, device: torch.device, world: World) -> None:
    """Prepares the networks in place. Afterwards every process has the same weights."""
    layout = torch.channels_last if config.channels_last else torch.preserve_format
    for network in networks.values():
        if not network.training:  # a part that is frozen in eval mode stays so
            network.train()
        network.to(device, memory_format=layout)
    if config.spectral_norm:
        normalise(networks["discriminator"], config.seed)
    if config.sync_batch_norm and world.size > 1:
        sync_batch_norm.synchronise(nn.ModuleDict(networks))
    world.broadcast(*networks.values())


def optimizers(networks: dict[str, nn.Module], config: TrainConfig, device: torch.device) -> dict[str, torch.optim.Optimizer]:
    """One Adam for each network, over the parameters that require a gradient."""
    how = {"lr": config.learning_rate, "betas": config.betas, "fused": True, "capturable": device.type == "cuda"}
    return {name: torch.optim.Adam([p for p in network.parameters() if p.requires_grad], **how) for name, network in networks.items()}
