"""What is no model, what dynamo cannot follow, and programs that raise: as eager, with the reasons in explain."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.dropin import backend
from tests.dropin import small


@pytest.mark.parametrize("wrong", [3, "model", None, [nn.Linear(1, 1)], torch.ones(2), nn.Linear, small.Blocks], ids=lambda w: str(w)[:12])
@pytest.mark.parametrize("function", [ganfast.accelerate, ganfast.restore, ganfast.explain])
def test_what_is_no_model(function, wrong):
    with pytest.raises(TypeError, match=function.__name__):
        function(wrong)


def test_a_model_without_numbers():
    with torch.device("meta"):
        model = small.critic()
    with pytest.raises(ValueError, match=r"0\.weight is on the meta device"):
        ganfast.accelerate(model)
    assert type(model) is nn.Sequential


CLOSE = {"script": torch.jit.script, "trace": lambda m: torch.jit.trace(m, small.images(2)), "compile": torch.compile}


@pytest.mark.parametrize("close", CLOSE.values(), ids=CLOSE)
def test_closed_models_come_back_as_they_are(close):
    model = close(small.critic().eval())
    assert ganfast.accelerate(model) is model and ganfast.restore(model) is model
    ((name, reason),) = ganfast.explain(model).left
    assert name == "" and ("torch.jit" in reason or "with backend='ganfast' ganfast's groups run" in reason)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.middle = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU())

    def forward(self, x):
        return torch.tanh(self.last(self.middle(F.silu(self.first(x)))))


@pytest.mark.parametrize("part", [torch.jit.script, lambda m: torch.compile(m, backend="eager")], ids=["script", "compile"])
def test_a_closed_part_of_a_model(part):
    plain, model = small.pair(Around)
    for m in (plain, model):
        m.middle = part(m.middle)
    for n in (2, 2, 3):
        small.same(model, plain, small.images(n), second=False)
    if part is torch.jit.script:  # dynamo gives up a forward that calls one, and its layers run by themselves
        assert small.layers(model) == [("first",), ("last",)] and "torch.jit.script" in str(small.fallbacks(model))
    else:
        assert {("first", "silu()"), ("last", "tanh()")} <= set(small.layers(model))


class Branching(nn.Module):
    """Control flow by the data after each line that asks for it."""

    def __init__(self, at: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.at, self.seen = at, 0

    def ask(self, line: int, x):
        if line in self.at:
            if x.flatten()[5].item() > 0:
                x = x * 2
            self.seen += 1
        return x

    def forward(self, x):
        x = self.ask(0, x)
        x = self.ask(1, self.first(x))
        x = self.ask(2, self.norm(x))
        x = self.ask(3, F.leaky_relu(x, 0.2))
        x = self.ask(4, self.last(x))
        return self.ask(5, torch.tanh(x))


_APART = [pytest.param((line,), marks=[] if line in (1, 3) else [pytest.mark.prove]) for line in range(6)]


@pytest.mark.parametrize("at", [*_APART, (0, 1, 2, 3, 4, 5)], ids=str)
def test_control_flow_by_the_data(at):
    plain, model = small.pair(lambda: Branching(at))
    for n in (2, 2, 3):
        for sign in (1, -1):
            small.same(model, plain, sign * small.images(n))
    assert model.seen == plain.seen == 6 * len(at)
    explained = ganfast.explain(model)
    assert any("item" in entry.reason for entry in explained.breaks)
    if at == (3,):
        assert small.layers(model) == [("first", "norm", "leaky_relu()"), ("last", "tanh()")]


STRANGE = {
    "print": lambda self, x: print("x") or x,
    "numpy": lambda self, x: x + torch.from_numpy(x.detach().numpy() * 0),
    "list": lambda self, x: x * float(sum(x.detach().flatten()[:2].tolist()) > -1e9),
    "nonzero": lambda self, x: x + len(x.detach().flatten().nonzero()) * 0,
    "global": lambda self, x: globals().update(TOUCHED=1) or x,
    "generator": lambda self, x: sum(t for t in (y for y in (x, x))),
    "try": lambda self, x: self._tries(x),
    "data_ptr": lambda self, x: x * bool(x.data_ptr()),
    "requires_grad_": lambda self, x: x.detach().requires_grad_() + x,
    "backward inside": lambda self, x: x + self._slope(x),
    "id": lambda self, x: x * bool(id(x)),
    "setattr": lambda self, x: setattr(self, "kept", x) or x,
    "lock": lambda self, x: self._locked(x),
    "assert": lambda self, x: self._asserted(x),
    "to": lambda self, x: x.to(torch.float64).to(x.dtype),
    "deepcopy": lambda self, x: x * copy.deepcopy([1.0])[0],
}


class Strange(nn.Module):
    """Lines that dynamo stumbles over, one by one."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.first, self.last, self.line = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), line

    def _tries(self, x):
        try:
            raise KeyError("mine")
        except KeyError:
            return x

    def _slope(self, x):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return torch.autograd.grad(torch.sigmoid(y).sum(), y)[0]

    def _locked(self, x):
        import threading

        with threading.Lock():
            return x * 1

    def _asserted(self, x):
        assert torch.isfinite(x).all(), "not finite"
        return x

    def forward(self, x):
        x = F.leaky_relu(self.first(x), 0.2)
        return torch.tanh(self.last(STRANGE[self.line](self, x)))


