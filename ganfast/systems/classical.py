"""Classical augmentation of pictures that a classifier learns from: moved, turned and stretched a little, under noise, mixed by pairs.

Source: Simard, Steinkraus & Platt 2003 (small affine maps of digits); Zhang, Cisse, Dauphin & Lopez-Paz 2018 (mixup).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks

TURN, STRETCH, SLANT, MOVE = 0.35, 0.2, 0.4, 0.08  # radians; shares of the size; MOVE of the picture's side


def names(policy: str) -> list[str]:
    """Of "shift,noise". Raises: ValueError for an unknown one."""
    found = [name.strip() for name in policy.split(",") if name.strip()]
    for name in found:
        if name not in POLICIES:
            _checks.nearest("augmentation", "classical", name, POLICIES)
    return found


def augmented(images: Tensor, answers: Tensor, policy: str, noise: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [B, C, H, W] in [-1, 1] and how much of each answer they show, floats [B, answers], after the policy, names of POLICIES
    joined by commas, in their order there. Each picture has draws of its own. noise: its largest
    deviation."""
    asked = names(policy)
    for name, change in POLICIES.items():
        if name in asked:
            images, answers = change(images, answers, noise, draw)
    return images, answers


def _placed(images: Tensor, maps: Tensor) -> Tensor:
    """By affine maps [B, 2, 3] of places in [-1, 1]; what comes in is as the border."""
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _shift(images: Tensor, answers: Tensor, noise: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """By -1, 0 or 1 pixels, of each direction."""
    maps = torch.eye(2, 3).repeat(len(images), 1, 1)
    size = torch.tensor(images.shape[:1:-1])
    maps[:, :, 2] = torch.randint(-1, 2, (len(images), 2), generator=draw) * 2 / size
    return _placed(images, maps), answers


def _affine(images: Tensor, answers: Tensor, noise: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    turn, slant, wide, high, right, down = (2 * torch.rand(6, len(images), generator=draw) - 1).unbind(0)
    turn, slant, wide, high = TURN * turn, SLANT * slant, 1 + STRETCH * wide, 1 + STRETCH * high
    rows = [wide * turn.cos(), slant - turn.sin(), 2 * MOVE * right, turn.sin(), high * turn.cos(), 2 * MOVE * down]
    return _placed(images, torch.stack(rows, 1).view(-1, 2, 3)), answers


def _noise(images: Tensor, answers: Tensor, noise: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    strength = noise * torch.rand(len(images), 1, 1, 1, generator=draw)
    return images + strength * torch.randn(images.shape, generator=draw), answers


def _mixup(images: Tensor, answers: Tensor, noise: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    share, other = torch.rand(len(images), generator=draw), torch.randperm(len(images), generator=draw)
    mix = lambda values, share: share * values + (1 - share) * values[other]
    return mix(images, share[:, None, None, None]), mix(answers, share[:, None])


POLICIES = {"shift": _shift, "affine": _affine, "noise": _noise, "mixup": _mixup}
