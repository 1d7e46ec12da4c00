"""The average against its formula."""

import copy

import pytest
import torch
from torch import nn

import ganfast
from tests.step.common import equal


def network(device, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(device, dtype)


def moved(net):
    with torch.no_grad():
        for t in net.state_dict().values():
            t.add_(torch.randn_like(t) if t.is_floating_point() else 3)


@pytest.mark.parametrize("kind", ["number", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_formula(device, dtype, kind):
    net = network(device, dtype)
    ema = ganfast.EMA(net)
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())
    for decay in (0.75, 0.0, 1.0, 0.5):
        before = {k: v.clone() for k, v in ema.module.state_dict().items()}
        moved(net)
        ema.update(decay if kind == "number" else torch.tensor(decay, device=device))
        for name, weight in net.state_dict().items():
            want = decay * before[name].double() + (1 - decay) * weight if weight.is_floating_point() else weight
            torch.testing.assert_close(ema.module.state_dict()[name], want.to(weight.dtype))


def test_skipped(device):
    net = network(device)
    ema = ganfast.EMA(net)
    before = copy.deepcopy(ema.module.state_dict())
    moved(net)
    net[1].running_mean.fill_(float("nan"))
    ema.update(0.5, skip=torch.ones((), device=device))
    equal(list(ema.module.state_dict().values()), list(before.values()))
    ema.update(0.5, skip=torch.zeros((), device=device))
    assert ema.module[1].running_mean.isnan().all() and ema.module[1].num_batches_tracked == 3


@pytest.mark.parametrize("skip", [None, 0.0, 1.0])
def test_memory_formats_that_came_apart(device, skip):
    """The fused pass pairs memory; a weight made channels_last later has another order."""
    net = network(device)
    ema = ganfast.EMA(net)
    before = ema.module[0].weight.clone()
    net.to(memory_format=torch.channels_last)
    moved(net)
    for decay in (0.5, torch.tensor(0.5, device=device)):
        ema.update(decay, skip=None if skip is None else torch.tensor(skip, device=device))
    want = before if skip else 0.25 * before + 0.75 * net[0].weight
    torch.testing.assert_close(ema.module[0].weight, want)


def test_buffers_that_are_not_dense(device):
    """Expanded, and with gaps: the fused pass would run past their ends."""
    net = network(device)
    net.register_buffer("expanded", torch.ones(1, device=device).expand(512))
    net.register_buffer("gaps", torch.zeros(4, 8, device=device)[:, ::2])
    ema = ganfast.EMA(net)
    net.expanded, net.gaps[:] = torch.full((1,), 3.0, device=device).expand(512), 1.0
    ema.update(0.5)
    assert ema.module.expanded.eq(2).all() and ema.module.gaps.eq(0.5).all()


def test_an_average_whose_buffer_was_replaced(device):
    """By one with gaps, as the network's own: equal strides, and yet not dense."""
    net = network(device)
    net.register_buffer("gaps", torch.ones(4, 8, device=device)[:, ::2])
    ema = ganfast.EMA(net)
    whole = torch.zeros(4, 8, device=device)
    ema.module.gaps = whole[:, ::2]
    ema.update(0.5)
    assert ema.module.gaps.eq(0.5).all() and whole[:, 1::2].eq(0).all()


def test_a_network_that_was_moved(device):
    net = network(device)
    ema = ganfast.EMA(net)
    net.double()
    with pytest.raises(RuntimeError, match="have changed since EMA was made"):
        ema.update(0.5)
    ema.module.double()
    moved(net)
    before = ema.module[1].running_mean.clone()
    ema.update(0.5)
    torch.testing.assert_close(ema.module[1].running_mean, (before + net[1].running_mean) / 2)


def test_decay_changes_under_capture(device):
    net = network(device)
    ema, plain = ganfast.EMA(net), ganfast.EMA(net)
    step = ganfast.capture(ema.update, 0.5)
    for decay in (0.25, 0.75):
        moved(net)
        step(decay)
        plain.update(decay)
        equal(list(ema.module.state_dict().values()), list(plain.module.state_dict().values()))
    assert step.graphs == 1


def test_bad_input():
    with pytest.raises(TypeError, match="got Tensor"):
        ganfast.EMA(torch.ones(2))
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        ganfast.EMA(nn.ReLU())
    ema = ganfast.EMA(nn.Linear(2, 2))
    for decay in (-0.5, 1.5, float("nan"), float("inf"), torch.ones(1), torch.tensor(1)):
        with pytest.raises(ValueError, match="decay expects"):
            ema.update(decay)
    for decay in (None, "0.5", 1j, True):
        with pytest.raises(TypeError, match="decay expects"):
            ema.update(decay)
