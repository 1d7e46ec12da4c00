"""Small modules in which no group pays: called through dynamo or as they are written, whichever is faster."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ganfast import _tune
from ganfast.dropin import route
from tests.dropin import small


class Clocked(nn.Module):
    """Takes so long, as it is written or through dynamo."""

    def __init__(self, monkeypatch, as_written: float, through_dynamo: float) -> None:
        super().__init__()
        self.now, self.took, self.ways = 0.0, {"written": as_written, "dynamo": through_dynamo}, []
        monkeypatch.setattr(route.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(_tune, "off_reason", lambda: "")

    def go(self, way: str) -> None:
        self.ways.append(way)
        self.now += self.took[way]

    def _call_impl(self, x):
        self.go("written")


@pytest.mark.parametrize(("as_written", "through_dynamo", "last"), [(1.0, 1.2, "written"), (1.2, 1.0, "dynamo"), (1.0, 1.0, "dynamo")])
def test_the_faster_way_stays(as_written, through_dynamo, last, monkeypatch):
    module, routes, freed = Clocked(monkeypatch, as_written, through_dynamo), route.Routes(), []
    compiled = SimpleNamespace(call=lambda *_: module.go("dynamo"), is_needed=lambda: False)

    @contextlib.contextmanager
    def free(module, for_good=False):
        freed.append(for_good)
        yield

    for x in (torch.ones(2), torch.ones(3)):
        for _ in range(40):
            routes.call(module, (x,), {}, compiled, free)
        assert module.ways[-10:] == [last] * 10
        assert 5 < module.ways.count("written" if last == "dynamo" else "dynamo") < 20
        del module.ways[:]
    assert freed.count(True) == 2 * (last == "written")
    module.train()
    routes.call(module, ((1, 2),), {}, compiled, free)
    assert module.ways == ["dynamo"]  # arguments of other kinds


def test_where_a_group_pays_dynamo_is_always_asked():
    plain, model = small.pair(small.generator)
    for _ in range(30):
        small.same(model, plain, torch.randn(2, 8, 1, 1))
    assert set(model.__dict__["_compiled_call_impl"].routes._known.values()) == {False}
