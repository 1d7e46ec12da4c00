"""HiFi-GAN-like vocoders (Kong et al. 2020): 1-D, weight_norm, lists of blocks, activations as functions, feature maps kept."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm as new_weight_norm

from tests.families.family import Family, Real, images, noise, numbered

LRELU_SLOPE = 0.1


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


def init_weights(m, mean=0.0, std=0.01):
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        m.weight.data.normal_(mean, std)


def get_padding(kernel_size, dilation=1):
    return int((kernel_size * dilation - dilation) / 2)


class ResBlock1(nn.Module):
    def __init__(self, channels, kernel_size=3, dilation=(1, 3), weight_norm=old_weight_norm):
        super().__init__()
        self.convs1 = nn.ModuleList(
            [weight_norm(nn.Conv1d(channels, channels, kernel_size, 1, dilation=d, padding=get_padding(kernel_size, d))) for d in dilation]
        )
        self.convs1.apply(init_weights)
        self.convs2 = nn.ModuleList(
            [weight_norm(nn.Conv1d(channels, channels, kernel_size, 1, dilation=1, padding=get_padding(kernel_size, 1))) for _ in dilation]
        )
        self.convs2.apply(init_weights)

    def forward(self, x):
        for c1, c2 in zip(self.convs1, self.convs2):
            xt = F.leaky_relu(x, LRELU_SLOPE)
            xt = c1(xt)
            xt = F.leaky_relu(xt, LRELU_SLOPE)
            xt = c2(xt)
            x = xt + x
        return x


class ResBlock2(nn.Module):
    def __init__(self, channels, kernel_size=3, dilation=(1, 3), weight_norm=old_weight_norm):
        super().__init__()
        self.convs = nn.ModuleList(
            [weight_norm(nn.Conv1d(channels, channels, kernel_size, 1, dilation=d, padding=get_padding(kernel_size, d))) for d in dilation]
        )
        self.convs.apply(init_weights)

    def forward(self, x):
        for c in self.convs:
            xt = F.leaky_relu(x, LRELU_SLOPE)
            xt = c(xt)
            x = xt + x
        return x


class Generator(nn.Module):
    def __init__(
        self, resblock, weight_norm, mels=8, width=16, rates=(4, 2), kernels=(8, 4), resblock_kernels=(3, 5), dilations=((1, 3), (1, 3))
    ):
        super().__init__()
        self.num_kernels = len(resblock_kernels)
        self.num_upsamples = len(rates)
        self.conv_pre = weight_norm(nn.Conv1d(mels, width, 7, 1, padding=3))
        self.ups = nn.ModuleList()
        for i, (u, k) in enumerate(zip(rates, kernels)):
            self.ups.append(weight_norm(nn.ConvTranspose1d(width // (2**i), width // (2 ** (i + 1)), k, u, padding=(k - u) // 2)))
        self.resblocks = nn.ModuleList()
        for i in range(len(self.ups)):
            ch = width // (2 ** (i + 1))
            for k, d in zip(resblock_kernels, dilations):
                self.resblocks.append(resblock(ch, k, d, weight_norm=weight_norm))
        self.conv_post = weight_norm(nn.Conv1d(ch, 1, 7, 1, padding=3))
        self.ups.apply(init_weights)
        self.conv_post.apply(init_weights)

    def forward(self, x):
        x = self.conv_pre(x)
        for i in range(self.num_upsamples):
            x = F.leaky_relu(x, LRELU_SLOPE)
            x = self.ups[i](x)
            xs = None
            for j in range(self.num_kernels):
                if xs is None:
                    xs = self.resblocks[i * self.num_kernels + j](x)
                else:
                    xs += self.resblocks[i * self.num_kernels + j](x)
            x = xs / self.num_kernels
        x = F.leaky_relu(x)
        x = self.conv_post(x)
        x = torch.tanh(x)
        return x


class DiscriminatorP(nn.Module):
    """Whether it pads hangs on the length of its input."""

    def __init__(self, period, kernel_size=5, stride=3, use_spectral_norm=False):
        super().__init__()
        self.period = period
        norm_f = old_weight_norm if use_spectral_norm is False else spectral_norm
        self.convs = nn.ModuleList(
            [
                norm_f(nn.Conv2d(1, 8, (kernel_size, 1), (stride, 1), padding=(get_padding(5, 1), 0))),
                norm_f(nn.Conv2d(8, 16, (kernel_size, 1), (stride, 1), padding=(get_padding(5, 1), 0))),
                norm_f(nn.Conv2d(16, 16, (kernel_size, 1), 1, padding=(2, 0))),
            ]
        )
        self.conv_post = norm_f(nn.Conv2d(16, 1, (3, 1), 1, padding=(1, 0)))

    def forward(self, x):
        fmap = []
        b, c, t = x.shape
        if t % self.period != 0:
            n_pad = self.period - (t % self.period)
            x = F.pad(x, (0, n_pad), "reflect")
            t = t + n_pad
        x = x.view(b, c, t // self.period, self.period)
        for layer in self.convs:
            x = layer(x)
            x = F.leaky_relu(x, LRELU_SLOPE)
            fmap.append(x)
        x = self.conv_post(x)
        fmap.append(x)
        x = torch.flatten(x, 1, -1)
        return x, fmap


class DiscriminatorS(nn.Module):
    def __init__(self, use_spectral_norm=False):
        super().__init__()
        norm_f = new_weight_norm if use_spectral_norm is False else spectral_norm
        self.convs = nn.ModuleList(
            [
                norm_f(nn.Conv1d(1, 8, 15, 1, padding=7)),
                norm_f(nn.Conv1d(8, 16, 41, 2, groups=4, padding=20)),
                norm_f(nn.Conv1d(16, 32, 41, 4, groups=8, padding=20)),
                norm_f(nn.Conv1d(32, 32, 5, 1, padding=2)),
            ]
        )
        self.conv_post = norm_f(nn.Conv1d(32, 1, 3, 1, padding=1))

    def forward(self, x):
        fmap = []
        for layer in self.convs:
            x = layer(x)
            x = F.leaky_relu(x, LRELU_SLOPE)
            fmap.append(x)
        x = self.conv_post(x)
        fmap.append(x)
        x = torch.flatten(x, 1, -1)
        return x, fmap


class MultiScaleDiscriminator(nn.Module):
    """Real and generated audio, each at two scales; lists in lists come back."""

    def __init__(self):
        super().__init__()
        self.discriminators = nn.ModuleList([DiscriminatorS(use_spectral_norm=True), DiscriminatorS()])
        self.meanpools = nn.ModuleList([nn.AvgPool1d(4, 2, padding=2)])

    def forward(self, y, y_hat):
        y_d_rs, y_d_gs, fmap_rs, fmap_gs = [], [], [], []
        for i, d in enumerate(self.discriminators):
            if i != 0:
                y = self.meanpools[i - 1](y)
                y_hat = self.meanpools[i - 1](y_hat)
            y_d_r, fmap_r = d(y)
            y_d_g, fmap_g = d(y_hat)
            y_d_rs.append(y_d_r)
            fmap_rs.append(fmap_r)
            y_d_gs.append(y_d_g)
            fmap_gs.append(fmap_g)
        return y_d_rs, y_d_gs, fmap_rs, fmap_gs


def generator_groups(block: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The first convolution meets the loop's activation; what `ups` gives is used by the two blocks behind it. `block`:
    what each of them has. The sum of the blocks is no part: a group adds one residual."""
    each = [[group for i in pair for group in numbered(f"resblocks.{i}", *block)] for pair in ((0, 1), (2, 3))]
    return [("conv_pre", "leaky_relu()"), ("ups.0",), *each[0], ("ups.1",), *each[1], ("conv_post", "tanh()")]


