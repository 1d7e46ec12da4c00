"""How diverse a batch of generated images is, compared with a batch of real ones; small where modes are lost."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks


def spread(fake: Tensor, real: Tensor) -> Tensor:
    """How diverse a batch of fakes is against one of reals: about 1 as diverse, 0 all the same; the smaller of two ratios, of the mean
    distance between any two, which falls when far modes are lost, and of the mean distance to the nearest other, which falls when
    images repeat, however far apart what is repeated lies.

    Shapes: images [N, C, H, W], compared by their averages over 8x8 fields, or vectors [N, ...], as they are; the first of the larger
        batch, as the nearest one is nearer among more. A 0-d tensor comes back; 1 where the reals do not differ, or are fewer than two.
    Dtypes: any floating; computed in float32. Grads: none. Never waits for the device.
    Raises: TypeError for what is no tensor of floats; ValueError for other shapes.
    """
    for name, tensor in (("fake", fake), ("real", real)):
        _checks.check_tensor("spread", name, tensor)
        _checks.check_floating("spread", name, tensor)
    if fake.dim() < 2 or fake.shape[1:] != real.shape[1:]:
        _checks.fail("spread", f"fake has shape {tuple(fake.shape)}, real {tuple(real.shape)}; both must be [N, ...] of the same images")
    n = min(len(fake), len(real))
    if n < 2:
        return torch.ones((), device=fake.device)
    with torch.no_grad():
        (any_fake, near_fake), (any_real, near_real) = (_distances(x[:n].float()) for x in (fake, real))
        ratios = torch.stack([any_fake, near_fake]) / torch.stack([any_real, near_real])
        return torch.where(torch.stack([any_real, near_real]) == 0, 1.0, ratios).min()


def _distances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance between two, each with itself among them, and mean distance to the nearest other."""
    x = (F.adaptive_avg_pool2d(x, 8) if x.dim() == 4 else x).flatten(1)
    # not by a matrix product, whose rounding makes copies differ
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.mean(), distance.fill_diagonal_(math.inf).amin(1).mean()
