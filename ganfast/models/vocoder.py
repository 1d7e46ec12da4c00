"""BigVGAN's generator: a mel spectrogram becomes sound. In plain torch; `ganfast.accelerate` runs each activation between its two filters
in one pass. Layers are called as in BigVGAN, whose state dicts fit the same sizes."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ganfast import _checks

TAPS, RATIO = 12, 2  # of the filters around an activation, and how much faster the sound is between them
ACTIVATIONS = ("snake", "snake_beta")


def kaiser_sinc(cutoff: float, half_width: float, taps: int) -> Tensor:
    """A low-pass filter [taps], an even number, of sum 1: a sinc under Kaiser's window. cutoff, half_width: where it falls, and over how
    much, as shares of the sample rate.

    Source: Kaiser 1974, "Nonrecursive digital filter design using the I0-sinh window function", with his estimates of attenuation and beta.
    """
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    beta = 0.0
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    place = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    ideal = torch.sinc(2 * cutoff * place) * torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)
    return (ideal / ideal.sum()).float()


class Snake(nn.Module):
    """x + sin(a x)^2 / b with a frequency and, as snake_beta, a magnitude of its own for each channel, both kept as logarithms.

    Shapes: [N, channels, T] -> the same.
    Source: Liu, Hartwig & Ueda 2020, "Neural networks fail to learn periodic functions and how to fix it"; Lee et al. 2023.
    """

    def __init__(self, channels: int, act: str = "snake_beta") -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        if act == "snake_beta":
            self.beta = nn.Parameter(torch.zeros(channels))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        alpha = torch.exp(self.alpha[None, :, None])
        beta = torch.exp(self.beta[None, :, None]) if self.act == "snake_beta" else alpha
        return x + (1.0 / (beta + 1e-9)) * torch.pow(torch.sin(x * alpha), 2)


class Up(nn.Module):
    """Twice as fast, by the filter. [N, C, T] -> [N, C, 2 T]."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = TAPS // RATIO - 1
        self.cut = self.pad * RATIO + (TAPS - RATIO) // 2
        self.register_buffer("filter", kaiser_sinc(0.5 / RATIO, 0.6 / RATIO, TAPS).view(1, 1, -1))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x, (self.pad, self.pad), mode="replicate")
        x = RATIO * F.conv_transpose1d(x, self.filter.expand(channels, -1, -1), stride=RATIO, groups=channels)
        return x[..., self.cut : -self.cut]


class LowPass(nn.Module):
    """Half as fast, by the filter. [N, C, 2 T] -> [N, C, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc(0.5 / RATIO, 0.6 / RATIO, TAPS).view(1, 1, -1))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(x, self.filter.expand(channels, -1, -1), stride=RATIO, groups=channels)


class Down(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class Activation1d(nn.Module):
    """Up, activate, down: the harmonics that an activation makes have room, and do not come back as frequencies that nobody asked for.

    Shapes: [N, channels, T] -> the same. Source: Lee et al. 2023, after Karras et al. 2021 ("Alias-free generative adversarial networks").
    """

    def __init__(self, channels: int, act: str = "snake_beta") -> None:
        super().__init__()
        self.act = Snake(channels, act)
        self.upsample, self.downsample = Up(), Down()

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(x)
        x = self.act(x)
        return self.downsample(x)


class AMPBlock(nn.Module):
    """Residual pairs of convolutions, the first of each dilated, with a filtered activation before either.

    Shapes: [N, channels, T] -> the same.
    """

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], act: str) -> None:
        super().__init__()
        conv = lambda d: weight_norm(nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel // 2)))
        self.convs1 = nn.ModuleList(conv(d) for d in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations = nn.ModuleList(Activation1d(channels, act) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        for conv1, conv2, act1, act2 in zip(self.convs1, self.convs2, self.activations[::2], self.activations[1::2]):
            y = conv1(act1(x))
            y = conv2(act2(y))
            x = y + x
        return x


class BigVGANGenerator(nn.Module):
    """A mel spectrogram to sound. Each step of `rates` is that much faster and has half as many channels; the blocks after it, one for each
    of `block_kernels`, are averaged. The defaults are the paper's base network for 24 kHz.

    Arguments:
        mels: of a frame. width: channels before the first step. rates, kernels: of the transposed convolutions; a frame gives as many
            samples as the rates multiply to, which `hop` says.
        block_kernels, dilations: of the residual blocks. act: snake_beta, or snake with one parameter. bias: of the last convolution.
    Shapes: mel [N, mels, T] -> [N, 1, T * hop] in [-1, 1].
    Raises: ValueError for sizes that do not fit together, and for mels of another shape.
    Source: Lee et al. 2023, "BigVGAN: a universal neural vocoder with large-scale training"; Kong et al. 2020, "HiFi-GAN" (the frame).
    """

    def __init__(
        self,
        mels: int = 100,
        width: int = 512,
        rates: Sequence[int] = (8, 8, 2, 2),
        kernels: Sequence[int] = (16, 16, 4, 4),
        block_kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[int] = (1, 3, 5),
        act: str = "snake_beta",
        bias: bool = True,
    ) -> None:
        super().__init__()
        _check(mels, width, rates, kernels, block_kernels, dilations, act)
        self.mels, self.hop, self.count = mels, math.prod(rates), len(block_kernels)
        self.conv_pre = weight_norm(nn.Conv1d(mels, width, 7, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip(rates, kernels)):
            channels = width // 2 ** (i + 1)
            up = nn.ConvTranspose1d(2 * channels, channels, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(nn.ModuleList([weight_norm(up)]))
            self.resblocks.extend(AMPBlock(channels, size, dilations, act) for size in block_kernels)
        self.activation_post = Activation1d(channels, act)
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3, bias=bias))

    def forward(self, mel: Tensor) -> Tensor:
        if mel.dim() != 3 or mel.shape[1] != self.mels:
            _checks.fail("vocoder", f"mel got {list(mel.shape)}, wants [N, {self.mels}, T]")
        x = self.conv_pre(mel)
        for i, (up,) in enumerate(self.ups):
            x = up(x)
            whole = None
            for block in self.resblocks[i * self.count : (i + 1) * self.count]:
                whole = block(x) if whole is None else whole + block(x)
            x = whole / self.count
        x = self.activation_post(x)
        return torch.tanh(self.conv_post(x))


def _check(mels, width, rates, kernels, block_kernels, dilations, act) -> None:
    fail = lambda message, cause="": _checks.fail("vocoder", message, cause)
    sizes = {"rates": rates, "kernels": kernels, "block_kernels": block_kernels, "dilations": dilations}
    for name, values in {"mels": [mels], "width": [width], **sizes}.items():
        if not values or not all(isinstance(value, int) and value >= 1 for value in values):
            fail(f"{name} got {values if name in sizes else values[0]}, wants whole numbers of at least 1")
    if len(rates) != len(kernels):
        fail(f"kernels got {len(kernels)} numbers, wants {len(rates)}, one for each of rates")
    if width % 2 ** len(rates):
        fail(f"width got {width}, wants a multiple of {2 ** len(rates)}", f"Each of {len(rates)} steps halves it")
    for rate, kernel in zip(rates, kernels):
        if kernel < rate or (kernel - rate) % 2:
            fail(f"kernels got {kernel} for the rate {rate}, wants {rate} or an even number more", "Else frames have too many samples")
    for kernel in block_kernels:
        if kernel % 2 == 0:
            fail(f"block_kernels got {kernel}, wants odd numbers", "Else a block would change the length")
    if act not in ACTIVATIONS:
        _checks.nearest("vocoder", "act", act, ACTIVATIONS)
