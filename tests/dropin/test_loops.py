"""Whole training loops: the Trainer's, several processes'."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import ganfast
from ganfast.train import TrainConfig, Trainer
from tests.dropin import small


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trainer_ends_without_a_fallback(precision, tmp_path):
    """R1 now and then, pictures in eval mode, and a loader whose last batch is short."""
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.rand(10, 3, 8, 8) * 2 - 1), batch_size=4)
    config = TrainConfig(
        run_dir=str(tmp_path / "run"), device="cpu", precision=precision, steps=9, batch_size=4, r1=1.0, penalty_every=3,
        latent_shape=(8, 1, 1), sample_every=4, log_every=3,
    )  # fmt: skip
    trainer = Trainer(small.generator(), small.critic(), data, config)
    trainer.fit(progress_bar=False)
    for network in (trainer.generator, trainer.discriminator):
        explained = ganfast.explain(network)
        assert small.fallbacks(network) == [] and explained.groups
        assert explained.graphs <= 8


WORKER = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
import ganfast
from tests.dropin import small
rank, world, file, out = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + file, rank=int(rank), world_size=int(world))
found = {}
for accelerated in (False, True):
    for penalised in (False, True):
        torch.manual_seed(0)
        model = small.critic()
        ddp = DDP(ganfast.accelerate(model) if accelerated else model, broadcast_buffers=False)
        optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
        for step in range(2):
            optimizer.zero_grad()
            real = (small.images(2 + step) + int(rank)).requires_grad_()
            verdict = ddp(real)
            loss = torch.nn.functional.softplus(-verdict).mean()
            if penalised:
                (slope,) = torch.autograd.grad(verdict.sum(), real, create_graph=True)
                loss = loss + slope.square().sum()
            loss.backward()
            optimizer.step()
        key = accelerated, penalised
        found[key] = {"g " + name: p.grad for name, p in model.named_parameters()}
        found[key] |= {"p " + name: p.detach() for name, p in model.named_parameters()}
        found[key, "layers"] = small.layers(model) if accelerated else []
        found[key, "breaks"] = [b.kind for b in small.fallbacks(model)] if accelerated else []
torch.save(found, out + rank)
dist.destroy_process_group()
"""


def test_distributed_data_parallel(tmp_path):
    """The groups of one process, second derivatives too, and gradients that are the same in both."""
    command = [sys.executable, "-c", WORKER]
    root = Path(__file__).parents[2]
    ranks = [subprocess.Popen([*command, str(rank), "2", str(tmp_path / "meet"), str(tmp_path / "out")], cwd=root) for rank in range(2)]
    try:
        assert [process.wait(timeout=240) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    first, second = (torch.load(tmp_path / f"out{rank}") for rank in range(2))
    for penalised in (False, True):
        plain, fast = (False, penalised), (True, penalised)
        small.assert_alike(first[fast], first[plain])
        assert all(torch.equal(second[fast][name], t) for name, t in first[fast].items())
        assert first[fast, "layers"] == [("0", "1"), ("2", "3", "4")] and first[fast, "breaks"] == []
