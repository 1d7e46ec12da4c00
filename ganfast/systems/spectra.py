"""Spectra of sound: mel spectrograms, Griffin-Lim's way back from one, and how far two sounds are apart. Sound is [N, 1, T] in [-1, 1]."""

import contextlib
import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks

FLOOR = 1e-5  # of a mel, before its logarithm
QUIET = 1e-4  # of full scale, -80 dB: what is softer counts as silence in the distance
WINDOWS = (0.010, 0.025, 0.050)  # seconds, of the distance; frames follow each other by a fifth of it


def _unrounded(like: Tensor) -> contextlib.AbstractContextManager:
    """Without autocast, on a device that has it: a product of 16 bits is too coarse for a mel."""
    there = like.device.type
    return torch.autocast(there, enabled=False) if torch.amp.is_autocast_available(there) else contextlib.nullcontext()


def hertz(mels: Tensor) -> Tensor:
    """Slaney's mels: 15 of them up to 1000 Hz, each as wide; 27 to each factor of 6.4 above."""
    return torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * math.log(6.4) / 27))


def mels_of(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


@functools.lru_cache(maxsize=8)
def mel_filters(rate: int, fft: int, mels: int, low: float = 0.0, high: float | None = None) -> Tensor:
    """Triangles over the frequencies of a Fourier transform, float64 [mels, fft / 2 + 1]. Each begins in the middle of the one before it,
    and its area over frequency in Hz is 1.

    Raises: ValueError where a triangle is so narrow that it holds no frequency.
    Source: Slaney 1998, "Auditory toolbox", whose scale and areas librosa has by default.
    """
    corners = torch.linspace(mels_of(low), mels_of(rate / 2 if high is None else high), mels + 2, dtype=torch.float64)
    corners = hertz(corners)[:, None]
    at = torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    found = torch.minimum((at - left) / (middle - left), (right - at) / (right - middle)).clamp(min=0) * 2 / (right - left)
    if empty := int((found.sum(1) == 0).sum()):
        _checks.fail("spectra", f"{empty} of {mels} mels hold no frequency of a transform of {fft} points", "Fewer mels, or more points")
    return found


@dataclass(frozen=True)
class Mel:
    """How a mel spectrogram is made: of sound at `rate` samples a second, by Hann windows of `fft` samples that follow each other by `hop`.

    Shapes: sound [N, 1, frames * hop] -> log_mel [N, mels, frames], magnitudes [N, fft / 2 + 1, frames]. Frame i is around the middle of
        the samples from i * hop on; beyond its ends the sound is mirrored.
    Dtypes: float32, or float64 of such sound, under autocast too.
    Raises: ValueError for sizes that make no sense, and for sound of another shape.
    Source: Kong et al. 2020, "HiFi-GAN" (the frames, natural logarithms of magnitudes, their floor).
    """

    rate: int
    fft: int
    hop: int
    mels: int

    def __post_init__(self) -> None:
        if not 1 <= self.hop <= self.fft or (self.fft - self.hop) % 2:
            _checks.fail("spectra", f"hop got {self.hop} with fft {self.fft}, wants fft less an even number, from 1 on")
        mel_filters(self.rate, self.fft, self.mels)

    def filters(self, like: Tensor) -> Tensor:
        return mel_filters(self.rate, self.fft, self.mels).to(like.device, like.dtype)

    def framed(self, sound: Tensor) -> Tensor:
        """[N, T + fft - hop]: the sound with what is mirrored at its ends."""
        around = (self.fft - self.hop) // 2
        if sound.dim() != 3 or sound.shape[1] != 1 or sound.shape[2] % self.hop or sound.shape[2] <= around:
            _checks.fail("spectra", f"sound got {list(sound.shape)}, wants [N, 1, T], T a multiple of {self.hop} above {around}")
        sound = sound if sound.dtype == torch.float64 else sound.float()
        return F.pad(sound, (around, around), mode="reflect")[:, 0]

    def transform(self, framed: Tensor) -> Tensor:
        """[N, T + fft - hop] -> complex [N, fft / 2 + 1, frames]."""
        window = torch.hann_window(self.fft, device=framed.device, dtype=framed.dtype)
        return torch.stft(framed, self.fft, self.hop, window=window, center=False, return_complex=True)

    def magnitudes(self, sound: Tensor) -> Tensor:
        with _unrounded(sound):
            found = torch.view_as_real(self.transform(self.framed(sound)))
            return (found.square().sum(-1) + 1e-9).sqrt()  # whose gradient is finite in silence

    def log_mel(self, sound: Tensor) -> Tensor:
        magnitudes = self.magnitudes(sound)
        with _unrounded(sound):
            return (self.filters(magnitudes) @ magnitudes).clamp(min=FLOOR).log()

    def inverse(self, framed: Tensor) -> Tensor:
        """The sound whose transform is nearest: complex [N, fft / 2 + 1, frames] -> [N, T + fft - hop]."""
        window = torch.hann_window(self.fft, device=framed.device, dtype=framed.real.dtype)[:, None]
        length = (framed.shape[2] - 1) * self.hop + self.fft
        add = lambda x: F.fold(x, (1, length), (1, self.fft), stride=(1, self.hop))[:, 0, 0]
        whole = add(window.square().expand(1, -1, framed.shape[2]))
        return add(torch.fft.irfft(framed, self.fft, dim=1) * window) / whole.clamp(min=1e-3)


def magnitudes_of(mel: Mel, log_mel: Tensor, iterations: int = 200) -> Tensor:
    """Magnitudes [N, fft / 2 + 1, frames], none negative, whose mels are nearest to these: least squares by multiplicative updates.

    Source: Lee & Seung 2001, "Algorithms for non-negative matrix factorization".
    """
    filters, wanted = mel.filters(log_mel), log_mel.exp()
    found = filters.T @ wanted / filters.sum(0)[:, None].clamp(min=1e-9)
    above = filters.T @ wanted
    for _ in range(iterations):
        found = found * above / (filters.T @ (filters @ found)).clamp(min=1e-9)
    return found


def griffin_lim(mel: Mel, log_mel: Tensor, iterations: int = 60, momentum: float = 0.99, seed: int = 0) -> Tensor:
    """Sound [N, 1, frames * hop] of a mel spectrogram without having learned anything: magnitudes that have these mels, and phases that
    become those of a sound, from random ones on.

    Source: Griffin & Lim 1984; Perraudin, Balazs & Sondergaard 2013, "A fast Griffin-Lim algorithm" (momentum).
    """
    wanted = magnitudes_of(mel, log_mel)
    angles = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(seed)).to(wanted) * 2 * math.pi
    phases, before = torch.polar(torch.ones_like(wanted), angles), torch.zeros_like(wanted)
    for _ in range(iterations):
        now = mel.transform(mel.inverse(wanted * phases))
        phases = now + momentum * (now - before)
        phases, before = phases / phases.abs().clamp(min=1e-12), now
    around = (mel.fft - mel.hop) // 2
    found = mel.inverse(wanted * phases)
    return found[:, None, around : found.shape[1] - around].clamp(-1, 1)


