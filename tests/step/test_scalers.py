"""Steps with a GradScaler, on and off."""

import torch
from torch import nn

import ganfast
from tests.step.common import adam


def test_scaler_begins_at_its_first_step(device):
    layer = nn.Linear(2, 1).to(device)
    optimizer, scaler = adam(layer), torch.amp.GradScaler(device, init_scale=8.0, growth_interval=1)

    def step(x):
        optimizer.zero_grad()
        scaler.scale(layer(x).mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    captured = ganfast.capture(step, torch.ones(3, 2, device=device))
    assert scaler._scale == 8
    for scale in (16, 32):
        captured(torch.ones(3, 2, device=device))
        assert scaler._scale == scale


def test_a_scaler_that_is_off(device):
    """As loops have it that share their code between float16 and the rest: it holds none of an active one's tensors and numbers."""
    layer = nn.Linear(2, 1).to(device)
    optimizer, scaler = adam(layer), torch.amp.GradScaler(device, enabled=False)

    def step(x):
        optimizer.zero_grad()
        scaler.scale(layer(x).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        return layer.weight.sum()

    captured = ganfast.capture(step, torch.ones(3, 2, device=device))
    first, second = (captured(torch.ones(3, 2, device=device)) for _ in range(2))
    assert captured.graphs == 1 and not torch.equal(first, second)
