"""Activations between filters, periodic ones by themselves: what is one, and what only looks like it and stays as it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin.small import layers, pair, same
from tests.families.bigvgan import Snake, SnakeBeta
from tests.families.bigvgan_filters import Activation1d

WHOLE = ("1.upsample", "1.act", "1.downsample.lowpass")


def between(act=None, **settings):
    """A convolution, an activation between filters that are not symmetric, and a convolution."""

    def make():
        layer = Activation1d(SnakeBeta(4, alpha_logscale=True) if act is None else act(), **settings)
        for part in (layer.upsample, layer.downsample.lowpass):
            part.filter += 0.1 * torch.randn_like(part.filter)
        return nn.Sequential(nn.Conv1d(3, 4, 3), layer, nn.Conv1d(4, 2, 1))

    return make


def lively(model):
    for name, parameter in model.named_parameters():
        if name.endswith(("alpha", "beta")):
            nn.init.uniform_(parameter, 0.3, 1.2)
    return model


def fits(make, x, *, second=True):
    """The names of the accelerated network's groups, whose results and gradients are those of the untouched one."""
    plain, model = pair(lambda: lively(make()))
    same(model, plain, x, second=second)
    return layers(model)


def signal(n=2, channels=3, size=23):
    return torch.randn(n, channels, size, generator=torch.Generator().manual_seed(n))


ACTS = {
    "snake_beta": None,
    "snake": lambda: Snake(4),
    "one alpha": lambda: Snake(1),
    "relu": nn.ReLU,
    "prelu": lambda: nn.PReLU(4),
    "silu": nn.SiLU,
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_an_activation_between_filters_is_one(act):
    assert fits(between(act), signal()) == [("0",), WHOLE, ("2",)]


@pytest.mark.parametrize(("ratio", "taps", "found"), [(2, 6, True), (2, 7, True), (3, 18, True), (4, 24, False)])
def test_of_any_size(ratio, taps, found):
    """Down by four the published padding moves the values: 11 of 24 taps before the first, where 10 keep their places."""
    assert (WHOLE in fits(between(ratio=ratio, kernel_size=taps), signal())) == found


class PerChannel(nn.Module):
    """A filter of its own for each channel, which no longer is one that is expanded."""

    def __init__(self, like):
        super().__init__()
        self.register_buffer("all", like.filter.repeat(4, 1, 1) * torch.rand(4, 1, 1))

    def forward(self, x):
        x = F.pad(x, (5, 5), mode="replicate")
        return (2 * F.conv_transpose1d(x, self.all, stride=2, groups=4))[..., 15:-15]


class Watched(nn.Module):
    """The upsampled values are read by somebody else too."""

    def __init__(self, like):
        super().__init__()
        self.like, self.seen = like, None

    def forward(self, x):
        y = self.like(x)
        self.seen = y.mean()
        return y


CHANGES = {
    "a filter that learns": lambda m: setattr(m[1].upsample, "filter", nn.Parameter(m[1].upsample._buffers.pop("filter"))),
    "a second filter that learns": lambda m: m[1].downsample.lowpass.filter.requires_grad_(),
    "another crop": lambda m: [setattr(m[1].upsample, "pad_left", 14), setattr(m[1].upsample, "pad_right", 16)],
    "a crop that keeps more": lambda m: setattr(m[1].upsample, "pad_right", 13),
    "another gain": lambda m: setattr(m[1].upsample, "ratio", 1.5),
    "reflected": lambda m: setattr(m[1].downsample.lowpass, "padding_mode", "reflect"),
    "zeros": lambda m: setattr(m[1].downsample.lowpass, "padding_mode", "constant"),
    "a place further": lambda m: [setattr(m[1].downsample.lowpass, "pad_left", 6), setattr(m[1].downsample.lowpass, "pad_right", 5)],
    "a filter a channel": lambda m: setattr(m[1], "upsample", PerChannel(m[1].upsample)),
    "read elsewhere": lambda m: setattr(m[1], "upsample", Watched(m[1].upsample)),
    "in place": lambda m: setattr(m[1], "act", nn.ReLU(inplace=True)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_only_looks_like_one_is_not(change):
    def make():
        model = between()()
        change(model)
        return model

    assert WHOLE not in [tuple(name for name in group if name in WHOLE) for group in fits(make, signal(), second=False)]


def test_another_batch_and_length():
    torch.manual_seed(0)
    plain, model = pair(lambda: lively(between()()))
    for n, size in ((2, 23), (3, 23), (5, 40), (1, 17)):
        same(model, plain, signal(n, size=size))
    assert WHOLE in layers(model)


class Lone(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return x + self.act(x)


def test_a_periodic_activation_alone_is_one():
    for act in (SnakeBeta(3), SnakeBeta(3, True), Snake(3)):
        assert fits(lambda act=act: Lone(act), signal()) == [("act",)]


def test_another_divisor_than_snake_beta_s_is_none():
    act = SnakeBeta(3)
    act.no_div_by_zero = 1e-3
    assert fits(lambda: Lone(act), signal()) == []


class Frozen(nn.Module):
    """A forward that changes its own input, of which eager keeps nothing where no frequency learns."""

    def __init__(self, learns):
        super().__init__()
        self.act = Snake(3, alpha_trainable=learns)

    def forward(self, x):
        return self.act(x) * 2


def test_an_input_that_eager_does_not_keep_is_not_kept():
    model = ganfast.accelerate(Frozen(False))
    x = signal().requires_grad_()
    base = x * 1
    y = model(base)
    with torch.no_grad():
        base.add_(1)
    y.sum().backward()
    assert layers(model) == []
    assert fits(lambda: Frozen(True), signal()) == [("act",)]


def test_between_filters_an_input_that_needs_no_gradient_is_not_kept():
    layer = Activation1d(SnakeBeta(3))
    model, x = ganfast.accelerate(layer), signal()
    y = model(x)
    x.add_(1)
    y.sum().backward()
    assert sorted(layers(model)) == [("downsample.lowpass",), ("upsample",)]


class Blurred(nn.Module):
    def __init__(self, padding, taps):
        super().__init__()
        self.conv, self.padding = nn.Conv2d(3, 4, 3), padding
        self.register_buffer("taps", torch.rand(taps))

    def forward(self, x):
        x = self.conv(x)
        return F.conv2d(x, self.taps.expand(x.shape[1], 1, -1, -1), padding=self.padding, groups=x.shape[1])


@pytest.mark.parametrize("taps", [(3, 3), (4, 2), (1, 5)], ids=str)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_border_by_its_name(padding, taps):
    torch.manual_seed(0)
    plain, model = pair(lambda: Blurred(padding, taps))
    same(model, plain, torch.randn(2, 3, 9, 8))
    assert [row.became for row in ganfast.explain(model).groups] == ["conv_act", "upfirdn"]