def distance(made: Tensor, true: Tensor, rate: int) -> Tensor:
    """How far sounds are apart, [N]: over windows of 10, 25 and 50 ms the mean of the spectral convergence, |S - S'| / |S|, and of the mean
    difference of the magnitudes' natural logarithms. It does not hear phases. 0 for equal sounds.

    Source: Yamamoto, Song & Kim 2020, "Parallel WaveGAN" (the multi-resolution STFT loss, with its windows and hops).
    Raises: ValueError for sounds of two shapes.
    """
    if made.shape != true.shape or true.dim() != 3 or true.shape[1] != 1:
        _checks.fail("spectra", f"made got {list(made.shape)}, true {list(true.shape)}, wants [N, 1, T] of both")
    found = []
    for at in resolutions(rate):
        a, b = (_loudness(x, *at).flatten(1) for x in (made, true))
        convergence = (a - b).norm(dim=1) / b.norm(dim=1).clamp(min=QUIET)
        found.append(convergence + (a.clamp(min=QUIET).log() - b.clamp(min=QUIET).log()).abs().mean(1))
    return torch.stack(found).mean(0)


def resolutions(rate: int) -> list[tuple[int, int, int]]:
    """(points, hop, window) of WINDOWS at a sample rate."""
    sizes = [max(5, round(seconds * rate)) for seconds in WINDOWS]
    return [(2 ** (size - 1).bit_length(), size // 5, size) for size in sizes]


def _loudness(sound: Tensor, points: int, hop: int, size: int) -> Tensor:
    """Magnitudes [N, frequencies, frames]; of a sine at full scale 1."""
    sound = sound if sound.dtype == torch.float64 else sound.float()
    window = torch.hann_window(size, device=sound.device, dtype=sound.dtype)
    return torch.stft(sound[:, 0], points, hop, size, window, return_complex=True).abs() * (2 / window.sum())


def decibels(sound: Tensor, rate: int) -> Tensor:
    """Of full scale, for a picture: [N, 1, T] -> [N, frequencies, frames], from low to high, a frame every 4 ms, -80 at least."""
    points = 2 ** (round(0.025 * rate) - 1).bit_length()
    return 20 * _loudness(sound, points, max(1, round(0.004 * rate)), points).clamp(min=QUIET).log10()
