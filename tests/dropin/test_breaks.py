"""Where dynamo leaves the graph, each piece is fused by itself."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ganfast
from tests.dropin import small


class ByItsData(nn.Module):
    """Dynamo cannot go on at its line."""

    def forward(self, x):
        return x * 2 if x.sum().item() > 1e9 else x


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3), nn.GELU(), ByItsData(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    )  # fmt: skip


def test_a_sequential_is_fused_on_both_sides():
    plain, model = network(), ganfast.accelerate(network())
    x = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        small.same(model, plain, x)
    found = ganfast.explain(model)
    assert sorted(row.layers for row in found.groups) == [("0", "1"), ("3.0", "3.1", "3.2")]
    assert "item" in " ".join(entry.reason for entry in found.breaks if entry.kind == "broke")
    twin = copy.deepcopy(model)
    for m in (model, plain):
        torch.manual_seed(1)
        m.append(nn.Sequential(nn.Conv2d(4, 2, 1), nn.Tanh()))
    small.same(model, plain, x)
    small.same(model, plain, x)
    assert ("4.0", "4.1") in small.layers(model)
    with pytest.raises(TypeError):
        model(x, x)
    assert twin(x).shape == (2, 4, 8, 8)


def test_its_own_hooks_are_called():
    plain, model = network(), ganfast.accelerate(network())
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        model(x), plain(x)
    seen = []
    for m in (model, plain):
        m.register_forward_hook(lambda m, args, y: seen.append(y.detach().sum()) or y + 1)
    small.same(model, plain, x)
    assert len(seen) >= 2


class Checkpointed(nn.Module):
    """Its blocks keep no activations, and count batches twice a step, as the second run counts too."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2))
        self.last, self.reentrant = nn.Conv2d(8, 3, 3, padding=1), reentrant

    def forward(self, x):
        return torch.tanh(self.last(checkpoint(self.block, x, use_reentrant=self.reentrant)))


@pytest.mark.parametrize("tuned", ["0", "1"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_have_graphs_of_their_own(reentrant, tuned, monkeypatch):
    """For as long as it takes to settle whether a module's calls leave dynamo."""
    monkeypatch.setenv("GANFAST_TUNE", tuned)
    plain = Checkpointed(reentrant)
    fast = ganfast.accelerate(copy.deepcopy(plain))
    for _ in range(30):
        for model in (plain, fast):
            model.zero_grad()
            x = torch.ones(2, 3, 8, 8).cumsum(-1).requires_grad_()
            model(x).square().sum().backward()
    left = [[*(p.grad for p in model.parameters()), *model.buffers()] for model in (fast, plain)]
    for got, want in zip(*left, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert ("block.0", "block.1", "block.2") in [row.layers for row in ganfast.explain(fast).groups]
