"""The discriminators of vocoders: sound folded by periods, and its spectrogram at several resolutions. In plain torch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ganfast import _checks

Judged = list[tuple[Tensor, list[Tensor]]]
SLOPE = 0.1  # of the leaky ReLUs


def _wave(wave: Tensor, least: int) -> None:
    if wave.dim() != 3 or wave.shape[1] != 1 or wave.shape[2] < least:
        _checks.fail("vocoder", f"wave got {list(wave.shape)}, wants [N, 1, T], T of at least {least}")


def _positive(name: str, values: Sequence[int]) -> None:
    if not values or not all(isinstance(value, int) and value >= 1 for value in values):
        _checks.fail("vocoder", f"{name} got {values}, wants whole numbers of at least 1")


class _Layers(nn.Module):
    """Convolutions, each with a leaky ReLU but for the last, whose results are the features."""

    def _judged(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        x = self.conv_post(x)
        return torch.flatten(x, 1), [*features, x]


class PeriodDiscriminator(_Layers):
    """Sees every period-th sample together: the sound as a picture with so many columns, none of which looks at its neighbours."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        c = [1, width, 4 * width, 16 * width, 32 * width, 32 * width]
        strides = (3, 3, 3, 3, 1)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (stride, 1), padding=(2, 0))) for a, b, stride in zip(c, c[1:], strides)
        )
        self.conv_post = weight_norm(nn.Conv2d(c[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        lacking = -wave.shape[2] % self.period
        if lacking:
            wave = F.pad(wave, (0, lacking), mode="reflect")
        return self._judged(wave.reshape(len(wave), 1, -1, self.period))


class MultiPeriodDiscriminator(nn.Module):
    """A discriminator for each period. width: channels of the first layer, 32 in the paper; later ones have up to 32 times as many.

    Shapes: wave [N, 1, T] -> a list with logits [N, *] and feature maps of each period.
    Raises: ValueError for waves of another shape or shorter than the largest period, and for periods and widths below 1.
    Source: Kong, Kim & Bae 2020, "HiFi-GAN: generative adversarial networks for efficient and high fidelity speech synthesis".
    """

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), width: int = 32) -> None:
        super().__init__()
        _positive("periods", periods)
        _positive("width", [width])
        self.least = max(periods)
        self.discriminators = nn.ModuleList(PeriodDiscriminator(period, width) for period in periods)

    def forward(self, wave: Tensor) -> Judged:
        _wave(wave, self.least)
        return [discriminator(wave) for discriminator in self.discriminators]


class ResolutionDiscriminator(_Layers):
    """Sees the magnitudes of one short-time Fourier transform as a picture [N, 1, frames, frequencies]."""

    def __init__(self, fft: int, hop: int, window: int, width: int) -> None:
        super().__init__()
        self.fft, self.hop, self.size = fft, hop, window
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        wide = lambda c_in, stride: weight_norm(nn.Conv2d(c_in, width, (3, 9), (1, stride), padding=(1, 4)))
        last = weight_norm(nn.Conv2d(width, width, 3, padding=1))
        self.convs = nn.ModuleList([wide(1, 1), *(wide(width, 2) for _ in range(3)), last])
        self.conv_post = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def magnitudes(self, wave: Tensor) -> Tensor:
        """[N, 1, T] -> [N, 1, frames, fft / 2 + 1], in float32 or float64, as Fourier transforms want it."""
        x = wave[:, 0]
        x = x if x.dtype == torch.float64 else x.float()
        around = (self.fft - self.hop) // 2
        x = F.pad(x, (around, around), mode="reflect")
        return torch.stft(x, self.fft, self.hop, self.size, self.window.to(x.dtype), center=False, return_complex=True).abs().mT[:, None]

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self._judged(self.magnitudes(wave))


class MultiResolutionDiscriminator(nn.Module):
    """A discriminator for each (points of the transform, samples from one frame to the next, samples of its window). width: channels, 32
    in the paper; the resolutions are those for 24 kHz.

    Shapes: wave [N, 1, T] -> a list with logits [N, *] and feature maps of each resolution.
    Raises: ValueError for waves of another shape or too short to reflect, and for resolutions that make no sense.
    Source: Jang et al. 2021, "UnivNet: a neural vocoder with multi-resolution spectrogram discriminators", as in Lee et al. 2023.
    """

    def __init__(
        self, resolutions: Sequence[tuple[int, int, int]] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)), width: int = 32
    ) -> None:
        super().__init__()
        _positive("width", [width])
        for each in resolutions or [()]:
            if len(each) != 3 or not 1 <= each[1] <= each[2] <= each[0]:
                _checks.fail("vocoder", f"resolutions got {each}, wants (points, hop, window), hop <= window <= points")
        self.least = max((fft - hop) // 2 for fft, hop, _ in resolutions) + 1
        self.discriminators = nn.ModuleList(ResolutionDiscriminator(*each, width) for each in resolutions)

    def forward(self, wave: Tensor) -> Judged:
        _wave(wave, self.least)
        return [discriminator(wave) for discriminator in self.discriminators]
