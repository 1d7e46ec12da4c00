"""What a case is made of, and the numbers that follow from it: FLOPs, bytes, the tiny case that shows the cost of a call."""

import math
from collections.abc import Iterable
from typing import NamedTuple


class ConvTransposeCase(NamedTuple):
    """x [batch, c_in, *size] -> transposed convolution -> batch norm where `norm` (in the chains) -> act."""

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
    output_padding: int = 0
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def elements(self) -> tuple[int, int, int]:
        """Of x, weight and y."""
        out = [(n - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding for n in self.size]
        weight = self.c_in * self.c_out * self.kernel ** len(self.size)
        return self.batch * self.c_in * math.prod(self.size), weight, self.batch * self.c_out * math.prod(out)

    def flops(self) -> int:
        """Multiply-adds of the forward, times two; a backward has twice as many."""
        return 2 * self.batch * math.prod(self.size) * self.c_in * self.c_out * self.kernel ** len(self.size)

    def tiny(self) -> "ConvTransposeCase":
        """The same kind of call on next to nothing. More than 8 channels, and one pixel only where the case has one: backends
        are chosen by both."""
        small = tuple(min(n, 2) for n in self.size)
        return self._replace(
            name="tiny", source="", batch=1, c_in=16, c_out=min(self.c_out, 16), size=small, cpu_batch=None, gpu_batches=()
        )


class ConvCase(NamedTuple):
    """x [batch, c_in, *size] -> convolution with bias, in groups -> act (-> + residual)."""

    name: str
    batch: int
    c_in: int
    c_out: int
    size: tuple[int, ...]
    kernel: int
    stride: int
    padding: int
    act: str
    source: str
    groups: int = 1
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()
    residual: bool = False

    def _outputs(self) -> int:
        return math.prod((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.size)

    def elements(self) -> tuple[int, int, int]:
        """Of x, weight and y."""
        weight = self.c_in // self.groups * self.c_out * self.kernel ** len(self.size)
        return self.batch * self.c_in * math.prod(self.size), weight, self.batch * self.c_out * self._outputs()

    def flops(self) -> int:
        return 2 * self.batch * self._outputs() * self.c_in // self.groups * self.c_out * self.kernel ** len(self.size)

    def tiny(self) -> "ConvCase":
        """Of two groups, where there are more."""
        return self._replace(
            name="tiny", source="", batch=1, c_in=min(self.c_in, 16), c_out=min(self.c_out, 16), size=tuple(min(n, 4) for n in self.size),
            groups=min(self.groups, 2), cpu_batch=None, gpu_batches=(),
        )  # fmt: skip


class BlockCase(NamedTuple):
    """R3GAN's residual block: x -> 1x1 to `inner` channels -> bias, leaky ReLU, gain -> 3x3 in `groups` -> the same -> 1x1 back, + x."""

    name: str
    batch: int
    channels: int
    inner: int
    groups: int
    size: tuple[int, int]
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def flops(self) -> int:
        return 2 * self.batch * math.prod(self.size) * self.inner * (2 * self.channels + self.inner // self.groups * 9)

    def tiny(self) -> "BlockCase":
        return self._replace(
            name="tiny", source="", batch=1, channels=16, inner=32, groups=2, size=(2, 2), cpu_batch=None, gpu_batches=()
        )  # fmt: skip


class UpsampleCase(NamedTuple):
    """x [batch, c_in, *size] -> nearest x2 -> 3x3 convolution, padding 1 -> act."""

    name: str
    batch: int
    c_in: int
    c_out: int
    size: tuple[int, int]
    act: str
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def elements(self) -> tuple[int, int, int]:
        pixels = math.prod(self.size)
        return self.batch * self.c_in * pixels, self.c_in * self.c_out * 9, self.batch * self.c_out * 4 * pixels

    def flops(self) -> int:
        """The fewest that give the result: nine taps on doubled pixels fall on 2x2 pixels of x, so 4 taps an output, not 9."""
        return 2 * self.batch * 4 * math.prod(self.size) * self.c_in * self.c_out * 4

    def tiny(self) -> "UpsampleCase":
        return self._replace(name="tiny", source="", batch=1, c_in=16, c_out=16, size=(2, 2), cpu_batch=None, gpu_batches=())


class NormCase(NamedTuple):
    """Batch norm in train mode, or instance norm, + act over [batch, channels, *size]."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    act: str
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def elements(self) -> int:
        return self.batch * self.channels * math.prod(self.size)

    def tiny(self) -> "NormCase":
        return self._replace(name="tiny", source="", batch=2, channels=16, size=(2, 2), cpu_batch=None, gpu_batches=())


class BiasCase(NamedTuple):
    """x [batch, channels, *size] + bias -> act -> gain -> clamp (-> (that + residual) * factor)."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    act: str
    gain: float
    clamp: float | None
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()
    factor: float | None = None  # None: no residual

    def elements(self) -> int:
        return self.batch * self.channels * math.prod(self.size)

    def tiny(self) -> "BiasCase":
        return self._replace(
            name="tiny", source="", batch=2, channels=16, size=tuple(min(n, 2) for n in self.size), cpu_batch=None, gpu_batches=()
        )


class LossCase(NamedTuple):
    """Discriminator loss with statistics over `batch` logits a side."""

    name: str
    batch: int
    kind: str
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()


class WeightsCase(NamedTuple):
    """All weights of a network, normalised: kind "weight norm" or "spectral norm", one power iteration. The batch is how many there are."""

    name: str
    batch: int
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def elements(self) -> int:
        return sum(map(math.prod, self.shapes))

    def tiny(self) -> "WeightsCase":
        """As many weights of next to no size."""
        return self._replace(name="tiny", source="", shapes=((2, 2, 1),) * len(self.shapes), cpu_batch=None, gpu_batches=())


class GatherCase(NamedTuple):
    """A batch of images [channels, *size], half of them mirrored where `flip`, out of `count` that lie in memory."""

    name: str
    batch: int
    count: int
    channels: int
    size: tuple[int, int]
    flip: bool
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def elements(self) -> int:
        return self.batch * self.channels * math.prod(self.size)

    def tiny(self) -> "GatherCase":
        return self._replace(name="tiny", source="", batch=2, count=4, size=(2, 2), cpu_batch=None, gpu_batches=())


class NetworkCase(NamedTuple):
    """DCGAN for images of `image_size`."""

    name: str
    batch: int
    image_size: int
    latent: int
    width: int
    source: str

    def flops(self) -> int:
        """Of the generator's forward: 4x4 kernels from latent to width * image_size / 8 channels at 4x4, halved as pixels double."""
        channels, side = self.width * self.image_size // 8, 4
        total = self.latent * channels * 16
        while side < self.image_size:
            out = channels // 2 if side < self.image_size // 2 else 3
            total += side * side * channels * out * 16
            channels, side = out, side * 2
        return 2 * self.batch * total

    def tiny(self) -> "NetworkCase":
        return self._replace(name="tiny", source="", batch=2, image_size=16, latent=16, width=16)


def on(device: str, cases: Iterable) -> list:
    """The cases with the batches of this kind of device: a GPU takes `gpu_batches`, a CPU `cpu_batch` where it is given (0: too
    long for a CPU); else the published one."""
    found = []
    for case in cases:
        cpu = case.batch if case.cpu_batch is None else case.cpu_batch
        batches = (case.gpu_batches or (case.batch,)) if device == "cuda" else (cpu,) if cpu else ()
        found += [case._replace(batch=batch) for batch in batches]
    return found


def label(case) -> str:
    return f"{case.name}-b{case.batch}"


def convolution_bytes(elements: tuple[int, int, int], mode: str, item: int) -> int | None:
    """Each tensor once per pass: forward x, weight, y; backward gy, y, x, weight, gx, gweight. Second order: not counted."""
    x, weight, y = elements
    return {"fwd": (x + weight + y) * item, "fwd+bwd": (3 * x + 3 * weight + 3 * y) * item}.get(mode)
