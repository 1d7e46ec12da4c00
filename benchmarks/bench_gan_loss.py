"""The discriminator's loss with gradients and the statistics people log, against the same in eager."""

import pytest
import torch
import torch.nn.functional as F

import ganfast.functional as GF
from benchmarks.cases import LOSS
from benchmarks.harness import DEVICE, gate, run


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


def _run(kind, loss_fn, r, f):
    loss, stats = loss_fn(kind, r, f)
    greal, gfake = torch.autograd.grad(loss, (r, f))
    return {"loss": loss.detach(), "greal": greal, "gfake": gfake, "stats": torch.stack(list(stats))}


def _fused(kind, r, f):
    return GF.discriminator_loss(r, f, kind=kind, return_stats=True)


@pytest.mark.parametrize("case", LOSS, ids=lambda c: c.name)
def test_loss(benchmark, case):
    torch.manual_seed(0)
    r, f = (torch.randn(case.count, device=DEVICE).requires_grad_() for _ in range(2))
    rd, fd = (t.detach().double().requires_grad_() for t in (r, f))
    gate(case.name, _run(case.kind, _fused, r, f), _run(case.kind, _eager, r, f), _run(case.kind, _eager, rd, fd))
    rivals = {"eager": lambda: _run(case.kind, _eager, r, f), "ganfast": lambda: _run(case.kind, _fused, r, f)}
    info = {"op": "discriminator_loss", "case": case.name, "dtype": "fp32", "mode": "fwd+bwd", "source": case.source}
    run(benchmark, rivals, info, repeats=50)
