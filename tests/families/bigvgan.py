"""BigVGAN-like vocoders (Lee et al. 2023): a periodic activation whose frequencies are learned, on a log scale or not."""

import torch
from torch import nn
from torch.nn import Parameter
from torch.nn.utils.parametrizations import weight_norm

from tests.families.family import Family, Real, noise, numbered


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, one alpha per channel of [N, C, T]."""

    def __init__(self, in_features, alpha=1.0, alpha_trainable=True, alpha_logscale=False):
        super().__init__()
        self.in_features = in_features
        self.alpha_logscale = alpha_logscale
        if self.alpha_logscale:
            self.alpha = Parameter(torch.zeros(in_features) * alpha)
        else:
            self.alpha = Parameter(torch.ones(in_features) * alpha)
        self.alpha.requires_grad = alpha_trainable
        self.no_div_by_zero = 0.000000001

    def forward(self, x):
        alpha = self.alpha.unsqueeze(0).unsqueeze(-1)
        if self.alpha_logscale:
            alpha = torch.exp(alpha)
        x = x + (1.0 / (alpha + self.no_div_by_zero)) * torch.pow(torch.sin(x * alpha), 2)
        return x


class SnakeBeta(nn.Module):
    """Frequency and magnitude learned apart: x + sin^2(alpha x) / beta. No snake, though it looks like one."""

    def __init__(self, in_features, alpha_logscale=False):
        super().__init__()
        self.alpha_logscale = alpha_logscale
        initial = torch.zeros(in_features) if alpha_logscale else torch.ones(in_features)
        self.alpha = Parameter(initial.clone())
        self.beta = Parameter(initial.clone())
        self.no_div_by_zero = 0.000000001

    def forward(self, x):
        alpha = self.alpha.unsqueeze(0).unsqueeze(-1)
        beta = self.beta.unsqueeze(0).unsqueeze(-1)
        if self.alpha_logscale:
            alpha = torch.exp(alpha)
            beta = torch.exp(beta)
        return x + (1.0 / (beta + self.no_div_by_zero)) * torch.pow(torch.sin(x * alpha), 2)


class Snake1d(nn.Module):
    """The codecs' variant: alpha of shape [1, C, 1], another spelling of the formula."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x):
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


class AMPBlock1(nn.Module):
    def __init__(self, channels, kernel_size=3, dilation=(1, 3), snake_logscale=False, activation=Snake):
        super().__init__()
        pad = lambda d: (kernel_size * d - d) // 2
        self.convs1 = nn.ModuleList([weight_norm(nn.Conv1d(channels, channels, kernel_size, dilation=d, padding=pad(d))) for d in dilation])
        self.convs2 = nn.ModuleList([weight_norm(nn.Conv1d(channels, channels, kernel_size, dilation=1, padding=pad(1))) for _ in dilation])
        self.num_layers = len(self.convs1) + len(self.convs2)
        self.activations = nn.ModuleList([activation(channels, alpha_logscale=snake_logscale) for _ in range(self.num_layers)])

    def forward(self, x):
        acts1, acts2 = self.activations[::2], self.activations[1::2]
        for c1, c2, a1, a2 in zip(self.convs1, self.convs2, acts1, acts2):
            xt = a1(x)
            xt = c1(xt)
            xt = a2(xt)
            xt = c2(xt)
            x = xt + x
        return x


