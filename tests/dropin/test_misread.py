"""Valid code that looks like a step of the table and means something else: it keeps its meaning."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin.small import images, pair, same


class Net(nn.Module):
    """A function of a network that has a filter, a factor for each channel, and a convolution."""

    def __init__(self, function):
        super().__init__()
        self.function, self.f, self.factors = function, nn.Buffer(torch.rand(1, 1, 3, 3)), nn.Buffer(1 + torch.rand(4, 1, 1, 1))
        self.conv, self.alpha = nn.Conv2d(4, 4, 1), nn.Buffer(1 + torch.rand(1, 4, 1, 1))

    def forward(self, x):
        return self.function(self, x)


def keeps(function, x=None):
    """What became of the accelerated network's groups, whose results, gradients and buffers are those of the untouched one."""
    plain, model = pair(lambda: Net(function))
    same(model, plain, images(2, 6, 4) if x is None else x)
    return [row.became for row in ganfast.explain(model).groups]


def filtered(x, weight, **options):
    return F.conv2d(x, weight, groups=4, **({"padding": 1} | options))


def one_is_zero(m, x):
    w = m.f.repeat(4, 1, 1, 1)
    w[1] = 0
    return filtered(x, w)


def scaled(m, x):
    w = m.f.repeat(4, 1, 1, 1)
    w.mul_(m.factors)
    return filtered(x, w.contiguous())


def by_a_view(m, x):
    w = m.f.repeat(4, 1, 1, 1)
    v = w[2]
    v.zero_()
    return filtered(x, w)


def by_data(m, x):
    w = m.f.repeat(4, 1, 1, 1)
    w.data[2] *= 3
    return filtered(x, w.clone())


def stacked(m, x):
    w = torch.stack([m.f[0]] * 4)
    w.select(0, 3).add_(5)
    return filtered(x, w)


def by_out(m, x):
    w = m.f.repeat(4, 1, 1, 1)
    torch.mul(m.f, m.factors, out=w)
    return filtered(x, w)


@pytest.mark.parametrize("function", [one_is_zero, scaled, by_a_view, by_data, stacked, by_out])
def test_a_filter_that_is_written_to_is_not_one_again_and_again(function):
    assert "upfirdn" not in keeps(function)


def test_a_filter_by_name_is_read_too():
    keeps(lambda m, x: filtered(x, m.f.repeat(repeats=(4, 1, 1, 1))))
    keeps(lambda m, x: filtered(x, torch.stack(tensors=[m.f[0]] * 4)))


def test_an_alpha_that_changes_after_its_inverse_was_made():
    def function(m, x):
        inverse = 1 / (m.alpha + 1e-9)
        m.alpha.mul_(2)
        y = m.conv(x)
        return y + inverse * torch.sin(y * m.alpha) ** 2

    keeps(function)
