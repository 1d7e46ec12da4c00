"""Resampling of real networks: filters, factors and sizes are the published ones."""

import math
from typing import NamedTuple

_LOW_PASS = (1.0, 3.0, 3.0, 1.0)  # StyleGAN2's, divided by its sum
_KAISER = tuple(math.sin(math.pi * (t - 5.5) / 2) / (math.pi * (t - 5.5)) for t in range(12))  # BigVGAN's before its window: as many taps


class UpfirdnCase(NamedTuple):
    """x [batch, channels, *size], a separable filter; padding and gain as `ganfast.functional.upfirdn` has them."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    filter: tuple[float, ...]
    up: int
    down: int
    padding: tuple[int, ...]
    gain: float
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def results(self) -> int:
        """Values of y."""
        pairs = list(zip(self.padding[::2], self.padding[1::2]))[::-1]
        size = [(n * self.up + sum(pair) - len(self.filter)) // self.down + 1 for n, pair in zip(self.size, pairs)]
        return self.batch * self.channels * math.prod(size)

    def elements(self) -> int:
        """Values of x."""
        return self.batch * self.channels * math.prod(self.size)

    def tiny(self) -> "UpfirdnCase":
        return self._replace(name="tiny", source="", batch=1, channels=16, size=(4,) * len(self.size), cpu_batch=None, gpu_batches=())


_G = "Karras et al. 2020, StyleGAN2 at 256x256, generator: the blur after the transposed convolution to this size, batch 32"
_SKIP = "Karras et al. 2020, StyleGAN2 at 256x256, the sum of RGB images, enlarged to this size twice over, batch 32"
_D = "Karras et al. 2020, StyleGAN2 at 256x256, discriminator: the shortcut of the block at this size, batch 32"
_DB = "Karras et al. 2020, StyleGAN2 at 256x256, discriminator: the blur before the strided convolution at this size, batch 32"
_BIGVGAN = "Lee et al. 2023, BigVGAN-base, 24 kHz: upsampling before an activation at this many channels, segments of 8192 samples"
UPFIRDN = [
    UpfirdnCase("stylegan2-g64", 32, 256, (65, 65), _LOW_PASS, 1, 1, (1, 1, 1, 1), 4.0, _G, cpu_batch=4, gpu_batches=(32,)),
    UpfirdnCase("stylegan2-g256", 32, 64, (257, 257), _LOW_PASS, 1, 1, (1, 1, 1, 1), 4.0, _G, cpu_batch=1, gpu_batches=(32,)),
    UpfirdnCase("stylegan2-rgb256", 32, 3, (128, 128), _LOW_PASS, 2, 1, (2, 1, 2, 1), 4.0, _SKIP, cpu_batch=8, gpu_batches=(32,)),
    UpfirdnCase("stylegan2-d128", 32, 128, (128, 128), _LOW_PASS, 1, 2, (1, 1, 1, 1), 1.0, _D, cpu_batch=2, gpu_batches=(32,)),
    UpfirdnCase("stylegan2-d64", 32, 256, (64, 64), _LOW_PASS, 1, 1, (2, 2, 2, 2), 1.0, _DB, cpu_batch=4, gpu_batches=(32,)),
    UpfirdnCase("bigvgan-256", 32, 256, (256,), _KAISER, 2, 1, (6, 5), 2.0, _BIGVGAN, cpu_batch=16, gpu_batches=(32,)),
]


class FilteredActCase(NamedTuple):
    """x [batch, channels, *size], separable filters; padding and the rest as `ganfast.functional.filtered_act` has them."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    up_filter: tuple[float, ...]
    down_filter: tuple[float, ...]
    up: int
    down: int
    padding: tuple[int, ...]
    act: str
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def elements(self) -> int:
        """Values of x."""
        return self.batch * self.channels * math.prod(self.size)

    def results(self) -> int:
        """Values of y."""
        if self.act == "snake_beta":
            return self.elements() * self.up // self.down
        pairs = list(zip(self.padding[::2], self.padding[1::2]))[::-1]
        middle = [n * self.up + sum(pair) - len(self.up_filter) + 1 for n, pair in zip(self.size, pairs)]
        return self.batch * self.channels * math.prod((n - len(self.down_filter)) // self.down + 1 for n in middle)

    def tiny(self) -> "FilteredActCase":
        dims = len(self.size)
        padding = (11, 10) * dims if self.padding else ()
        return self._replace(name="tiny", source="", batch=1, channels=16, size=(8,) * dims, padding=padding, cpu_batch=None,
                             gpu_batches=())  # fmt: skip


_WIDE = tuple(math.sin(math.pi * (t - 11.5) / 4) / (math.pi * (t - 11.5)) for t in range(24))  # twice over as many places
_SG3 = "Karras et al. 2021, StyleGAN3-T at 256x256: the activation of layer {}, batch 32, with conv_clamp 256"
_AMP = "Lee et al. 2023, BigVGAN-base, 24 kHz: an activation at this many channels, segments of 8192 samples, batch 32"
FILTERED_ACT = [
    FilteredActCase(
        "stylegan3-52", 32, 512, (54, 54), _KAISER, _KAISER, 2, 2, (9, 8) * 2, "leaky_relu", _SG3.format("L4_52_512"), 1, (32,)
    ),
    FilteredActCase(
        "stylegan3-up52", 32, 512, (38, 38), _WIDE, _KAISER, 4, 2, (-6, -9) * 2, "leaky_relu", _SG3.format("L3_52_512"), 1, (32,)
    ),
    FilteredActCase(
        "stylegan3-276", 32, 128, (278, 278), _KAISER, _KAISER, 2, 2, (9, 8) * 2, "leaky_relu", _SG3.format("L12_276_128"), 1, (32,)
    ),
    FilteredActCase("bigvgan-act256", 32, 256, (256,), _KAISER, _KAISER, 2, 2, (), "snake_beta", _AMP, 8, (32,)),
    FilteredActCase("bigvgan-act64", 32, 64, (4096,), _KAISER, _KAISER, 2, 2, (), "snake_beta", _AMP, 4, (32,)),
    FilteredActCase("bigvgan-act32", 32, 32, (8192,), _KAISER, _KAISER, 2, 2, (), "snake_beta", _AMP, 4, (32,)),
]