class BigVGAN(nn.Module):
    def __init__(
        self,
        num_mels=8,
        initial=16,
        rates=(2, 2),
        kernels=(4, 4),
        resblock_kernels=(3, 5),
        dilation=(1, 3),
        snake_logscale=False,
        activation=Snake,
    ):
        super().__init__()
        self.num_kernels = len(resblock_kernels)
        self.num_upsamples = len(rates)
        self.conv_pre = weight_norm(nn.Conv1d(num_mels, initial, 7, 1, padding=3))
        self.ups = nn.ModuleList()
        for i, (u, k) in enumerate(zip(rates, kernels)):
            up = nn.ConvTranspose1d(initial // (2**i), initial // (2 ** (i + 1)), k, u, padding=(k - u) // 2)
            self.ups.append(nn.ModuleList([weight_norm(up)]))
        self.resblocks = nn.ModuleList()
        for i in range(len(self.ups)):
            ch = initial // (2 ** (i + 1))
            for k in resblock_kernels:
                self.resblocks.append(AMPBlock1(ch, k, dilation, snake_logscale=snake_logscale, activation=activation))
        self.activation_post = activation(ch, alpha_logscale=snake_logscale)
        self.conv_post = weight_norm(nn.Conv1d(ch, 1, 7, 1, padding=3))

    def forward(self, x):
        x = self.conv_pre(x)
        for i in range(self.num_upsamples):
            for i_up in range(len(self.ups[i])):
                x = self.ups[i][i_up](x)
            xs = None
            for j in range(self.num_kernels):
                if xs is None:
                    xs = self.resblocks[i * self.num_kernels + j](x)
                else:
                    xs += self.resblocks[i * self.num_kernels + j](x)
            x = xs / self.num_kernels
        x = self.activation_post(x)
        x = self.conv_post(x)
        x = torch.tanh(x)
        return x


class CodecDecoder(nn.Module):
    """Sequentials alone: every convolution is followed by the next part's snake, unless a residual unit comes first."""

    def __init__(self, latent=8, channels=16):
        super().__init__()
        self.model = nn.Sequential(
            weight_norm(nn.Conv1d(latent, channels, kernel_size=7, padding=3)),
            DecoderBlock(channels, channels // 2, 2),
            Snake1d(channels // 2),
            weight_norm(nn.Conv1d(channels // 2, 1, kernel_size=7, padding=3)),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)


class ResidualUnit(nn.Module):
    def __init__(self, dim, dilation):
        super().__init__()
        self.block = nn.Sequential(
            Snake1d(dim),
            weight_norm(nn.Conv1d(dim, dim, kernel_size=7, dilation=dilation, padding=6 * dilation // 2)),
            Snake1d(dim),
            weight_norm(nn.Conv1d(dim, dim, kernel_size=1)),
        )

    def forward(self, x):
        return x + self.block(x)


class DecoderBlock(nn.Module):
    def __init__(self, input_dim, output_dim, stride):
        super().__init__()
        self.block = nn.Sequential(
            Snake1d(input_dim),
            weight_norm(nn.ConvTranspose1d(input_dim, output_dim, kernel_size=2 * stride, stride=stride, padding=stride // 2)),
            ResidualUnit(output_dim, dilation=1),
            ResidualUnit(output_dim, dilation=3),
        )

    def forward(self, x):
        return self.block(x)


def _amp(path: str, fits: bool = True) -> list[tuple[str, ...]]:
    """activations 0 and 2 come before their convolutions, 1 and 3 between two; fits: whether a convolution takes them."""
    alone = [(f"{path}.activations.{i}",) for i in (range(0, 4, 2) if fits else range(4))]
    first = [(f"{path}.convs1.{i}", *([f"{path}.activations.{2 * i + 1}"] if fits else [])) for i in range(2)]
    return [*alone, first[0], (f"{path}.convs2.0", "add()"), first[1], (f"{path}.convs2.1", "add()")]


def groups(fits: bool = True) -> list[tuple[str, ...]]:
    first, second = ([group for i in pair for group in _amp(f"resblocks.{i}", fits)] for pair in ((0, 1), (2, 3)))
    return [("conv_pre",), ("ups.0.0",), *first, ("ups.1.0",), *second, ("activation_post",), ("conv_post", "tanh()")]


_UNITS = [
    ("model.1.block.2.block.0",),
    ("model.1.block.3.block.0",),
    *numbered("model.1.block.2.block", "1 2", "3 add()"),
    *numbered("model.1.block.3.block", "1 2"),
    ("model.1.block.3.block.3", "add()", "model.2"),
]

ROWS = [
    Family(
        "bigvgan-g",
        BigVGAN,
        noise(8, 12),
        groups(),
        real=Real(
            lambda: BigVGAN(100, 512, (8, 8, 2, 2), (16, 16, 4, 4), (3, 7, 11), (1, 3, 5)),
            noise(100, 4),
            1,
            "BigVGAN (Lee et al. 2023), base_24khz_100band without its filters: 512 channels; 1024 samples, there 8192, batch 32",
        ),
    ).with_small(1),
    Family("bigvgan-log-g", lambda: BigVGAN(snake_logscale=True), noise(8, 12), groups()),
    Family("bigvgan-beta-g", lambda: BigVGAN(snake_logscale=True, activation=SnakeBeta), noise(8, 12), groups(fits=False)),
    Family(
        "codec-decoder", CodecDecoder, noise(8, 12), [("model.0", "model.1.block.0"), ("model.1.block.1",), *_UNITS, ("model.3", "model.4")]
    ),
]
