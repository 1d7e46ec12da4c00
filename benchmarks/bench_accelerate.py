"""`ganfast.accelerate` on whole networks of the families at the size at which people train them: before and after.

train: the forward, and the backward to all parameters. inference: the forward in eval mode without gradients. bf16 is autocast,
in channels_last where there is one, as a user asks for both together.
"""

import collections
import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn

import ganfast
from benchmarks.harness import first_results
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, INFERENCE, layouts, who_and_layout
from tests.families import oracle
from tests.families.family import Family
from tests.families.registry import FAMILIES

TRAIN = "train"
NETWORKS = [row for row in FAMILIES if row.real is not None]
_SECONDS = 0.1  # per rival: seventy rows are to take two minutes


class Pass:
    """A network and its inputs; calling it gives the results by kind, as the families' oracle wants them."""

    def __init__(self, row: Family, mode: str, dtype: torch.dtype, fmt: torch.memory_format, change: Callable = lambda m: m) -> None:
        self.training, self.half = mode == TRAIN, dtype == torch.bfloat16
        stored = torch.float32 if self.half else dtype
        arrange = lambda t: t.contiguous(memory_format=fmt) if t.dim() == _FORMAT_DIMS[fmt] else t
        self.model = change(oracle.network(row, self.training, stored).to(DEVICE, memory_format=fmt))
        self.inputs = [arrange(x.to(DEVICE, stored if x.is_floating_point() else x.dtype)) for x in row.example()]
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.gys = None

    def __call__(self) -> oracle.Results:
        with torch.set_grad_enabled(self.training), torch.autocast(DEVICE, torch.bfloat16, enabled=self.half):
            outputs = list(oracle.tensors(self.model(*self.inputs)))
        results = {"output": {f"output{i}": y.detach() for i, y in enumerate(outputs)}}
        if self.training:
            learning = [y for y in outputs if y.requires_grad]
            if self.gys is None:
                self.gys = [_upstream(y) for y in learning]
            found = torch.autograd.grad(learning, list(self.parameters.values()), self.gys, allow_unused=True)
            results["gradient"] = dict(zip(self.parameters, found))
        return results

    def first(self) -> oracle.Results:
        """The same with the same random numbers in every dtype and layout: dropout, whose masks follow the layout, is off."""
        dropouts = [m for m in self.model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        for module in dropouts:
            module.eval()
        torch.manual_seed(7)
        with oracle.same_noise():
            results = self()
        for module in dropouts:
            module.train(self.training)
        found = {kind: {name: t if t is None else t.clone() for name, t in named.items()} for kind, named in results.items()}
        return {kind: _pooled(named) if kind == "gradient" else named for kind, named in found.items()}


_FORMAT_DIMS = {torch.contiguous_format: None, torch.channels_last: 4, torch.channels_last_3d: 5}


def _upstream(y: torch.Tensor) -> torch.Tensor:
    """The same numbers for every dtype, in the layout of y, as a loss gives it."""
    values = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.empty_like(y).copy_(values)


def _pooled(named: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    """The gradients of modules of a few numbers, PReLUs' slopes, as one tensor: each is a sum that nearly cancels, eager's own is
    off by up to half of itself in bfloat16, and one of sixteen comes out right by luck."""
    count = collections.Counter()
    for name, t in named.items():
        count[oracle.owner(name)] += 0 if t is None else t.numel()
    few = [name for name in named if 0 < count[oracle.owner(name)] < oracle.FEW and named[name] is not None]
    rest = {name: t for name, t in named.items() if name not in few}
    return rest | ({"few.numbers": torch.cat([named[name].flatten() for name in few])} if few else {})


def _dims(row: Family) -> int:
    """Spatial dimensions: those of most weights of convolutions, which not every network keeps in torch's layers."""
    dims = [p.dim() - 2 for p in row.build().parameters() if p.dim() > 2]
    return max(set(dims), key=dims.count)


@functools.lru_cache(maxsize=1)
def _reference(row: Family, mode: str) -> oracle.Results:
    return Pass(row, mode, torch.float64, torch.contiguous_format).first()


def _eager(network: Family, mode: str, dtype: torch.dtype) -> tuple[dict[str, Pass], dict[str, oracle.Results], dict[str, str]]:
    """(passes, their first results, reason of failure) by rival; float32 in both layouts, bfloat16 in the last one that runs:
    a network that flattens by `view` takes no channels_last."""
    passes, results, failed = {}, {}, {}
    for layout, fmt in reversed(layouts(_dims(network)).items()):
        name = f"eager-{layout}"
        each = Pass(network.at_size(), mode, dtype, fmt)
        found, why = first_results({name: each.first})
        results |= found
        failed |= why
        if found:
            passes[name] = each
            if dtype == torch.bfloat16:
                break
    return passes, results, failed


def _check(results: dict[str, oracle.Results], reference: oracle.Results, dtype: torch.dtype) -> None:
    """Every one of ganfast's against eager's of its layout. Gradients are held to bfloat16's precision, as in bench_step.py."""
    dtypes = {"output": dtype, "gradient": torch.bfloat16}
    for name, got in results.items():
        who, layout = who_and_layout(name)
        if who == "ganfast":
            plain = results[f"eager-{layout}"]
            worst = {kind: oracle.worst_module(plain[kind], reference[kind]) for kind in reference}
            found = oracle.beyond(got, plain, reference, worst, dtypes)
            assert not found, f"{layout}: " + "\n".join(found)


def measure(bench, network: Family, mode: str, dtype: str, change: Callable[[nn.Module], nn.Module] = ganfast.accelerate) -> dict:
    """A row: the network untouched against the network after `change`."""
    row, precision, formats = network.at_size(), DTYPES[dtype], layouts(_dims(network))
    passes, results, failed = _eager(network, mode, precision)
    for layout in [who_and_layout(name)[1] for name in passes]:
        passes[f"ganfast-{layout}"] = Pass(row, mode, precision, formats[layout], change)
    results |= first_results({name: each.first for name, each in passes.items() if name not in results})[0]
    _check(results, _reference(row, mode), precision)
    del results
    about = {"op": "accelerate", "case": network.name, "batch": row.batch, "dtype": dtype, "mode": mode, "source": network.real.source}
    bench.settings = bench.settings._replace(seconds=min(_SECONDS, bench.settings.seconds))
    return bench.record(passes, about | {"bytes": None, "flops": None}, failed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", [TRAIN, INFERENCE])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_network(bench, network, mode, dtype):
    measure(bench, network, mode, dtype)
