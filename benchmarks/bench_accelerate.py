"""`ganfast.accelerate` on whole networks of the families: before and after.

Two sizes: trained, at which people train them, and small, whose call takes under 2 ms, so that what a call costs besides its kernels
shows. train: the forward, and the backward to all parameters. inference: the forward in eval mode without gradients. bf16 is autocast, in
channels_last where there is one, as a user asks for both together.
torch.compile with Inductor is a rival where `--rivals eager,compile` names it: a network takes it up to a minute.
"""

import collections
import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import ganfast
from benchmarks.harness import Settings, first_results
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES, INFERENCE, layouts, who_and_layout
from ganfast._timing import measure_once
from tests.families import oracle
from tests.families.family import Family
from tests.families.registry import FAMILIES

TRAIN = "train"
SIZES = {"trained": "real", "small": "small"}  # a row's size -> the family's
NETWORKS = [row for row in FAMILIES if row.real is not None]
SHORT = 2e-3  # seconds of a call
ROUNDS = (15, 100)  # at least: of long calls, of short ones
_MOST = 1000
_SECONDS = 0.3  # per rival, once it has its rounds


class Pass:
    """A network and its inputs; calling it gives the results by kind, as the families' oracle wants them."""

    def __init__(self, row: Family, mode: str, dtype: torch.dtype, fmt: torch.memory_format, change: Callable = lambda m: m) -> None:
        self.training, self.half = mode == TRAIN, dtype == torch.bfloat16
        stored = torch.float32 if self.half else dtype
        arrange = lambda t: t.contiguous(memory_format=fmt) if t.dim() == _FORMAT_DIMS[fmt] else t
        self.network = oracle.network(row, self.training, stored).to(DEVICE)
        for t in (*self.network.parameters(), *self.network.buffers()):  # Module.to takes no weights of 4 and of 5 dimensions
            t.data = arrange(t.data)
        self.parameters = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.model = change(self.network)
        self.inputs = [arrange(x.to(DEVICE, stored if x.is_floating_point() else x.dtype)) for x in row.example()]
        self.gys = None
        self.took, self.draws = 0.0, False

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
        """The same with the same random numbers in every dtype and layout: dropout, whose masks follow the layout, is off. Notes the wall
        seconds of the call, and whether random numbers were drawn."""
        dropouts = [m for m in self.network.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        for module in dropouts:
            module.eval()
        torch.manual_seed(7)
        before, found = _randomness(), []
        with oracle.same_noise():
            self.took = measure_once(lambda: found.append(self()))
        self.draws = not torch.equal(before, _randomness())
        for module in dropouts:
            module.train(self.training)
        found = {kind: {name: t if t is None else t.clone() for name, t in named.items()} for kind, named in found[0].items()}
        return {kind: _pooled(named) if kind == "gradient" else named for kind, named in found.items()}


def _randomness() -> torch.Tensor:
    return torch.cuda.get_rng_state() if DEVICE == "cuda" else torch.get_rng_state()


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
    """Spatial dimensions: those of most weights of convolutions, which not every network keeps in torch's layers; modulated ones are
    [1, Cout, Cin, h, w]."""
    dims = [p.dim() - (3 if p.dim() == 5 and p.shape[0] == 1 else 2) for p in row.build().parameters() if p.dim() > 2]
    return max(set(dims), key=dims.count)


@functools.lru_cache(maxsize=1)
def _reference(row: Family, mode: str) -> oracle.Results:
    return Pass(row, mode, torch.float64, torch.contiguous_format).first()


def _layers(model: nn.Module) -> int:
    """Modules that hold no others."""
    return sum(next(module.children(), None) is None for module in model.modules())


def sized(network: Family, size: str) -> Family:
    """The row at one of `SIZES`, under a name of its own."""
    found = network.at_size(SIZES[size])
    return found if size == "trained" else replace(found, name=f"{network.name} {size}")


def _eager(row: Family, formats: dict, mode: str, dtype: torch.dtype) -> tuple[dict[str, Pass], dict[str, oracle.Results], dict[str, str]]:
    """(passes, their first results, reason of failure) by rival; float32 in both layouts, bfloat16 in the last one that runs:
    a network that flattens by `view` takes no channels_last."""
    passes, results, failed = {}, {}, {}
    for layout, fmt in reversed(formats.items()):
        name = f"eager-{layout}"
        each = Pass(row, mode, dtype, fmt)
        found, why = first_results({name: each.first})
        results |= found
        failed |= why
        if found:
            passes[name] = each
            if dtype == torch.bfloat16:
                break
    return passes, results, failed


def _wrong(got: oracle.Results, plain: oracle.Results, reference: oracle.Results, dtype: torch.dtype) -> list[str]:
    """What of a rival's results is further off than eager's of its layout allow. Gradients are held to bfloat16's precision, as in
    bench_step.py."""
    worst = {kind: oracle.worst_module(plain[kind], reference[kind]) for kind in reference}
    return oracle.beyond(got, plain, reference, worst, {"output": dtype, "gradient": torch.bfloat16})


def _by_inductor(draws: bool) -> Callable[[nn.Module], nn.Module]:
    """torch.compile as it comes; where a forward draws random numbers, with torch's own generator: Inductor's gives others, which nothing
    could be compared with."""
    return lambda model: torch.compile(model, dynamic=False, options={"fallback_random": True} if draws else None)


def _compiled(name: str, each: Pass, plain: oracle.Results, reference: oracle.Results, dtype: torch.dtype) -> str | None:
    """Why torch.compile cannot be timed; None where it can. Nothing is taken from the disk: its first call is to be a first one."""
    from torch._inductor import config  # seconds to import

    with config.patch(force_disable_caches=True):
        results, failed = first_results({name: each.first})
        if not failed:
            failed = first_results({name: each})[1]  # dropout is on again: that is compiled anew
    if not failed and (found := _wrong(results[name], plain, reference, dtype)):
        return f"wrong result: {found[0]}"[:200]
    return failed.get(name)


@functools.cache
def _load_dynamo() -> None:
    """The first compilation of a process imports dynamo, which takes seconds and is no network's own."""
    ganfast.accelerate(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))(torch.ones(1, 1, 2, 2))


