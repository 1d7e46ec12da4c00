"""Neural audio codecs (Kumar et al. 2023): critics by periods, scales and bands of frequency, and a decoder's block whose snake is
scripted."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.families.family import Family, Real, noise, numbered


def wn_conv(conv, *args, act=True, **kwargs):
    layer = weight_norm(conv(*args, **kwargs))
    return nn.Sequential(layer, nn.LeakyReLU(0.1)) if act else layer


class PeriodDiscriminator(nn.Module):
    """Audio as a picture whose rows are periods; it is padded to whole ones, and by one more where it has those already."""

    def __init__(self, period, widths=(4, 8, 8)):
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList()
        c_in = 1
        for i, c_out in enumerate(widths):
            stride = 3 if i < len(widths) - 1 else 1
            self.convs.append(wn_conv(nn.Conv2d, c_in, c_out, (5, 1), (stride, 1), padding=(2, 0)))
            c_in = c_out
        self.conv_post = wn_conv(nn.Conv2d, c_in, 1, kernel_size=(3, 1), padding=(1, 0), act=False)

    def forward(self, x):
        x = F.pad(x, (0, self.period - x.shape[-1] % self.period), mode="reflect")
        x = x.view(x.shape[0], x.shape[1], -1, self.period)
        features = []
        for layer in self.convs:
            x = layer(x)
            features.append(x)
        features.append(self.conv_post(x))
        return features


class ScaleDiscriminator(nn.Module):
    def __init__(self, rate=1, width=8):
        super().__init__()
        self.rate = rate
        self.convs = nn.ModuleList(
            [
                wn_conv(nn.Conv1d, 1, width, 15, 1, padding=7),
                wn_conv(nn.Conv1d, width, width * 2, 41, 4, groups=4, padding=20),
                wn_conv(nn.Conv1d, width * 2, width * 4, 41, 4, groups=8, padding=20),
                wn_conv(nn.Conv1d, width * 4, width * 4, 5, 1, padding=2),
            ]
        )
        self.conv_post = wn_conv(nn.Conv1d, width * 4, 1, 3, 1, padding=1, act=False)

    def forward(self, x):
        if self.rate > 1:
            x = F.avg_pool1d(x, self.rate)
        features = []
        for layer in self.convs:
            x = layer(x)
            features.append(x)
        features.append(self.conv_post(x))
        return features


class BandDiscriminator(nn.Module):
    """Of a complex spectrogram, [N, 2, frames, frequencies]: every band has its own convolutions."""

    def __init__(self, bands=(0.25, 0.5), width=4):
        super().__init__()
        self.bands = bands
        stack = lambda: nn.ModuleList(
            [
                wn_conv(nn.Conv2d, 2, width, (3, 9), (1, 1), padding=(1, 4)),
                wn_conv(nn.Conv2d, width, width, (3, 9), (1, 2), padding=(1, 4)),
                wn_conv(nn.Conv2d, width, width, (3, 3), (1, 1), padding=(1, 1)),
            ]
        )
        self.band_convs = nn.ModuleList([stack() for _ in range(len(bands) + 1)])
        self.conv_post = wn_conv(nn.Conv2d, width, 1, (3, 3), (1, 1), padding=(1, 1), act=False)

    def forward(self, spectrogram):
        edges = [0, *(int(edge * spectrogram.shape[-1]) for edge in self.bands), spectrogram.shape[-1]]
        features, ends = [], []
        for start, stop, convs in zip(edges, edges[1:], self.band_convs):
            x = spectrogram[..., start:stop]
            for layer in convs:
                x = layer(x)
                features.append(x)
            ends.append(x)
        features.append(self.conv_post(torch.cat(ends, dim=-1)))
        return features


class Discriminator(nn.Module):
    def __init__(self, periods=(2, 3), rates=(1, 2), widths=(4, 8, 8), width=8):
        super().__init__()
        critics = [PeriodDiscriminator(period, widths) for period in periods] + [ScaleDiscriminator(rate, width) for rate in rates]
        self.discriminators = nn.ModuleList(critics)

    def forward(self, x):
        x = x - x.mean(dim=-1, keepdim=True)
        x = 0.8 * x / (x.abs().amax(dim=-1, keepdim=True) + 1e-9)
        return [critic(x) for critic in self.discriminators]


def scripted(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


@scripted
def snake(x, alpha):
    shape = x.shape
    x = x.reshape(shape[0], shape[1], -1)
    x = x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).pow(2)
    return x.reshape(shape)


class Snake(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x):
        return snake(x, self.alpha)


class ResidualUnit(nn.Module):
    """Where the convolutions shorten their input, the sum takes its middle."""

    def __init__(self, dim, dilation):
        super().__init__()
        self.block = nn.Sequential(
            Snake(dim),
            wn_conv(nn.Conv1d, dim, dim, kernel_size=7, dilation=dilation, padding=6 * dilation // 2, act=False),
            Snake(dim),
            wn_conv(nn.Conv1d, dim, dim, kernel_size=1, act=False),
        )

    def forward(self, x):
        y = self.block(x)
        pad = (x.shape[-1] - y.shape[-1]) // 2
        if pad > 0:
            x = x[..., pad:-pad]
        return x + y


class DecoderBlock(nn.Module):
    """Of an odd stride, which wants one more sample out."""

    def __init__(self, c_in=8, c_out=4, stride=3, dilations=(1, 3)):
        super().__init__()
        up = nn.ConvTranspose1d(c_in, c_out, 2 * stride, stride, padding=(stride + 1) // 2, output_padding=stride % 2)
        self.block = nn.Sequential(Snake(c_in), weight_norm(up), *[ResidualUnit(c_out, dilation) for dilation in dilations])

    def forward(self, x):
        return self.block(x)


def _stack(path: str, count: int) -> list[tuple[str, ...]]:
    """What the list of features keeps is an activation's value."""
    return [(f"{path}.{i}.0", f"{path}.{i}.1") for i in range(count)]


_CRITICS = [
    group
    for i, count in enumerate((3, 3, 4, 4))
    for group in (*_stack(f"discriminators.{i}.convs", count), (f"discriminators.{i}.conv_post",))
]
# The scripted snake flattens its input first, which changes nothing of three dimensions.
_UNITS = [group for i in (2, 3) for group in numbered(f"block.{i}.block", "0", "1 2", "3 add()")]

ROWS = [
    Family(
        "codec-d",
        Discriminator,
        noise(1, 64),
        _CRITICS,
        batch=2,
        real=Real(
            lambda: Discriminator((2, 3, 5), (1, 2), (32, 128, 512), 32),
            noise(1, 4096),
            2,
            "DAC (Kumar et al. 2023): periods 2, 3, 5 of 32 to 512 channels, there five to 1024; 4096 samples, there 0.38 s, batch 72",
        ),
    ).with_small(1),
    Family(
        "codec-bands-d",
        BandDiscriminator,
        noise(2, 6, 24),
        [*(group for i in range(3) for group in _stack(f"band_convs.{i}", 3)), ("conv_post",)],
        half="autocast",
    ),
    Family("codec-decoder-block", DecoderBlock, noise(8, 12), [("block.0",), ("block.1",), *_UNITS]),
]
