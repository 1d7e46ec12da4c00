"""Layers of real networks, each with its source. Batch sizes are those of the papers' or repositories' training runs,
except where `batch` says otherwise; widths are the published ones."""

from typing import NamedTuple


class ConvTransposeCase(NamedTuple):
    """x [batch, c_in, *size] -> transposed convolution (kernel, stride, padding) -> batch norm where `norm` -> act."""

    name: str
    batch: int
    c_in: int
    c_out: int
    size: tuple[int, ...]
    kernel: int
    stride: int
    padding: int
    norm: bool
    act: str
    source: str

    def flops(self) -> int:
        """Multiply-adds of the forward, times two; a backward has twice as many."""
        pixels = 1
        for length in self.size:
            pixels *= length
        return 2 * self.batch * pixels * self.c_in * self.c_out * self.kernel ** len(self.size)


_DCGAN = "Radford et al. 2016, generator for 64x64, width 64, batch 64"
CONV_TRANSPOSE = [
    ConvTransposeCase("dcgan64-1", 64, 100, 512, (1, 1), 4, 1, 0, True, "relu", _DCGAN),
    ConvTransposeCase("dcgan64-2", 64, 512, 256, (4, 4), 4, 2, 1, True, "relu", _DCGAN),
    ConvTransposeCase("dcgan64-3", 64, 256, 128, (8, 8), 4, 2, 1, True, "relu", _DCGAN),
    ConvTransposeCase("dcgan64-4", 64, 128, 64, (16, 16), 4, 2, 1, True, "relu", _DCGAN),
    ConvTransposeCase("dcgan64-rgb", 64, 64, 3, (32, 32), 4, 2, 1, False, "tanh", _DCGAN),
    ConvTransposeCase("pix2pix-up", 1, 512, 256, (16, 16), 4, 2, 1, True, "relu", "Isola et al. 2017, U-Net decoder without skip, batch 1"),
    ConvTransposeCase(
        "cyclegan-up", 1, 128, 64, (128, 128), 3, 2, 1, False, "relu", "Zhu et al. 2017, ResNet generator; kernel 3, batch 1"
    ),
    ConvTransposeCase("3dgan-2", 8, 512, 256, (4, 4, 4), 4, 2, 1, True, "relu", "Wu et al. 2016, voxels; batch 8 instead of 100"),
    ConvTransposeCase(
        "hifigan-up", 4, 512, 256, (32,), 16, 8, 4, False, "leaky_relu", "Kong et al. 2020, V1, first upsampling of 32 frames; batch 4"
    ),
]
CHAIN = [case for case in CONV_TRANSPOSE if case.name.startswith("dcgan64") and case.norm]


class NormCase(NamedTuple):
    """Batch norm + act over [batch, channels, *size]."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    act: str
    source: str


NORM = [
    NormCase("dcgan64-bn1", 64, 512, (4, 4), "relu", _DCGAN),
    NormCase("dcgan64-bn2", 64, 256, (8, 8), "relu", _DCGAN),
    NormCase("dcgan64-bn3", 64, 128, (16, 16), "relu", _DCGAN),
    NormCase("dcgan64-bn4", 64, 64, (32, 32), "relu", _DCGAN),
    NormCase("dcgan64-d2", 64, 128, (16, 16), "leaky_relu", "the same paper, discriminator, slope 0.2"),
]


class LossCase(NamedTuple):
    """Discriminator loss with statistics over `count` logits a side."""

    name: str
    count: int
    kind: str
    source: str


LOSS = [
    LossCase("logits-64", 64, "nonsaturating", "one logit an image, DCGAN's batch of 64"),
    LossCase("patch-900", 900, "lsgan", "Isola et al. 2017: 30x30 patch logits, batch 1"),
    LossCase("patch-230400", 230400, "hinge", "30x30 patch logits of 256 images"),
    LossCase("relativistic-64", 64, "relativistic", "Jolicoeur-Martineau 2019, batch 64"),
]
