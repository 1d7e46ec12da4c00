"""Valid code that looks like a step of the table and means something else: it keeps its meaning."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin.small import images, pair, same
from tests.dropin.test_spread import Upfirdn2d


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


def cut_planes(m, x):
    """What is cut off and then padded, plane by plane."""
    n, c, h, w = x.shape
    y = F.pad(x.reshape(-1, h, w, 1), (0, 0, -1, 0, 0, -1)).permute(0, 3, 1, 2)
    y = F.conv2d(y, m.f, padding=1)
    return y.permute(0, 2, 3, 1).view(n, c, h - 1, w - 1)


CUTS = {
    "all sides": lambda m, x: filtered(F.pad(x, (-1, -1, -1, -1)), m.f.repeat(4, 1, 1, 1)),
    "one side": lambda m, x: filtered(F.pad(x, (2, 2, 2, -1)), m.f.repeat(4, 1, 1, 1)),
    "planes": cut_planes,
}


@pytest.mark.parametrize("function", CUTS.values(), ids=CUTS)
def test_a_border_does_not_bring_back_what_was_cut_off(function):
    assert len(keeps(function)) == 1  # the convolution without the pad


def test_a_cut_and_a_border_on_other_sides_are_one():
    assert keeps(lambda m, x: filtered(F.pad(x, (1, 0, 0, -1)), m.f.repeat(4, 1, 1, 1), padding=0)) == ["upfirdn"]


def snake(y, alpha):
    return y + torch.sin(y * alpha) ** 2 / (alpha + 1e-9)


def test_an_alpha_of_more_dimensions_than_the_signal_gives_more():
    one = lambda m: m.conv.weight[:1, :1]
    for function in (lambda m, x: snake(x, one(m)), lambda m, x: snake(F.conv1d(x, m.conv.weight[..., 0]), one(m))):
        assert "bias_act" not in keeps(function, torch.randn(2, 4, 6))
    assert keeps(lambda m, x: snake(x, one(m)[0, 0])) == ["bias_act"]


class Indexed(nn.Module):
    """Norms that are widened by an index."""

    def __init__(self, *index):
        super().__init__()
        self.weight, self.index = nn.Parameter(torch.randn(1, 3, 4, 3, 3)), index

    def forward(self, x, style):
        w = self.weight * style[:, None, :, None, None]
        d = torch.rsqrt(w.pow(2).sum([2, 3, 4]) + 1e-8)
        w = (w * d[self.index]).view(-1, 4, 3, 3)
        return F.conv2d(x.view(1, -1, 6, 6), w, padding=1, groups=2).view(2, 3, 6, 6)


INDICES = {
    "in another order": ((slice(None), [2, 0, 1], None, None, None), False),
    "backwards": (([1, 0], slice(None), None, None, None), False),
    "as they are": ((slice(None), slice(None), None, None, None), True),
    "all at once": ((..., None, None, None), True),
}


@pytest.mark.parametrize(("index", "found"), INDICES.values(), ids=INDICES)
def test_norms_stay_those_of_their_channels(index, found):
    plain, model = pair(lambda: Indexed(*index))
    same(model, plain, images(2, 6, 4), torch.randn(2, 4, generator=torch.Generator().manual_seed(1)))
    assert ("modulated_conv" in [row.became for row in ganfast.explain(model).groups]) == found


def moved_zeros(m, x):
    """Zeros behind each row's one value, which a permute puts behind the columns' values."""
    n, c, h, w = x.shape
    planes = F.pad(x.reshape(-1, h, w, 1).view(-1, h, 1, w), (0, 0, 0, 1)).permute(0, 1, 3, 2)
    y = F.conv2d(planes.reshape(-1, 1, h, w * 2), m.f)
    return y.view(n, c, h - 2, w * 2 - 2)


def test_zeros_belong_to_the_values_that_they_stand_behind():
    keeps(moved_zeros)


class Single(nn.Module):
    """A modulated convolution of a batch of one, with a view that changes nothing or without."""

    def __init__(self, merges):
        super().__init__()
        self.weight, self.merges = nn.Parameter(torch.randn(1, 3, 4, 3, 3)), merges

    def forward(self, x, style):
        w = (self.weight * style[:, None, :, None, None]).reshape(-1, 4, 3, 3)
        if self.merges:
            x = x.reshape(1, -1, *x.shape[2:])
        return F.relu(F.conv2d(x, w, padding=1, groups=1) + 1)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("merges", [False, True], ids=["alone", "merged"])
def test_a_batch_of_one_keeps_its_layout(merges, last):
    plain, model = pair(lambda: Single(merges))
    x, style = images(1, 6, 4), torch.randn(1, 4, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    same(model, plain, x, style)
    assert model(x, style).stride() == plain(x, style).stride()
    assert ("modulated_conv" in [row.became for row in ganfast.explain(model).groups]) != last


def test_planes_of_channels_last_images_keep_eager_s_layout():
    plain, model = pair(lambda: Upfirdn2d(2, 1, (2, 1)))
    for n in (1, 2):
        x = images(n, 6).contiguous(memory_format=torch.channels_last)
        same(model, plain, x)
        assert model(x).stride() == plain(x).stride()


def test_one_channel_keeps_eager_s_layout():
    plain, model = pair(lambda: Net(lambda m, x: F.conv2d(x, m.f)))
    x = images(2, 6, 1).to(memory_format=torch.channels_last)
    assert model(x).stride() == plain(x).stride()
    same(model, plain, images(3, 6, 1))
    assert [row.became for row in ganfast.explain(model).groups] == ["upfirdn"]
