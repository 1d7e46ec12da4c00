"""Forwards of every kind give what they give in eager, call after call, with what they read changed in between."""

import copy
import inspect
import random
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin import forwards, kept

FORWARDS = [
    pytest.param(module, name, id=f"{module.__name__.rpartition('.')[2]}-{name}")
    for module in (forwards, kept)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and "self" in inspect.signature(value).parameters
]


def pair(module, name) -> tuple[nn.Module, nn.Module]:
    """(accelerated, plain), each with defaults of its own."""
    made = [module.build(name) for _ in range(2)]
    for one in made:
        function = type(one).forward
        own = types.FunctionType(function.__code__, function.__globals__, name, copy.deepcopy(function.__defaults__), function.__closure__)
        type(one).forward = own
    return ganfast.accelerate(made[0]), made[1]


def changed(m: nn.Module, turn: int) -> None:
    """What the forwards read, all of it."""
    for block in m.modules():
        if isinstance(block, kept.Block):
            block.scale = 2.0 + turn
    m.act, m.acts, m.number = (F.silu, torch.tanh)[turn % 2], [torch.tanh, F.relu], turn
    m.options, m.sizes, m.thing = {"slope": 0.1 * turn}, [turn, 4], [] if turn % 2 else object()
    if hasattr(m, "own"):
        m.own.most = turn


def outcome(m: nn.Module, x: torch.Tensor, seed: int) -> dict:
    """All that a call leaves."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    m.zero_grad()
    x = x.clone()
    y = m(x)
    failed = ""
    if y.requires_grad:
        try:
            y.square().mean().backward()
        except RuntimeError as error:  # of an input that was changed in place
            failed = str(error).partition(":")[0]
    found = (
        {f"gradient of {name}": p.grad for name, p in m.named_parameters()}
        | dict(m.named_buffers())
        | {"x": x, "y": y.detach(), "failed": len(failed)}
    )
    found |= {"torch's": torch.rand(1), "random's": torch.tensor(random.random()), "numpy's": torch.tensor(np.random.rand())}
    kept_things = ("n", "calls", "features", "sizes", "seen", "aux")
    for path, child in m.named_modules():
        found |= {f"{path}.{name}": vars(child)[name] for name in kept_things if name in vars(child)}
    return found


@pytest.mark.parametrize(("module", "name"), FORWARDS)
@pytest.mark.thinned(2)
def test_a_forward_means_what_it_says(module, name, monkeypatch):
    fast, plain = pair(module, name)
    for turn in range(3):
        x = (-1 if turn == 2 else 1) * torch.rand(2, 3, 4, 4)
        if turn == 2:
            monkeypatch.setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark)
            for m in (fast, plain):
                changed(m.eval(), turn)
        got, want = (outcome(m, x, turn) for m in (fast, plain))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=lambda text, turn=turn: f"call {turn}: {text}")
