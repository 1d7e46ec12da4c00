"""What a case of group norm, or of a norm with something from outside, says."""

import math
from typing import NamedTuple


class GroupNormCase(NamedTuple):
    """Group norm + act over [batch, channels, *size]; a layer norm of rows where there is no size and one group. embedding: with scale and
    shift [batch, channels] from outside."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    groups: int
    act: str
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()
    embedding: bool = False

    def elements(self) -> int:
        return self.batch * self.channels * math.prod(self.size)

    def tiny(self) -> "GroupNormCase":
        sizes = {"batch": 2, "channels": 16, "groups": min(self.groups, 4), "size": tuple(2 for _ in self.size)}
        return self._replace(name="tiny", source="", **sizes, cpu_batch=None, gpu_batches=())


class ModulatedCase(NamedTuple):
    """norm: "batch", in train mode, or "instance", without an affine of its own. outside: "vectors" [batch, channels], "maps" of x's shape,
    or "residual": no affine at all, but a tensor that is added before the activation."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    norm: str
    outside: str
    act: str
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def elements(self) -> int:
        return self.batch * self.channels * math.prod(self.size)

    def tiny(self) -> "ModulatedCase":
        return self._replace(name="tiny", source="", batch=2, channels=16, size=(2, 2), cpu_batch=None, gpu_batches=())
