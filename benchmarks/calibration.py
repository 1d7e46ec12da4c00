"""What this machine can do today: the rates that a row's percentages are of, taken at the start of the same run by its timer."""

from typing import NamedTuple

import torch

from benchmarks.machine import DEVICE
from ganfast._timing import interleaved, measure_once

_LONG = 1.0  # seconds of one product


class Calibration(NamedTuple):
    """`copy`: bytes read and written per second by one large copy; `matrix`: dtype's name -> FLOP/s of a square product."""

    copy: float
    matrix: dict[str, float]

    def percent(self, seconds: float, moved: int | None, flops: int | None, dtype: str) -> dict[str, float]:
        """Of the copy's bandwidth and of the dtype's matrix rate, for what has bytes or FLOPs."""
        found = {} if moved is None else {"percent_copy": 100 * moved / seconds / self.copy}
        return found | ({} if flops is None else {"percent_matrix": 100 * flops / seconds / self.matrix[dtype]})

    def floor(self, flops: int, moved: int, dtype: str) -> float:
        """Seconds for the arithmetic and the traffic, one after the other."""
        return flops / self.matrix[dtype] + moved / self.copy


def calibrate(dtypes: dict[str, torch.dtype], measure, small: bool = False) -> Calibration:
    """The 20th percentile of the times: what the machine can do, not what its other users left of it. `small` is for tests of the
    harness. float32 products on a GPU obey the convolutions' TF32 switch, as the rows do."""
    count, most = (1 << 16, 64) if small else (1 << 28, 8192) if DEVICE == "cuda" else (1 << 25, 1536)
    source, target = (torch.ones(count, device=DEVICE) for _ in range(2))
    rivals, sizes = {"copy": lambda: target.copy_(source)}, {}
    for name, dtype in dtypes.items():
        sizes[name] = n = _size(dtype, most)
        a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
        rivals[name] = lambda a=a, b=b: a @ b
    before = torch.backends.cuda.matmul.allow_tf32
    if DEVICE == "cuda":  # on a CPU the switch would move oneDNN's precision
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        timings = interleaved(rivals, repeats=9, warmup=2, measure=measure)
    finally:
        if DEVICE == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = before
    matrix = {name: 2 * n**3 / timings[name].p20 for name, n in sizes.items()}
    return Calibration(2 * 4 * count / timings["copy"].p20, matrix)


def _size(dtype: torch.dtype, most: int) -> int:
    """Of the square product: `most`, or an eighth where a processor has no units for a 16-bit dtype and torch's loops take seconds."""
    if DEVICE == "cuda" or dtype.itemsize != 2:
        return most
    a = torch.ones(most // 8, most // 8, dtype=dtype)
    a @ a  # the first one loads libraries
    return most if 8**3 * min(measure_once(lambda: a @ a) for _ in range(3)) < _LONG else most // 8
