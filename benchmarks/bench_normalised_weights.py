"""All normalised weights of a network in one call, against torch's own one after the other, as its layers make them."""

import pytest
import torch
import torch.nn.functional as F

import ganfast.functional as GF
from benchmarks.case_types import WeightsCase, label, on
from benchmarks.cases import WEIGHTS
from benchmarks.counters import overhead
from benchmarks.harness import check_oracle, first_results
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES

# Accesses per value. Weight norm: forward v, w; backward gw, v, gv. A spectral norm also reads the weight for each product with u and v.
_ACCESSES = {("weight norm", "fwd"): 2, ("weight norm", "fwd+bwd"): 5, ("spectral norm", "fwd"): 4, ("spectral norm", "fwd+bwd"): 7}


def _drawn(case: WeightsCase, dtype: torch.dtype) -> tuple[list, list, list, list]:
    """(weights, gains, u, v) on the device; gains and weights are leaves."""
    torch.manual_seed(0)
    place = lambda t: t.to(DEVICE, dtype)
    weights = [place(torch.randn(shape) + 0.5) for shape in case.shapes]
    gains = [place(torch.rand(shape[0], *[1] * (len(shape) - 1)) + 0.5) for shape in case.shapes]
    u = [place(F.normalize(torch.rand(w.shape[0]), dim=0)) for w in weights]
    v = [place(F.normalize(torch.rand(w[0].numel()), dim=0)) for w in weights]
    return [w.requires_grad_() for w in weights], [g.requires_grad_() for g in gains], u, v


def _eager(case, weights, gains, u, v):
    if case.kind == "weight norm":
        return [torch._weight_norm(*pair, 0) for pair in zip(weights, gains)]
    made = []
    for weight, left, right in zip(weights, u, v):
        flat = weight.flatten(1)
        with torch.no_grad():
            F.normalize(torch.mv(flat, right), dim=0, eps=1e-12, out=left)
            F.normalize(torch.mv(flat.t(), left), dim=0, eps=1e-12, out=right)
        made.append(weight / torch.dot(left.clone(), torch.mv(flat, right.clone())))
    return made


def _fused(case, weights, gains, u, v):
    if case.kind == "weight norm":
        return GF.weight_norms(weights, gains)
    return GF.spectral_norms(weights, u, v, power_iterations=1)


def _call(chain, case: WeightsCase, dtype: torch.dtype, mode: str):
    """One pass; its tensors by name. The gradients of all weights arrive at once, as from one node of a graph."""
    weights, gains, u, v = _drawn(case, dtype)
    leaves = [*weights, *gains] if case.kind == "weight norm" else weights
    upstream = [torch.randn_like(w) for w in weights]

    def call():
        if mode == "fwd":
            with torch.no_grad():
                return {f"w{i}": w for i, w in enumerate(chain(case, weights, gains, u, v))}
        made = chain(case, weights, gains, u, v)
        grads = torch.autograd.grad(made, leaves, upstream)
        return {f"w{i}": w for i, w in enumerate(made)} | {f"g{i}": g for i, g in enumerate(grads)}

    return call


@pytest.mark.parametrize("mode", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", on(DEVICE, WEIGHTS), ids=label)
def test_weights(bench, case, dtype, mode):
    chains = {"eager": _eager, "ganfast": _fused}
    costs = overhead({name: _call(chain, case.tiny(), DTYPES[dtype], mode) for name, chain in chains.items()})
    if "compile" in bench.settings.rivals:
        chains["compile"] = torch.compile(_eager, dynamic=False)
    calls = {f"{name}-nchw": _call(chain, case, DTYPES[dtype], mode) for name, chain in chains.items()}
    weights, gains, u, v = _drawn(case, DTYPES[dtype])
    wide = [[t.detach().double().requires_grad_(t.requires_grad) for t in tensors] for tensors in (weights, gains, u, v)]
    made = _eager(case, *wide)
    upstream = [torch.randn_like(w).double() for w in weights]  # the generator stands where it stood in `_call`
    reference = {f"w{i}": w for i, w in enumerate(made)}
    if mode != "fwd":
        leaves = [*wide[0], *wide[1]] if case.kind == "weight norm" else wide[0]
        reference |= {f"g{i}": g for i, g in enumerate(torch.autograd.grad(made, leaves, upstream))}
    results, failed = first_results(calls)
    check_oracle(case.name, results["ganfast-nchw"], results["eager-nchw"], reference)
    row = {"op": "normalised_weights", "case": case.name, "batch": case.batch, "dtype": dtype, "mode": mode, "source": case.source}
    row |= {"bytes": case.elements() * _ACCESSES[case.kind, mode] * torch.finfo(DTYPES[dtype]).bits // 8, "flops": None}
    bench.record({name: call for name, call in calls.items() if name not in failed}, row, failed, costs)
