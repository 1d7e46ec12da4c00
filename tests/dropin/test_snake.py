"""A user's own snake activation is found by what it computes."""

import pytest
import torch
from torch import nn

import ganfast
from tests.dropin.small import layers


class Snake(nn.Module):
    def __init__(self, channels, log=False, eps=1e-9):
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(channels) if log else 0.5 + torch.rand(channels))
        self.log, self.eps = log, eps

    def forward(self, x):
        alpha = self.alpha.unsqueeze(0).unsqueeze(-1)
        if self.log:
            alpha = torch.exp(alpha)
        return x + (1.0 / (alpha + self.eps)) * torch.pow(torch.sin(x * alpha), 2)


class NotSnake(Snake):
    def forward(self, x):
        alpha = self.alpha.unsqueeze(0).unsqueeze(-1)
        return x + (1.0 / (alpha + self.eps)) * torch.pow(torch.sin(x * alpha), 4)


@pytest.mark.parametrize("log", [False, True])
def test_snake_is_found_by_what_it_computes(log):
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Conv1d(2, 4, 3), Snake(4, log), nn.Conv1d(4, 2, 3))
    torch.manual_seed(0)
    module = ganfast.accelerate(make())
    torch.manual_seed(0)
    plain = make()
    x = torch.randn(2, 2, 20)
    torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)
    assert layers(module)[0] == ("0", "1")
    for m in (module, plain):
        m[1].eps = 0.5  # now it is another function
    torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)


class OfAbsolute(Snake):
    def forward(self, x):
        alpha = torch.pow(torch.square(self.alpha), 0.5).unsqueeze(-1)
        return x + torch.pow(torch.sin(x * alpha), 2) * torch.reciprocal(alpha)


class Rational(Snake):
    def forward(self, x):
        alpha = self.alpha.unsqueeze(-1)
        return x + torch.pow(torch.sin(x * alpha), 2) * alpha * torch.reciprocal(torch.square(alpha) + 1e-7)


class InPlace(Snake):
    """alpha x + sin(alpha x)^2 / alpha"""

    def forward(self, x):
        alpha = self.alpha.unsqueeze(-1)
        return x + torch.pow(torch.sin(x.mul_(alpha)), 2) * torch.reciprocal(alpha)


@pytest.mark.parametrize(
    ("layer", "found"),
    [(NotSnake(4), False), (InPlace(4), False), (Snake(4, eps=0.1), False), (Rational(4), False), (OfAbsolute(4), True)],
    ids=["fourth power", "x in place", "eps", "rational", "of |alpha|"],
)
def test_what_only_looks_like_snake_is_not(layer, found):
    module = nn.Sequential(nn.Conv1d(2, 4, 3), layer)
    x = torch.randn(2, 2, 20)
    wanted = module(x)
    torch.testing.assert_close(ganfast.accelerate(module)(x), wanted, rtol=1e-4, atol=1e-5)
    assert layers(module) == [("0", "1") if found else ("0",)]
