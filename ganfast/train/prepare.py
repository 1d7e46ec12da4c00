"""Prepares the networks (device, memory format, spectral norm, synchronised batch norm, equal weights, acceleration) and makes their
optimizers."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, remove_weight_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

import ganfast
from ganfast import _checks
from ganfast._tell import tell
from ganfast.train.config import TrainConfig
from ganfast.train.distributed import sync_batch_norm
from ganfast.train.distributed.world import World
from ganfast.train.networks import Network
from ganfast.train.randomness import mixed

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, nn.Embedding)


def normalise(discriminator: nn.Module, seed: int) -> None:
    """Every layer with a weight matrix, in place: what the layer multiplies by has spectral norm 1, also where that weight is made of
    something else already (weight norm, any parametrization). The first vectors are drawn from `seed`. torch's older weight_norm becomes
    the newer one, of the same parameters. Layers that have spectral norm stay as they are.

    Raises: ValueError for a layer whose weight is set by a hook, such as torch.nn.utils.prune's, and where there is no such layer.
    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks".
    """
    layers = {name: m for name, m in discriminator.named_modules() if isinstance(m, LAYERS)}
    if not layers:
        cause = "Normalise its weights yourself, and leave spectral_norm off"
        _checks.fail("train", "spectral_norm finds no convolution, linear or embedding layer in the discriminator", cause)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mixed(seed, "spectral"))
        for name, layer in layers.items():
            if not _has_spectral_norm(layer):
                _renew_weight_norm(layer)
                if not (isinstance(layer._parameters.get("weight"), Tensor) or is_parametrized(layer, "weight")):
                    what = f"spectral_norm got the discriminator's layer {name!r}, a {type(layer).__name__} whose weight is no parameter"
                    _checks.fail("train", what, "A hook sets it at each forward: take that off, as torch.nn.utils.prune.remove does")
                parametrizations.spectral_norm(layer)
    normalised = {p for layer in layers.values() for p in layer.parameters()}
    matrices = [name for name, p in discriminator.named_parameters() if p.dim() > 1 and p not in normalised]
    if matrices:
        tell(f"spectral_norm leaves {', '.join(matrices)} of the discriminator as they are: no convolution, linear or embedding layer's")


def _has_spectral_norm(layer: nn.Module) -> bool:
    """As the last thing that happens to its weight."""
    if is_parametrized(layer, "weight"):
        return isinstance(layer.parametrizations["weight"][-1], parametrizations._SpectralNorm)
    return any(isinstance(hook, SpectralNorm) and hook.name == "weight" for hook in layer._forward_pre_hooks.values())


def _renew_weight_norm(layer: nn.Module) -> None:
    """The older one's weight is no parameter, which a parametrization needs."""
    for hook in list(layer._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            norm, direction = layer.weight_g, layer.weight_v
            remove_weight_norm(layer)
            parametrizations.weight_norm(layer, dim=hook.dim)
            layer.parametrizations["weight"].original0, layer.parametrizations["weight"].original1 = norm, direction


def prepare(
    settings: dict[str, Network], discriminators: Iterable[str], config: TrainConfig, device: torch.device, world: World
) -> None:
    """Prepares the networks in place. Afterwards every process has the same weights."""
    layout = torch.channels_last if config.channels_last else torch.preserve_format
    networks = {name: network.module for name, network in settings.items()}
    for name, network in networks.items():
        if settings[name].frozen:
            network.eval().requires_grad_(False)
        elif not network.training:  # a part that is frozen in eval mode stays so
            network.train()
        network.to(device, memory_format=layout)
    for name in discriminators if config.spectral_norm else ():
        normalise(networks[name], config.seed)
    if config.sync_batch_norm and not any(isinstance(m, _BatchNorm) for network in networks.values() for m in network.modules()):
        tell("sync_batch_norm changes nothing: no network has a batch norm of torch's or ganfast's")
    if config.sync_batch_norm and world.size > 1:
        sync_batch_norm.synchronise(nn.ModuleDict(networks))
    world.broadcast(*networks.values())
    if config.fused:  # after all that changes the layers, and before the average is copied
        for network in networks.values():
            ganfast.accelerate(network)


def rate(network: Network, discriminates: bool, config: TrainConfig) -> float:
    """A network's learning rate before it falls."""
    own = config.discriminator_learning_rate if discriminates else None
    return network.learning_rate or own or config.learning_rate


def optimizers(
    networks: dict[str, Network], rates: dict[str, float], rarer: dict[str, float], config: TrainConfig, device: torch.device
) -> dict[str, torch.optim.Optimizer]:
    """One Adam for each network that learns, over the parameters that require a gradient. rarer: powers for betas, see `corrections`."""
    found = {}
    for name, network in networks.items():
        learning = [p for p in network.module.parameters() if p.requires_grad]
        betas = tuple(beta ** rarer.get(name, 1) for beta in network.betas or config.betas)
        how = {"lr": rates[name], "betas": betas, "capturable": device.type == "cuda"}
        if learning:
            decay = {"weight_decay": network.weight_decay, "decoupled_weight_decay": True} if network.weight_decay else {}
            found[name] = torch.optim.Adam(learning, **how, **decay, fused=True)
    return found
