"""Training accelerated networks: optimizers made before, averaged copies, several processes."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ganfast
from tests.families import oracle
from tests.families.family import aliases, groups_of
from tests.families.registry import FAMILIES

ROWS = {row.name: row for row in FAMILIES}
PAIRS = [("dcgan-flat-g", "dcgan-flat-d"), ("lsgan-g", "lsgan-d"), ("wgan-gp-g", "sngan-resnet-new-d")]


def train(generator: nn.Module, critic: nn.Module, latent: tuple[int, ...], accelerated: bool, steps: int = 3) -> dict[str, torch.Tensor]:
    """Hinge losses with R1, optimizers made before the networks are accelerated; every parameter and buffer after it."""
    dtype = next(generator.parameters()).dtype
    optimizers = [torch.optim.SGD(m.parameters(), 0.02, momentum=0.5) for m in (generator, critic)]
    if accelerated:
        ganfast.accelerate(generator)
        ganfast.accelerate(critic)
    draws = torch.Generator().manual_seed(11)
    for _ in range(steps):
        z = torch.randn(8, *latent, generator=draws, dtype=torch.float64).to(dtype)
        real = torch.rand(8, *generator(z).shape[1:], generator=draws, dtype=torch.float64).to(dtype).requires_grad_()
        torch.manual_seed(5)
        verdict = critic(real)
        (slope,) = torch.autograd.grad(verdict.sum(), real, create_graph=True)
        loss = F.relu(1 - verdict).mean() + F.relu(1 + critic(generator(z).detach())).mean() + slope.square().sum() / 8
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        (-critic(generator(z)).mean()).backward()
        optimizers[0].step()
    return {f"{kind}.{name}": t.detach() for kind, m in (("g", generator), ("d", critic)) for name, t in m.state_dict().items()}


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_an_optimizer_made_before_goes_on(names):
    rows = [ROWS[name] for name in names]
    latent = rows[0].example()[0].shape[1:]
    pair = lambda dtype: [oracle.network(row, True).to(dtype) for row in rows]
    start = {f"{kind}.{name}": t for kind, m in zip("gd", pair(torch.float32)) for name, t in m.state_dict().items()}
    exact = train(*pair(torch.float64), latent, False)
    plain, got = (train(*pair(torch.float32), latent, accelerated) for accelerated in (False, True))
    assert oracle.unlike("state", got, plain) == []
    # In units of what training changed, not of the values.
    change = {name: exact[name] - start[name] if exact[name].is_floating_point() else exact[name] for name in exact}
    ours, theirs = ({name: t - start[name] if t.is_floating_point() else t for name, t in end.items()} for end in (got, plain))
    wrong, _ = oracle.distances(ours, change)
    own, _ = oracle.distances(theirs, change)
    assert max(own.values()) < 1e-3
    assert max(wrong.values()) < 2 * max(own.values()) + 1e-5


@pytest.mark.parametrize("name", ["dcgan-flat-g", "lsgan-g", "codec-decoder", "sngan-resnet-old-d"])
def test_averaged_model(name):
    row = ROWS[name]
    plain, model = oracle.network(row, True), ganfast.accelerate(oracle.network(row, True))
    averages = [AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True) for m in (plain, model)]
    for _ in range(3):
        with torch.no_grad():
            for parameters in zip(plain.parameters(), model.parameters(), strict=True):
                step = torch.randn_like(parameters[0]) * 0.01
                for parameter in parameters:
                    parameter.add_(step)
        for average, network in zip(averages, (plain, model)):
            average.update_parameters(network)
    want, got = (average.state_dict() for average in averages)
    assert list(got) == list(want) and all(torch.equal(got[key], want[key]) for key in want)
    x = row.example()
    torch.testing.assert_close(averages[1].eval()(*x), averages[0].eval()(*x), rtol=1e-4, atol=1e-5)
    assert groups_of(averages[1].module) == aliases(model, row.fused)


def test_averaged_copy_by_hand():
    """The loop of many a repository: a deep copy that is moved towards the network parameter by parameter."""
    row = ROWS["dcgan-flat-g"]
    model = ganfast.accelerate(oracle.network(row, True))
    average = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
        for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)
        for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
    plain = oracle.network(row, False)
    plain.load_state_dict(average.state_dict())
    x = row.example()
    torch.testing.assert_close(average(*x), plain(*x), rtol=1e-4, atol=1e-5)


WORKER = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
import ganfast
from tests.families import oracle
from tests.families.registry import FAMILIES
rank, world, file, out, *names = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + file, rank=int(rank), world_size=int(world))
found = {}
for name in names:
    row = {row.name: row for row in FAMILIES}[name]
    for accelerated in (False, True):
        model = oracle.network(row, True)
        model = DDP(ganfast.accelerate(model) if accelerated else model)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(2):
            optimizer.zero_grad()
            torch.manual_seed(step)
            sum(y.square().sum() for y in oracle.tensors(model(*row.example(int(rank) + 10 * step)))).backward()
            optimizer.step()
        found[name, accelerated] = {key: p.grad for key, p in model.module.named_parameters()} | model.module.state_dict()
        found[name, accelerated]["fused"] = torch.tensor(len(ganfast.explain(model.module).groups))
torch.save(found, out + rank)
dist.destroy_process_group()
"""
# Smooth ones: two processes may meet on inputs at which rounding decides the side of a kink.
DISTRIBUTED = ["vae-decoder", "codec-decoder", "gan3d-upsample-g"]


@pytest.mark.parametrize("world", [pytest.param(n, marks=pytest.mark.prove) for n in (1, 2)])
def test_distributed_data_parallel(world, tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WORKER]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world), str(tmp_path / "meet"), str(tmp_path / "out"), *DISTRIBUTED], cwd=root)
        for rank in range(world)
    ]
    try:
        assert [process.wait(timeout=240) for process in ranks] == [0] * world
    finally:
        for process in ranks:
            process.kill()
    found = [torch.load(tmp_path / f"out{rank}") for rank in range(world)]
    for name in DISTRIBUTED:
        want, got = found[0][name, False], found[0][name, True]
        assert got.pop("fused") > 0 and want.pop("fused") == 0
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
        gradients = [key for key, _ in oracle.network(ROWS[name], True).named_parameters()]
        assert all(torch.equal(found[-1][name, True][key], got[key]) for key in gradients)
