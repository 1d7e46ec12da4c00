"""The floating-point format that the networks run in: chosen once, applied around every step by autocast and loss scalers."""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from ganfast._place import has_bf16_units

DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """`wanted`: auto, fp32, tf32, bf16 or fp16; auto is bf16 where the hardware has units for it, else fp32. Weights and optimizers
    are float32 in each.

    Fields: name, what auto became; scalers, for fp16 a loss scale for each of `names`, on the device.
    """

    def __init__(self, wanted: str, device: torch.device, names: Sequence[str] = ("discriminator", "generator")) -> None:
        self.name = ("bf16" if has_bf16_units(device) else "fp32") if wanted == "auto" else wanted
        self.device, self.dtype = device, DTYPES[self.name]
        on = self.dtype is torch.float16
        self.scalers = {name: torch.amp.GradScaler(device.type, enabled=on) for name in names}

    def autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    @contextlib.contextmanager
    def switches(self) -> Iterator[None]:
        """On a GPU, torch's own switches for float32 convolutions and products, which ganfast's kernels obey too; put back after."""
        if self.device.type != "cuda":
            yield
            return
        backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul
        before = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = "ieee" if self.name == "fp32" else "tf32"
        try:
            yield
        finally:
            for backend, was in zip(backends, before, strict=True):
                backend.fp32_precision = was
