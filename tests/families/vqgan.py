"""The autoencoder of latent diffusion and VQGAN (Esser et al. 2021, Rombach et al. 2022) with its patch critic: group norms, swish as a
product, attention by 1x1 convolutions, padding on two sides."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Groups, Real, images, noise, numbered


def swish(x):
    return x * torch.sigmoid(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    """A convolution cannot pad on one side alone."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class ResnetBlock(nn.Module):
    """The networks of diffusion share this block, and give it an embedding of the time."""

    def __init__(self, c_in, c_out, groups, dropout=0.0, time_channels=0):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time_channels, c_out) if time_channels else None
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x, temb):
        h = self.conv1(swish(self.norm1(x)))
        if temb is not None:
            h = h + self.time(swish(temb))[:, :, None, None]
        h = self.conv2(self.dropout(swish(self.norm2(h))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) / q.shape[1] ** 0.5, dim=-1)
        return x + self.out(torch.bmm(v, weights.transpose(1, 2)).view_as(x))


class Middle(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.block1 = ResnetBlock(channels, channels, groups)
        self.attention = AttnBlock(channels, groups)
        self.block2 = ResnetBlock(channels, channels, groups)

    def forward(self, h, temb):
        return self.block2(self.attention(self.block1(h, temb)), temb)


def level(c_in, c_out, blocks, groups, resample):
    """One resolution: its forward is that of the network that holds it."""
    each = nn.Module()
    each.blocks = nn.ModuleList([ResnetBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(blocks)])
    each.resample = resample(c_out)
    return each


class Encoder(nn.Module):
    def __init__(self, ch, ch_mult, blocks, groups, z_channels):
        super().__init__()
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        widths = [ch * mult for mult in ch_mult]
        resamples = [Downsample] * (len(widths) - 1) + [nn.Identity]
        self.down = nn.ModuleList([level(a, b, blocks, groups, r) for a, b, r in zip([ch, *widths], widths, resamples)])
        self.mid = Middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * z_channels, 3, padding=1)

    def forward(self, x, temb=None):
        h = self.conv_in(x)
        for each in self.down:
            for block in each.blocks:
                h = block(h, temb)
            h = each.resample(h)
        h = self.mid(h, temb)
        return self.conv_out(swish(self.norm_out(h)))


class Decoder(nn.Module):
    def __init__(self, ch, ch_mult, blocks, groups, z_channels):
        super().__init__()
        widths = [ch * mult for mult in reversed(ch_mult)]
        self.conv_in = nn.Conv2d(z_channels, widths[0], 3, padding=1)
        self.mid = Middle(widths[0], groups)
        resamples = [Upsample] * (len(widths) - 1) + [nn.Identity]
        self.up = nn.ModuleList([level(a, b, blocks + 1, groups, r) for a, b, r in zip([widths[0], *widths], widths, resamples)])
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z, temb=None):
        h = self.mid(self.conv_in(z), temb)
        for each in self.up:
            for block in each.blocks:
                h = block(h, temb)
            h = each.resample(h)
        return self.conv_out(swish(self.norm_out(h)))


class AutoencoderKL(nn.Module):
    def __init__(self, ch=8, ch_mult=(1, 2), blocks=1, groups=4, z_channels=2, embed_dim=2):
        super().__init__()
        self.encoder = Encoder(ch, ch_mult, blocks, groups, z_channels)
        self.decoder = Decoder(ch, ch_mult, blocks, groups, z_channels)
        self.quant_conv = nn.Conv2d(2 * z_channels, 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    def encode(self, x):
        mean, logvar = torch.chunk(self.quant_conv(self.encoder(x)), 2, dim=1)
        return mean, torch.clamp(logvar, -30.0, 20.0)

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))

    def forward(self, input, sample_posterior=True):
        mean, logvar = self.encode(input)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean) if sample_posterior else mean
        return self.decode(z), mean, logvar


class NLayerDiscriminator(nn.Module):
    """Sees pictures alone, two layers deep."""

    def __init__(self, input_nc=3, ndf=8, n_layers=2):
        super().__init__()
        widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
        layers = [nn.Conv2d(input_nc, ndf, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        for n in range(1, n_layers + 1):
            stride = 2 if n < n_layers else 1
            layers += [
                nn.Conv2d(widths[n - 1], widths[n], kernel_size=4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(widths[n]),
                nn.LeakyReLU(0.2, True),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, kernel_size=4, stride=1, padding=1))

    def forward(self, input):
        return self.main(input)


def _block(path: str, shortcut: bool = False) -> Groups:
    """The sum belongs to the second convolution, which comes before the shortcut's."""
    first = [(f"{path}.norm1", "silu()"), (f"{path}.conv1", f"{path}.norm2", "silu()"), (f"{path}.conv2", "add()")]
    return [*first, (f"{path}.shortcut",)] if shortcut else first


def _middle(path: str) -> Groups:
    attention = [(f"{path}.attention.{layer}",) for layer in ("norm", "q", "k", "v")] + [(f"{path}.attention.out", "add()")]
    return [*_block(f"{path}.block1"), *attention, *_block(f"{path}.block2")]


_ENCODER = [
    ("encoder.conv_in",),
    *_block("encoder.down.0.blocks.0"),
    ("encoder.down.0.resample.conv",),
    *_block("encoder.down.1.blocks.0", shortcut=True),
    *_middle("encoder.mid"),
    ("encoder.norm_out", "silu()"),
    ("encoder.conv_out",),
    ("quant_conv",),
]
_DECODER = [
    ("post_quant_conv",),
    ("decoder.conv_in",),
    *_middle("decoder.mid"),
    *_block("decoder.up.0.blocks.0"),
    *_block("decoder.up.0.blocks.1"),
    ("interpolate()", "decoder.up.0.resample.conv"),
    *_block("decoder.up.1.blocks.0", shortcut=True),
    *_block("decoder.up.1.blocks.1"),
    ("decoder.norm_out", "silu()"),
    ("decoder.conv_out",),
]

ROWS = [
    Family(
        "vqgan-autoencoder",
        AutoencoderKL,
        images(3, 8, 8),
        [*_ENCODER, *_DECODER],
        batch=2,
        half="autocast",
        real=Real(
            lambda: AutoencoderKL(64, (1, 2, 4), 2, 32, 4, 4),
            images(3, 32, 32),
            1,
            "Latent diffusion (Rombach et al. 2022), autoencoder with factor 4: 64 to 256 channels, there 128 to 512; 32x32, there 256x256",
        ),
    ).with_small(1),
    Family(
        "vqgan-decoder",
        lambda: Decoder(8, (1, 2), 1, 4, 2),
        noise(2, 3, 3),
        [tuple(part.removeprefix("decoder.") for part in group) for group in _DECODER[1:]],
        batch=1,
        half="autocast",
        real=Real(
            lambda: Decoder(64, (1, 2, 4), 2, 32, 3),
            noise(3, 16, 16),
            2,
            "Latent diffusion (Rombach et al. 2022), decoder of factor 4: 64 to 256 channels, there 128 to 512; 64x64 pixels",
        ),
        small=Real(lambda: Decoder(8, (1, 2), 1, 4, 2), noise(2, 3, 3), 1, "the size that is tested"),
    ),
    Family("vqgan-d", NLayerDiscriminator, images(3, 32, 32), numbered("main", "0 1", "2 3 4", "5 6 7", "8")),
]