@pytest.mark.parametrize("line", STRANGE)
@pytest.mark.thinned(3)
def test_lines_that_dynamo_may_not_follow(line, capfd):
    plain, model = small.pair(lambda: Strange(line))
    for n in (2, 3, 2):
        small.same(model, plain, small.images(n), second=line != "setattr")
    assert any(row[:2] == ("first", "leaky_relu()") for row in small.layers(model))
    assert "torch._dynamo" not in capfd.readouterr().err


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wrong = nn.Conv2d(3, 4, 3), True

    def forward(self, x, size: int = 6):
        y = torch.relu(self.conv(x))
        if self.wrong:
            raise LookupError(f"no such thing as {size}")
        return y


WRONG = {
    "channels": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), lambda: torch.randn(2, 5, 8, 8)),
    "dimensions": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), lambda: torch.randn(8)),
    "too small": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), lambda: torch.randn(2, 3, 1, 1)),
    "dtype": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), lambda: torch.randn(2, 3, 8, 8).double()),
    "one value": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), lambda: torch.randn(1, 3, 3, 3)),
    "one value, instance": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)), lambda: torch.randn(2, 3, 3, 3)),
    "view": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Unflatten(2, (3, 2))), lambda: torch.randn(2, 3, 9, 9)),
    "linear": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)), lambda: torch.randn(2, 3, 9, 9)),
    "no tensor": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), lambda: "images"),
    "none": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), lambda: None),
    "its own": (Raises, lambda: torch.randn(2, 3, 8, 8)),
    "an argument too many": (small.critic, lambda: (small.images(2), 1)),
}


def raised(model, x) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:
        model(*x) if isinstance(x, tuple) else model(x)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.thinned(3)
def test_eagers_own_errors(name, first):
    make, wrong = WRONG[name]
    plain, model = small.pair(make)
    right = small.images(2)
    if not first:
        for m in (plain, model):
            m.wrong = False
        small.same(model, plain, right)
        for m in (plain, model):
            m.wrong = True
    x = wrong()
    for _ in range(3):
        assert raised(model, x) == raised(plain, x)
    for m in (plain, model):
        m.wrong = False
    small.same(model, plain, right)
    whole = {"conv", "relu()"} if name == "its own" else {"0"} if name in ("view", "linear") else {"0", "1"}
    assert whole <= set(small.layers(model)[0]) and small.fallbacks(model) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_it_compiles(stop, monkeypatch):
    plain, model = small.pair()

    def interrupted(*_):
        raise stop

    with monkeypatch.context() as patched:
        patched.setattr(backend, "Graph", interrupted)
        with pytest.raises(stop):
            model(small.images(2))
    small.same(model, plain, small.images(2))
    assert small.layers(model) == [("0", "1"), ("2", "3", "4")]


def test_a_fault_of_our_own_is_eager_with_a_reason(monkeypatch):
    plain, model = small.pair()

    def faulty(*_):
        raise RuntimeError("a fault of the backend")

    monkeypatch.setattr(backend, "Graph", faulty)
    for _ in range(4):
        small.same(model, plain, small.images(2))
    kinds = {entry.kind for entry in small.fallbacks(model)}
    assert kinds == {"runs as written"} and "a fault of the backend" in str(ganfast.explain(model))
