"""A class's forward replaced after the model was called: eager sees it, and dynamo's guards do not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.dropin.entry import armed
from tests.dropin.kept import Base
from tests.dropin.test_changed import same


class Inner(Base):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return F.relu(self.conv(x))


class Outer(Base):
    def __init__(self):
        super().__init__()
        self.inner, self.act = Inner(), nn.Tanh()

    def forward(self, x):
        return self.act(self.inner(x))


@pytest.mark.parametrize("cls", [Outer, Inner, nn.Conv2d, nn.Tanh])
@pytest.mark.parametrize("called", ["model", "child"])
def test_a_classs_forward_replaced_later_is_seen(monkeypatch, cls, called):
    module, plain, x = ganfast.accelerate(Outer()), Outer(), torch.randn(2, 3, 4, 4)
    call, its = (module.inner, plain.inner) if called == "child" else (module, plain)
    same(call, its, x)
    before = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, x: before(self, x) * 3)
    same(call, its, x)
    same(call, its, x)
    graphs = ganfast.explain(module).graphs
    same(call, its, x)
    assert ganfast.explain(module).graphs == graphs
    monkeypatch.undo()
    same(call, its, x)


def test_a_forward_that_is_replaced_at_every_call_is_not_compiled_at_every_call(monkeypatch):
    module, plain, x = ganfast.accelerate(Outer()), Outer(), torch.randn(2, 3, 4, 4)
    same(module, plain, x)
    before = Inner.forward
    for i in range(12):
        monkeypatch.setattr(Inner, "forward", lambda self, x, i=i: before(self, x) * i)
        same(module, plain, x)
    breaks = ganfast.explain(module).breaks
    assert {entry.kind for entry in breaks} == {"runs as written"} and all("Inner got another forward" in entry.reason for entry in breaks)
    runs, compiled = [], armed(module)[module].compiled
    compiled.run = lambda *args, run=compiled.run: runs.append(1) or run(*args)
    same(module, plain, x)
    assert not runs  # as written while it stands
    monkeypatch.undo()
    same(module, plain, x)
    assert runs  # the first graph again
