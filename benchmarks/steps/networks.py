"""Networks at their published sizes that tests/families holds smaller or in another variant; the families' blocks where they fit."""

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm, spectral_norm

from tests.families import hifigan, pix2pix
from tests.families.hifigan import get_padding, old_weight_norm


def unet(size: int, width: int) -> nn.Module:
    """pix2pix's U-Net from size x size to one pixel: 8 levels for 256x256, up to 8 * width channels, dropout in the inner ones."""
    block = pix2pix.UnetSkipConnectionBlock
    inner = block(8 * width, 8 * width, innermost=True)
    for _ in range(size.bit_length() - 6):
        inner = block(8 * width, 8 * width, submodule=inner, use_dropout=True)
    for outer in (4, 2, 1):
        inner = block(outer * width, 2 * outer * width, submodule=inner)
    return block(3, width, input_nc=3, submodule=inner, outermost=True)


def patchgan(channels: int, width: int, norm: type[nn.Module]) -> nn.Sequential:
    """The 70x70 PatchGAN C64-C128-C256-C512: a map of logits."""
    bias = norm is nn.InstanceNorm2d
    layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for c_in, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        layers += [nn.Conv2d(c_in, 2 * c_in, 4, stride, 1, bias=bias), norm(2 * c_in), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))


def vocoder(width: int) -> nn.Module:
    """HiFi-GAN's generator: config_v1.json at width 512, 256 samples for each of the mels' frames."""
    blocks = ((3, 7, 11), ((1, 3, 5),) * 3)
    return hifigan.Generator(hifigan.ResBlock1, old_weight_norm, 80, width, (8, 8, 2, 2), (16, 16, 4, 4), *blocks)


def vocoder_for_inference(width: int) -> nn.Module:
    """Without its weight norm, as its authors' inference takes it off."""
    model = vocoder(width)
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            remove_weight_norm(module)
    return model.eval()


class _Period(hifigan.DiscriminatorP):
    def __init__(self, period: int, width: int) -> None:
        super().__init__(period)
        sizes = [1, width, 4 * width, 16 * width, 32 * width, 32 * width]
        conv = lambda i: nn.Conv2d(sizes[i], sizes[i + 1], (5, 1), (3 if i < 4 else 1, 1), padding=(get_padding(5, 1), 0))
        self.convs = nn.ModuleList([old_weight_norm(conv(i)) for i in range(5)])
        self.conv_post = old_weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), 1, padding=(1, 0)))


class _Scale(hifigan.DiscriminatorS):
    def __init__(self, width: int, norm) -> None:
        super().__init__()
        w = width
        rows = [
            (1, w, 15, 1, 1), (w, w, 41, 2, 4), (w, 2 * w, 41, 2, 16), (2 * w, 4 * w, 41, 4, 16), (4 * w, 8 * w, 41, 4, 16),
            (8 * w, 8 * w, 41, 1, 16), (8 * w, 8 * w, 5, 1, 1),
        ]  # fmt: skip
        self.convs = nn.ModuleList([norm(nn.Conv1d(i, o, k, s, padding=k // 2, groups=g)) for i, o, k, s, g in rows])
        self.conv_post = norm(nn.Conv1d(8 * w, 1, 3, 1, padding=1))


class Periods(nn.Module):
    """HiFi-GAN's multi-period discriminator (width 32): for audio [N, 1, T] a (logits, feature maps) of each period."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList([_Period(period, width) for period in (2, 3, 5, 7, 11)])

    def forward(self, audio: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        return [d(audio) for d in self.discriminators]


class Scales(nn.Module):
    """Its multi-scale discriminator (width 128): the audio whole, halved, quartered; the first under spectral norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList([_Scale(width, spectral_norm), _Scale(width, old_weight_norm), _Scale(width, old_weight_norm)])
        self.pool = nn.AvgPool1d(4, 2, padding=2)

    def forward(self, audio: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        found = []
        for i, d in enumerate(self.discriminators):
            audio = self.pool(audio) if i else audio
            found.append(d(audio))
        return found


@functools.cache
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.hann_window(1024, device=device, dtype=dtype)


def spectrogram(audio: Tensor) -> Tensor:
    """Magnitudes of [N, 1, T]: HiFi-GAN's 1024-point window every 256 samples, without the projection to mels and the log."""
    audio = audio[:, 0]
    audio = audio if audio.dtype == torch.float64 else audio.float()
    found = torch.view_as_real(torch.stft(audio, 1024, 256, window=_window(audio.device, audio.dtype), return_complex=True))
    return (found.square().sum(-1) + 1e-9).sqrt() / math.sqrt(1024)