def _enough(settings: Settings, call: Callable) -> Settings:
    """More rounds for short calls, whose interval is to be as narrow."""
    at_least = ROUNDS[min(measure_once(call) for _ in range(2)) < SHORT]
    return settings._replace(repeats=max(at_least, _MOST), at_least=at_least, seconds=min(_SECONDS, settings.seconds))


def measure(
    bench, network: Family, mode: str, dtype: str, change: Callable[[nn.Module], nn.Module] = ganfast.accelerate, size: str = "trained"
) -> dict:
    """A row: the network untouched against the network after `change`."""
    row, precision, formats = sized(network, size), DTYPES[dtype], layouts(_dims(network))
    _load_dynamo()
    passes, results, failed = _eager(row, formats, mode, precision)
    ran, reference = [who_and_layout(name)[1] for name in passes], _reference(row, mode)
    plain = passes[f"eager-{ran[0]}"]
    for layout in ran:
        passes[f"ganfast-{layout}"] = Pass(row, mode, precision, formats[layout], change)
    first = passes[f"ganfast-{ran[0]}"]
    results |= first_results({f"ganfast-{ran[0]}": first.first})[0]
    report = ganfast.explain(first.model)
    results |= first_results({f"ganfast-{layout}": passes[f"ganfast-{layout}"].first for layout in ran[1:]})[0]
    for layout in ran:
        found = _wrong(results[f"ganfast-{layout}"], results[f"eager-{layout}"], reference, precision)
        assert not found, f"{layout}: " + "\n".join(found)
    about = {"op": "accelerate", "case": row.name, "batch": row.batch, "dtype": dtype, "mode": mode, "size": size}
    about |= {"source": getattr(network, SIZES[size]).source, "bytes": None, "flops": None, "layers": _layers(plain.network)}
    about["first_call"] = {"seconds": round(first.took, 3), "compile": round(report.seconds, 3), "groups": len(report.groups)}
    if bench.settings.asked and "compile" in bench.settings.rivals:
        name, rival = f"compile-{ran[0]}", Pass(row, mode, precision, formats[ran[0]], _by_inductor(plain.draws))
        if why := _compiled(name, rival, results[f"eager-{ran[0]}"], reference, precision):
            failed[name] = why
        else:
            passes[name], about["compile_first_call"] = rival, round(rival.took, 3)
    del results
    bench.settings = _enough(bench.settings, plain)
    return bench.record(passes, about, failed, warmup=2)


def _rows() -> list:
    """(a family, its size)"""
    sizes = [(row, size) for size, which in SIZES.items() for row in FAMILIES if getattr(row, which) is not None]
    return [pytest.param(row, size, id=row.name if size == "trained" else f"{row.name}-{size}") for row, size in sizes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", [TRAIN, INFERENCE])
@pytest.mark.parametrize(("network", "size"), _rows())
def test_network(bench, network, size, mode, dtype):
    measure(bench, network, mode, dtype, size=size)