_BLOCK1 = ("convs1.0 leaky_relu()", "convs2.0 add()", "convs1.1 leaky_relu()", "convs2.1 add()")
_BLOCK2 = ("convs.0 add()", "convs.1 add()")
_S = ("convs.0 leaky_relu()", "convs.1 leaky_relu()", "convs.2 leaky_relu()", "convs.3 leaky_relu()", "conv_post")

ROWS = [
    Family("hifigan-old-g", lambda: Generator(ResBlock1, old_weight_norm), noise(8, 12), generator_groups(_BLOCK1), half="autocast"),
    Family("hifigan-new-g", lambda: Generator(ResBlock1, new_weight_norm), noise(8, 12), generator_groups(_BLOCK1)).with_small(1),
    Family(
        "hifigan-v3-g",
        lambda: Generator(ResBlock2, old_weight_norm),
        noise(8, 12),
        generator_groups(_BLOCK2),
        real=Real(
            lambda: Generator(ResBlock2, old_weight_norm, 80, 256, (8, 8, 4), (16, 16, 8), (3, 5, 7), ((1, 2), (2, 6), (3, 12))),
            noise(80, 32),
            1,
            "HiFi-GAN (Kong et al. 2020), config_v3.json: 80 mels, 256 channels, segments of 8192 samples; batch 16 there",
        ),
    ),
    Family(
        "hifigan-period-d",
        lambda: DiscriminatorP(3),
        images(1, 100),
        [*((f"convs.{i}", "leaky_relu()") for i in range(3)), ("conv_post",)],
    ),
    Family(
        "hifigan-scale-d",
        MultiScaleDiscriminator,
        lambda n: (torch.randn(n, 1, 128), torch.randn(n, 1, 128)),
        [group for i in (0, 0, 1, 1) for group in numbered(f"discriminators.{i}", *_S)],
        batch=2,
        half="autocast",
    ),
]
