"""Six classes of bars in place of MNIST, and small runs of augmentation on them."""

import math

import pytest
import torch

from ganfast.systems.augmentation import Options
from ganfast.systems.sources import digits, scarce
from ganfast.train.data import to_uint8
from ganfast.train.data.folders import ImageData

CLASSES, EACH = 6, 40


def bars(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [n, 1, 16, 16]: a bright bar at the class's angle, moved and of another length each time."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    x, y, length = (torch.rand(3, n, generator=draw) * torch.tensor([6.0, 6.0, 4.0])[:, None])[:, :, None, None]
    across, down = torch.arange(16.0) - 4.5 - x, torch.arange(16.0)[:, None] - 4.5 - y
    angle = (labels * math.pi / CLASSES)[:, None, None]
    along, beside = across * angle.cos() + down * angle.sin(), down * angle.cos() - across * angle.sin()
    bright = (along.abs() < 2 + length) & (beside.abs() < 1)
    return to_uint8(2.0 * bright[:, None] - 1), labels


@pytest.fixture(autouse=True, name="mnist")
def bars_in_place_of_digits(monkeypatch):
    images, labels = bars(CLASSES * EACH, 0)
    order = labels.argsort(stable=True)
    data = ImageData(images[order], labels[order], list("abcdef"))
    monkeypatch.setattr(digits, "mnist", lambda size: data)
    scarce.task.cache_clear()
    yield data
    scarce.task.cache_clear()


def small(**given) -> Options:
    sizes = {"per_class": 5, "width": 4, "batch_size": 8, "steps": 3, "reader_steps": 60, "readers": 1, "made": 30, "latent_dim": 4}
    return Options(**sizes | {"fused": False} | given)


def numbers(images):
    return [image.numpy().tobytes() for image in images]
