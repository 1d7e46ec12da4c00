"""Gaussian mixtures whose answer is known: what a generator that learned them draws is measured exactly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 3.0  # standard deviations within which a sample counts as good


@dataclass(frozen=True)
class Mixture:
    """Round Gaussians of one width and equal weight: centres [M, 2], their standard deviation sigma.

    Source: Lin, Khetan, Fanti & Oh 2018, "PacGAN", section 4.1, after Srivastava et al. 2017, "VEEGAN".
    """

    centres: Tensor
    sigma: float

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """[n, 2] float32, on the generator's device."""
        device = torch.device("cpu") if generator is None else generator.device
        which = torch.randint(len(self.centres), (n,), generator=generator, device=device)
        noise = torch.randn(n, 2, generator=generator, device=device)
        return torch.add(self.centres.to(device)[which], noise, alpha=self.sigma)

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The closest centre of each point [N] int64, and the distance to it [N] float64; infinite for a point that is not finite."""
        points = points.detach().to("cpu", torch.float64)
        if points.dim() != 2 or points.shape[1] != 2 or not len(points):
            raise ValueError(f"mixture: points got {list(points.shape)}, wants [N, 2] with N > 0.")
        between = (points[:, None] - self.centres.double()).square().sum(2)
        distance, which = torch.where(between.isfinite(), between, math.inf).min(1)
        return which, distance.sqrt()

    def measure(self, points: Tensor) -> dict[str, float]:
        """PacGAN's three numbers for drawn points [N, 2]; published ones are of 2,500.

        within_3_sigma: the share of points closer than 3 sigma to the nearest centre. Of the mixture's own samples 1 - exp(-9/2) =
            98.9 % are, in the plane.
        modes: how many centres have at least one such point.
        reverse_kl: every point, near or far, counts for its closest centre; the Kullback-Leibler divergence, natural logarithm, of
            these shares from the mixture's own, which are equal: sum of q log(q M) over the centres with q > 0. From 0 to log M
            (one mode alone). N independent draws of the mixture itself have (M - 1) / 2N on average.
        A point that is not finite is near no centre and counts for none; of such points alone the divergence is log M, its largest.
        """
        which, distance = self.nearest(points)
        m, good = len(self.centres), distance < REACH * self.sigma
        shares = torch.bincount(which[distance.isfinite()], minlength=m).double()
        shares = shares / shares.sum() if shares.any() else torch.eye(1, m, dtype=torch.float64)[0]
        divergence = torch.special.xlogy(shares, shares * m).sum().item()
        return {"modes": len(which[good].unique()), "within_3_sigma": good.double().mean().item(), "reverse_kl": max(0.0, divergence)}


def _ring(modes: int = 8) -> Tensor:
    angles = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def _grid(side: int = 5, step: float = 2.0) -> Tensor:
    line = (torch.arange(side) - (side - 1) / 2) * step
    return torch.cartesian_prod(line, line)


MIXTURES = {"ring8": Mixture(_ring(), 0.01), "grid25": Mixture(_grid(), 0.05)}
