"""What may stand behind an op that begins a group by itself: each step that the table lets follow computes what eager computes, or stays
eager."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.dropin.table import ALONE, STEPS
from tests.dropin.small import pair, same
from tests.dropin.test_filters import lively
from tests.dropin.test_modulated import Spelt
from tests.dropin.test_spread import Upfirdn2d
from tests.families.bigvgan import SnakeBeta
from tests.families.bigvgan_filters import Activation1d


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Buffer(torch.rand(1, 1, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.filter.expand(4, 1, 3, 3), padding=1, groups=4)


class Planes(Upfirdn2d):
    """Without the activation, which would be the first step behind it."""

    def forward(self, x):
        n, c, h, w = x.shape
        y = F.conv2d(F.pad(x.reshape(-1, h, w, 1), (0, 0, 1, 1, 1, 2)).permute(0, 3, 1, 2), self.kernel.view(1, 1, 4, 3))
        return y.reshape(-1, 1, h, w).permute(0, 2, 3, 1).view(n, c, h, w)


class Styled(Spelt):
    def __init__(self):
        super().__init__(4, 4)
        self.style = nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        return super().forward(x, self.style)


BEGINNINGS = {
    "resample": (Repeated, 2), "resample, planes": (Planes, 2), "modulated": (Styled, 2), "periodic": (lambda: SnakeBeta(4), 1),
    "filtered": (lambda: Activation1d(SnakeBeta(4)), 1),
}  # fmt: skip
# Of each role one call, of all of them what changes values most: a norm that takes a bias for its own would lose it, or its statistics.
CALLS = {
    "noise": lambda m, y: y + m.dots,
    "norm": lambda m, y: m.norms[m.count()](y),
    "bias": lambda m, y: y + m.bias,
    "scale": lambda m, y: y * m.vector,
    "shift": lambda m, y: y + m.vector,
    "modulation": lambda m, y: y * m.of_image + m.of_image,
    "act": lambda m, y: F.leaky_relu(y, 0.3),
    "gain": lambda m, y: y * 1.5,
    "clamp": lambda m, y: y.clamp(-0.7, 0.7),
    "residual": lambda m, y: y + m.like,
    "factor": lambda m, y: y / 3,
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d), (nn.InstanceNorm1d, nn.InstanceNorm2d), (lambda c: nn.GroupNorm(2, c),) * 2


def chains(first: str, most: int = 3) -> list[tuple[str, ...]]:
    """What the table lets follow, step by step."""
    found, ends = [], [(first,)]
    for _ in range(most):
        ends = [(*end, role) for end in ends for role, (after, _) in STEPS.items() if end[-1] in after]
        found += [end[1:] for end in ends]
    return found


class Behind(nn.Module):
    """Every chain of two, and what follows a norm, each behind a beginning of its own; kind: of the norms."""

    def __init__(self, first, dims, kind):
        super().__init__()
        role, ones = first.partition(",")[0], (1,) * dims
        # What stands alone for good is tried with all that might come one day.
        self.chains = chains(role) or [("bias", "norm"), *[(call,) for call in CALLS]]
        self.chains = [chain for chain in self.chains if "norm" in chain or (kind == 0 and len(chain) < 3)]
        self.begin, self.used = BEGINNINGS[first][0](), 0
        self.norms = nn.ModuleList(NORMS[kind][dims - 1](4) for chain in self.chains for role in chain if role == "norm")
        self.bias, self.vector = nn.Parameter(10 * torch.arange(4.0).view(1, 4, *ones)), nn.Parameter(torch.rand(1, 4, *ones))
        self.of_image, self.like = nn.Parameter(torch.rand(2, 4, *ones)), nn.Parameter(torch.rand(2, 4, *(6,) * dims))
        self.dots = nn.Parameter(torch.rand(2, 1, *(6,) * dims))

    def count(self):
        self.used += 1
        return self.used - 1

    def forward(self, x):
        self.used, found = 0, []
        for chain in self.chains:
            y = self.begin(x)
            for role in chain:
                y = CALLS[role](self, y)
            found.append(y)
        return found


def test_every_role_is_tried():
    behind = {role for first in ALONE for chain in chains(first, len(STEPS)) for role in chain}
    assert behind <= CALLS.keys() and {first.partition(",")[0] for first in BEGINNINGS} == set(ALONE)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind", range(len(NORMS)))
@pytest.mark.parametrize("first", BEGINNINGS)
def test_what_follows_is_what_eager_computes(first, kind):
    dims = BEGINNINGS[first][1]
    plain, model = pair(lambda: lively(Behind(first, dims, kind)))
    same(model, plain, torch.randn(2, 4, *(6,) * dims, generator=torch.Generator().manual_seed(1)), second=False)
    assert ganfast.explain(model).groups
