"""The discriminator's loss with gradients and the statistics people log, against the same in eager."""

import pytest
import torch
import torch.nn.functional as F

import ganfast.functional as GF
from benchmarks.case_types import label, on
from benchmarks.cases import LOSS
from benchmarks.counters import overhead
from benchmarks.harness import check_oracle, first_results, plain_result
from benchmarks.machine import DEVICE

_LARGE = 1 << 20  # logits a side from which the passes over memory are the time


def _eager_loss(kind: str, r: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    if kind == "nonsaturating":
        return F.softplus(-r).mean() + F.softplus(f).mean()
    if kind == "hinge":
        return F.relu(1 - r).mean() + F.relu(1 + f).mean()
    if kind == "lsgan":
        return (r - 1).square().mean() / 2 + f.square().mean() / 2
    return F.softplus(f - r).mean()


def _eager(kind, r, f):
    loss = _eager_loss(kind, r, f)
    edge = 0.5 if kind == "lsgan" else 0.0
    with torch.no_grad():
        stats = ((r > edge).float().mean(), (f < edge).float().mean(), r.mean(), f.mean(), r.sign().mean())
    return loss, stats


def _fused(kind, r, f):
    return GF.discriminator_loss(r, f, kind=kind, return_stats=True)


class _Call:
    """Loss, statistics and both gradients. Callable without arguments; `loss_fn` is `_eager`, a compiled one, or `_fused`."""

    def __init__(self, loss_fn, kind: str, r: torch.Tensor, f: torch.Tensor) -> None:
        self.loss_fn, self.kind, self.logits = loss_fn, kind, [t.detach().requires_grad_() for t in (r, f)]

    def __call__(self) -> dict[str, torch.Tensor]:
        loss, stats = self.loss_fn(self.kind, *self.logits)
        greal, gfake = torch.autograd.grad(loss, self.logits)
        return {"loss": loss.detach(), "greal": greal, "gfake": gfake, "stats": torch.stack(list(stats))}


@pytest.mark.parametrize("case", on(DEVICE, LOSS), ids=label)
def test_loss(bench, case):
    torch.manual_seed(0)
    r, f = (torch.randn(case.batch).to(DEVICE) for _ in range(2))
    reference = _Call(_eager, case.kind, r.double(), f.double())()
    calls = {"eager": _Call(_eager, case.kind, r, f), "ganfast": _Call(_fused, case.kind, r, f)}
    if "compile" in bench.settings.rivals:
        calls["compile"] = _Call(torch.compile(_eager, dynamic=False), case.kind, r, f)
    results, failed = first_results(calls)
    check_oracle(case.name, results["ganfast"], plain_result(results, "", reference, results["ganfast"]), reference)
    small = [torch.randn(4, device=DEVICE) for _ in range(2)]
    costs = overhead({"eager": _Call(_eager, case.kind, *small), "ganfast": _Call(_fused, case.kind, *small)})
    row = {"op": "discriminator_loss", "case": case.name, "batch": case.batch, "dtype": "fp32", "mode": "fwd+bwd", "source": case.source}
    row |= {"bytes": 4 * 4 * case.batch, "flops": None, "large": case.batch >= _LARGE}  # both logits read, both gradients written
    bench.record({name: call for name, call in calls.items() if name not in failed}, row, failed, costs)
