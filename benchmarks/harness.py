"""How every benchmark here is run: the oracle first, then rivals in turns, medians, JSON through pytest-benchmark."""

from collections.abc import Callable, Mapping

import torch

from ganfast._timing import Timing, interleaved
from ganfast.testing import assert_close_to_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def layouts(dims: int) -> dict[str, torch.memory_format]:
    """Both memory formats for images; 1-D has one, 3-D its own channels_last."""
    if dims == 2:
        return LAYOUTS
    return {"nchw": torch.contiguous_format} | ({"nhwc": torch.channels_last_3d} if dims == 3 else {})


def forward_backward(model: torch.nn.Module, x: torch.Tensor, gy: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The output under "y", and with `gy` the gradients of x and every parameter under "g0", "g1", ..."""
    if gy is None:
        with torch.no_grad():
            return {"y": model(x)}
    y = model(x)
    grads = torch.autograd.grad(y, [x, *model.parameters()], gy)
    return {"y": y.detach()} | {f"g{i}": g for i, g in enumerate(grads)}


def gate(name: str, got: Mapping[str, torch.Tensor], plain: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> None:
    """No time is taken of a wrong result: every output and gradient passes the oracle first."""
    assert_close_to_reference(*((f"{name}/{key}", value, plain[key], reference[key]) for key, value in got.items()))


def run(benchmark, rivals: Mapping[str, Callable[[], object]], info: Mapping[str, object], repeats: int = 15) -> dict[str, Timing]:
    """Times the rivals in turns and leaves their medians, percentiles and spread in the benchmark's extra_info.

    pytest-benchmark selects, names and stores the rows; its own clock times one round of all rivals, which no table uses,
    because it times a function after the other and so cannot interleave.
    """
    timings = interleaved(rivals, repeats=repeats, warmup=2)
    benchmark.extra_info.update(info)
    benchmark.extra_info["rivals"] = {
        name: {"median": t.median, "p20": t.p20, "p80": t.p80, "spread": t.spread} for name, t in timings.items()
    }
    benchmark.pedantic(lambda: [call() for call in rivals.values()], rounds=1, iterations=1)
    return timings
