"""Modulated convolutions as ports of StyleGAN2 spell them, and what is spelt nearly so."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin.small import pair, same
from tests.families.stylegan2 import Blur


class Modulated(nn.Module):
    """The published port's: norms without kept dimensions, weights that are reshaped twice on the way up, a blur before the way down."""

    def __init__(self, c_in=4, c_out=6, kernel=3, demodulate=True, up=False, down=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, c_out, c_in, kernel, kernel))
        self.scale, self.kernel, self.out, self.demodulate = 1 / math.sqrt(c_in * kernel**2), kernel, c_out, demodulate
        self.up, self.down, self.padding, self.eps, self.dims, self.stride = up, down, kernel // 2, 1e-8, [2, 3, 4], 1
        self.bias = nn.Parameter(torch.randn(1, c_out, 1, 1))
        self.strength = nn.Parameter(torch.rand(1))
        if up:
            pad = (4 - 2) - (kernel - 1)
            self.blur = Blur(((pad + 1) // 2 + 1, pad // 2 + 1), gain=4.0)
        if down:
            pad = (4 - 2) + (kernel - 1)
            self.blur = Blur(((pad + 1) // 2, pad // 2))

    def modulated(self, style):
        return self.scale * self.weight * style

    def convolved(self, x, style):
        batch, c_in, height, width = x.shape
        weight = self.modulated(style.view(batch, 1, c_in, 1, 1))
        if self.demodulate:
            demod = torch.rsqrt(weight.pow(2).sum(self.dims) + self.eps)
            weight = weight * demod.view(batch, self.out, 1, 1, 1)
        weight = weight.view(batch * self.out, c_in, self.kernel, self.kernel)
        if self.up:
            x = x.view(1, batch * c_in, height, width)
            weight = weight.view(batch, self.out, c_in, self.kernel, self.kernel)
            weight = weight.transpose(1, 2).reshape(batch * c_in, self.out, self.kernel, self.kernel)
            y = F.conv_transpose2d(x, weight, padding=0, stride=2, groups=batch)
            return self.blur(y.view(batch, self.out, *y.shape[2:]))
        if self.down:
            x = self.blur(x)
        x = x.view(1, batch * c_in, *x.shape[2:])
        y = F.conv2d(x, weight, padding=0 if self.down else self.padding, stride=2 if self.down else self.stride, groups=batch)
        return y.view(batch, self.out, *y.shape[2:])

    def forward(self, x, style, noise):
        y = self.convolved(x, style)
        y = y + self.strength * noise[..., : y.shape[2], : y.shape[3]]
        return F.leaky_relu(y + self.bias, 0.2) * 2**0.5


OVER = {
    "rsqrt": lambda w, s: w * torch.rsqrt(s),
    "one over": lambda w, s: w * (1 / torch.sqrt(s)),
    "reciprocal": lambda w, s: torch.reciprocal(s.sqrt()) * w,
    "divided": lambda w, s: w / s.sqrt(),
    "divided by name": lambda w, s: torch.div(input=w, other=s.sqrt()),
    "a power": lambda w, s: w * s.pow(-0.5),
    "two powers": lambda w, s: w * (s**0.5) ** -1,
}
OTHER = {
    "upside down": lambda w, s: s.sqrt() / w,
    "two over": lambda w, s: w * (2 / torch.sqrt(s)),
    "the root": lambda w, s: w * torch.sqrt(s),
    "no root": lambda w, s: w / s,
    "another power": lambda w, s: w * s**-0.25,
}


class Spelt(nn.Module):
    """Another port's: styles that are moved by one, squares by `**`, a convolution alone."""

    def __init__(self, c_in=4, c_out=6, kernel=3, demodulate=True, stride=1, over="rsqrt"):
        super().__init__()
        self.over = over
        self.filters, self.demodulate, self.stride = c_out, demodulate, stride
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))

    def forward(self, x, style):
        b, _, h, w = x.shape
        weights = self.weight[None, :, :, :, :] * (style[:, None, :, None, None] + 1)
        if self.demodulate:
            weights = OVER[self.over](weights, (weights**2).sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        x = x.reshape(1, -1, h, w)
        _, _, *ws = weights.shape
        x = F.conv2d(x, weights.reshape(b * self.filters, *ws), padding=1, stride=self.stride, groups=b)
        return x.reshape(-1, self.filters, *x.shape[2:])


def inputs(n=3, c_in=4, size=6):
    g = torch.Generator().manual_seed(n)
    return torch.randn(n, c_in, size, size, generator=g), torch.randn(n, c_in, generator=g), torch.randn(n, 1, 12, 12, generator=g)


def became(model):
    return [row.became for row in ganfast.explain(model).groups]


FORMS = {
    "plain": {}, "not demodulated": {"demodulate": False}, "up": {"up": True}, "up, not demodulated": {"up": True, "demodulate": False},
    "down": {"down": True}, "one pixel": {"kernel": 1, "demodulate": False}, "a kernel of five, up": {"kernel": 5, "up": True},
}  # fmt: skip


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_with_noise_bias_activation_and_gain_it_is_one(options):
    plain, model = pair(lambda: Modulated(**options))
    same(model, plain, *inputs())
    assert became(model) == ["upfirdn"] * ("down" in options) + ["modulated_conv"]


@pytest.mark.parametrize("options", [{}, {"demodulate": False}, {"stride": 2}], ids=str)
def test_another_spelling(options):
    plain, model = pair(lambda: Spelt(**options))
    same(model, plain, *inputs()[:2])
    assert became(model) == ["modulated_conv"]


@pytest.mark.parametrize("over", OVER)
def test_every_way_to_write_the_norm(over):
    plain, model = pair(lambda: Spelt(over=over))
    same(model, plain, *inputs()[:2])
    assert became(model) == ["modulated_conv"]


@pytest.mark.parametrize("over", OTHER)
def test_what_only_looks_like_a_norm(over, monkeypatch):
    monkeypatch.setitem(OVER, "other", OTHER[over])
    plain, model = pair(lambda: Spelt(over="other"))
    same(model, plain, *inputs()[:2])
    assert "modulated_conv" not in became(model)


def test_batches_of_every_size():
    plain, model = pair(lambda: Modulated(up=True))
    for n in (2, 3, 5, 1):
        same(model, plain, *inputs(n))
    assert set(became(model)) == {"modulated_conv"}


def test_channels_last_gives_what_eager_gives():
    plain, model = pair(Spelt)
    x, style, _ = inputs()
    x = x.to(memory_format=torch.channels_last)
    assert model(x, style).stride() == plain(x, style).stride()


class Additive(Modulated):
    def modulated(self, style):
        return self.scale * self.weight + style


class PerOutput(Modulated):
    """The style scales output channels: as many as there are input channels."""

    def modulated(self, style):
        return self.scale * self.weight * style.transpose(1, 2)


class Norms(Modulated):
    """The weights are read by somebody else too."""

    def modulated(self, style):
        self.last = super().modulated(style)
        return self.last

    def forward(self, x, style, noise):
        return super().forward(x, style, noise), self.last.square().mean()


class Own(Modulated):
    """A blur that learns."""

    def __init__(self, **options):
        super().__init__(**options)
        self.blur.kernel = nn.Parameter(self.blur._buffers.pop("kernel"))


class Taps(Modulated):
    """Normalised over each kernel's taps alone."""

    def convolved(self, x, style):
        batch, c_in, height, width = x.shape
        weight = self.modulated(style.view(batch, 1, c_in, 1, 1))
        weight = weight * torch.rsqrt(weight.pow(2).sum([3, 4], keepdim=True) + self.eps)
        y = F.conv2d(x.view(1, -1, height, width), weight.flatten(0, 1), padding=1, groups=batch)
        return y.view(batch, self.out, height, width)


class Below(Modulated):
    def __init__(self, *args):
        super().__init__(*args)
        self.eps = -1e-9


CHANGES = {
    "added": lambda: Additive(4, 4),
    "output channels": lambda: PerOutput(4, 4),
    "read elsewhere": Norms,
    "norms of taps alone": lambda: Taps(4, 4),
    "a negative eps": lambda: Below(4, 4),
    "a blur that learns": lambda: Own(up=True),
}


@pytest.mark.parametrize("make", CHANGES.values(), ids=CHANGES)
def test_what_only_looks_like_one_is_not(make):
    plain, model = pair(make)
    same(model, plain, *inputs())
    assert "modulated_conv" not in became(model)


def test_nothing_is_kept_that_eager_does_not_keep():
    """An optimizer may change weight and bias before the backward: of neither eager keeps anything."""
    plain, model = pair(Modulated)
    gradients = []
    for network in (plain, model):
        x, style, noise = inputs()
        style.requires_grad_()
        y = network(x, style, noise)
        with torch.no_grad():
            network.weight.mul_(2)
            network.bias.add_(1)
        y.square().sum().backward()
        gradients.append((style.grad, network.weight.grad))
    for got, want in zip(*gradients):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


class Given(Spelt):
    """Noise as it is given, of which eager keeps nothing."""

    def forward(self, x, style, noise):
        return F.relu(super().forward(x, style) + noise[:, :, :6, :6])


def test_noise_that_may_be_changed_is_not_kept():
    plain, model = pair(Given)
    x, style, noise = inputs()
    y = model(x, style.requires_grad_(), noise)
    noise.add_(1)
    y.sum().backward()
    assert became(model) == ["modulated_conv"]
    assert ganfast.explain(model).groups[0].layers == ("conv2d()",)
    same(model, plain, *inputs())


@pytest.mark.parametrize("learns", ["weight", "style"])
def test_of_weight_and_style_that_is_kept_alone_which_the_other_s_gradient_needs(learns):
    plain, model = pair(Spelt if learns == "weight" else Modulated)
    gradients = []
    for network in (plain, model):
        network.requires_grad_(learns == "weight")
        x, style, noise = inputs()
        leaf = network.weight if learns == "weight" else style.requires_grad_()
        y = network(x.requires_grad_(), style) if learns == "weight" else network(x.requires_grad_(), style, noise)
        with torch.no_grad():
            leaf.mul_(2)
        y.square().sum().backward()
        gradients.append((x.grad, leaf.grad))
    for got, want in zip(*gradients):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
