"""Fully connected networks for data that are vectors: points of a plane, features, a few numbers each."""

import itertools

import torch
from torch import Tensor, nn


def _layers(in_dim: int, out_dim: int, width: int, depth: int) -> nn.Sequential:
    """`depth` hidden layers of `width`, with torch's own initialisation, and a linear one; no norm, which would mix the samples."""
    if depth < 1:
        raise ValueError(f"mlp: depth got {depth}, wants at least one hidden layer.")
    sizes = [in_dim, *[width] * depth]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, out_dim))


def _check(name: str, x: Tensor, dim: int, condition: Tensor | None, condition_dim: int | None) -> None:
    if x.dim() != 2 or x.shape[1] != dim:
        raise ValueError(f"mlp: {name} got {list(x.shape)}, wants [N, {dim}]; one vector per sample.")
    got = None if condition is None else list(condition.shape)
    wanted = None if condition_dim is None else [len(x), condition_dim]
    if got != wanted:
        raise ValueError(f"mlp: condition got {got}, wants {wanted}; the network was built with condition_dim={condition_dim}.")


class MLPGenerator(nn.Module):
    """Latents to vectors, without bounds. A condition (the embedding of a label) is joined to the latent.

    Shapes: latent [N, latent_dim], condition [N, condition_dim] or None -> [N, out_dim].
    Raises: ValueError for other shapes, or without a hidden layer.
    Source: the networks of Mescheder et al. 2018 for points of a plane, with ReLU and a choice of width and depth.
    """

    def __init__(self, latent_dim: int, out_dim: int, width: int = 128, depth: int = 3, condition_dim: int | None = None) -> None:
        super().__init__()
        self.latent_dim, self.condition_dim = latent_dim, condition_dim
        self.layers = _layers(latent_dim + (condition_dim or 0), out_dim, width, depth)

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        _check("latent", latent, self.latent_dim, condition, self.condition_dim)
        return self.layers(latent if condition is None else torch.cat([latent, condition], 1))


class MLPDiscriminator(nn.Module):
    """Vectors to logits (no sigmoid), one per sample; a condition enters by projection, as in DCGANDiscriminator.

    Shapes: x [N, in_dim], condition [N, condition_dim] or None -> [N].
    Raises: ValueError for other shapes, or without a hidden layer.
    Source: Miyato & Koyama 2018 (the projection).
    """

    def __init__(self, in_dim: int, width: int = 128, depth: int = 3, condition_dim: int | None = None) -> None:
        super().__init__()
        self.in_dim, self.condition_dim = in_dim, condition_dim
        self.layers = _layers(in_dim, 1 + (condition_dim or 0), width, depth)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        _check("x", x, self.in_dim, condition, self.condition_dim)
        h = self.layers(x)
        if condition is None:
            return h[:, 0]
        return h[:, 0] + (h[:, 1:] * condition).sum(1) * condition.shape[1] ** -0.5
