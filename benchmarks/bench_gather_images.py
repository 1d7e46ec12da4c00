"""A batch out of a uint8 dataset in memory: one pass against index, float, scale and mirror as people write them, in both layouts."""

import pytest
import torch

import ganfast.functional as GF
from benchmarks.case_types import GatherCase, label, on
from benchmarks.cases import GATHER
from benchmarks.counters import overhead
from benchmarks.harness import check_oracle, first_results, plain_result
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, layouts


def _eager(images, index, flip, dtype):
    x = images[index].float().div(127.5).sub(1)
    if flip is not None:
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    return x.to(dtype)


def _fused(images, index, flip, dtype):
    return GF.gather_images(images, index, flip=flip, dtype=dtype)


def _drawn(case: GatherCase) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(images, index, flip) on the device: every other image mirrored, so that no draw is luckier than another."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (case.count, case.channels, *case.size), dtype=torch.uint8)
    index = torch.randint(case.count, (case.batch,))
    flip = torch.arange(case.batch, device=DEVICE) % 2 == 1 if case.flip else None
    return images.to(DEVICE), index.to(DEVICE), flip


def _calls(case: GatherCase, dtype: torch.dtype, chains: dict) -> dict:
    """By name, eager-nchw ... ganfast-nhwc; a compiled chain in the last layout only."""
    images, index, flip = _drawn(case)
    found = {}
    for layout, fmt in layouts(2).items():
        arranged = images.contiguous(memory_format=fmt)
        for who, chain in chains.items():
            if who != "compile" or fmt != torch.contiguous_format:
                found[f"{who}-{layout}"] = lambda a=arranged, f=chain: {"y": f(a, index, flip, dtype)}
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", on(DEVICE, GATHER), ids=label)
def test_gather(bench, case, dtype):
    chains = {"eager": _eager, "ganfast": _fused}
    tiny = {name.removesuffix("-nchw"): call for name, call in _calls(case.tiny(), DTYPES[dtype], chains).items() if "nchw" in name}
    costs = overhead(tiny)
    if "compile" in bench.settings.rivals:
        chains["compile"] = torch.compile(_eager, dynamic=False)
    calls = _calls(case, DTYPES[dtype], chains)
    images, index, flip = _drawn(case)
    reference = {"y": images[index].double() / 127.5 - 1}
    if flip is not None:
        reference["y"][flip] = reference["y"][flip].flip(-1)
    results, failed = first_results(calls)
    for layout in layouts(2):
        got = results[f"ganfast-{layout}"]
        check_oracle(f"{case.name} {layout}", got, plain_result(results, layout, reference, got), reference)
    row = {"op": "gather_images", "case": case.name, "batch": case.batch, "dtype": dtype, "mode": "fwd", "source": case.source}
    row |= {"bytes": case.elements() * (1 + torch.finfo(DTYPES[dtype]).bits // 8), "flops": None}
    bench.record({name: call for name, call in calls.items() if name not in failed}, row, failed, costs)
