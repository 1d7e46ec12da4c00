"""Weights that are made together: what they are, u and v, and everything else stay as eager's, step by step."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import ganfast


def hooked(norm):
    def applied(module, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(module, **options)

    return applied


class Scaled(nn.Module):
    """An equalised layer, its weight and its bias times numbers."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias, self.is_linear = layer.weight, layer.bias, layer.weight.dim() == 2

    def forward(self, x):
        return (F.linear if self.is_linear else F.conv2d)(x, self.weight * 0.25, 3 * self.bias)


NORMS = {
    "weight_norm": (parametrizations.weight_norm, "weight norms", 3),
    "weight_norm hook": (hooked(nn.utils.weight_norm), "weight norms", 3),
    "weight_norm of all": (lambda module: parametrizations.weight_norm(module, dim=None), "weight norms", 3),
    "spectral_norm": (parametrizations.spectral_norm, "spectral norms", 3),
    "spectral_norm hook": (hooked(nn.utils.spectral_norm), "spectral norms", 3),
    "spectral_norm thrice": (lambda module: parametrizations.spectral_norm(module, n_power_iterations=3, eps=1e-6), "spectral norms", 3),
    "spectral_norm hook twice": (lambda module: hooked(nn.utils.spectral_norm)(module, n_power_iterations=2), "spectral norms", 3),
    "equalised": (Scaled, "equalised weights", 6),
}
RARE = ("weight_norm of all", "spectral_norm hook twice")  # what differs from another row in an option alone


def network(norm: str = "weight_norm") -> nn.Sequential:
    torch.manual_seed(0)
    apply = NORMS[norm][0]
    layers = apply(nn.Conv2d(2, 8, 3)), nn.LeakyReLU(0.2), apply(nn.Conv2d(8, 4, 3)), nn.Flatten(), apply(nn.Linear(64, 3))
    return nn.Sequential(*layers).double()


def x_of(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def together(model) -> list[tuple[str, int]]:
    return [(row.kind, row.count) for row in ganfast.explain(model).weights if row.ran != "eager"]


def same(model, plain) -> None:
    got, want = model.state_dict(), plain.state_dict()
    assert list(got) == list(want)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", [pytest.param(norm, marks=[pytest.mark.prove] if norm in RARE else []) for norm in NORMS])
def test_training_then_evaluation(norm):
    """Steps with a gradient penalty, whose second order goes through the weights; then forwards that must not change u and v."""
    model, plain = ganfast.accelerate(network(norm)), network(norm)
    for each in (model, plain):
        optimizer = torch.optim.SGD(each.parameters(), 0.05)
        for step in range(3):
            x = x_of(step).requires_grad_()
            y = each(x)
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            optimizer.zero_grad()
            (y.square().mean() + slope.square().sum()).backward()
            optimizer.step()
    assert together(model) == [NORMS[norm][1:]]
    same(model, plain)
    with torch.no_grad():
        torch.testing.assert_close(model(x_of(5)), plain(x_of(5)))
    for each in (model, plain):
        each.eval()
    torch.testing.assert_close(model(x_of(5)), plain(x_of(5)))
    same(model, plain)
    y = model(x_of(6))
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), [*model.parameters()]), torch.autograd.grad(plain(x_of(6)).sum(), [*plain.parameters()])
    )


@pytest.mark.parametrize("norm", ["weight_norm hook", "spectral_norm", "spectral_norm hook", "equalised"])
def test_copies_pickles_and_back(norm):
    model, plain = ganfast.accelerate(network(norm)), network(norm)
    with torch.no_grad():  # before that torch's own hook keeps a weight that cannot be copied
        model(x_of(1)), plain(x_of(1))
    copies = [copy.deepcopy(model)]
    if not parametrize.is_parametrized(model[0]):
        copies.append(pickle.loads(pickle.dumps(model)))
    want = plain(x_of())
    for each in (model, *copies):
        torch.testing.assert_close(each(x_of()), want)
        same(each, plain)
        assert together(each) == [NORMS[norm][1:]]
    ganfast.restore(model)
    torch.testing.assert_close(model(x_of()), plain(x_of()))
    same(model, plain)


def test_parametrizations_may_be_cached_and_removed():
    model, plain = ganfast.accelerate(network()), network()
    for each in (model, plain):
        with parametrize.cached():
            each(x_of()).sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])
    for each in (model, plain):
        for layer in (each[0], each[2], each[4]):
            parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(model(x_of()), plain(x_of()))
    same(model, plain)


class Twice(nn.Module):
    """A layer that is called twice, one that hangs on the input, two that are called once."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        apply = NORMS[norm][0]
        self.first, self.again, self.rare, self.last = (apply(nn.Linear(4, 4).double()) for _ in range(4))

    def forward(self, x):
        x = self.again(self.again(self.first(x)).tanh())
        if x.shape[0] > 2:
            x = self.rare(x)
        return self.last(x)


@pytest.mark.parametrize(("norm", "counts"), [("spectral_norm", [2, 3]), ("spectral_norm hook", [2, 3]), ("weight_norm", [4, 5])])
def test_layers_that_are_called_twice_or_not_at_all(norm, counts):
    """Each access of a spectral norm iterates: the layer stays as it is; what is not reached does not iterate."""
    model, plain = ganfast.accelerate(Twice(norm)), Twice(norm)
    for batch in (2, 2, 3, 2):
        x = torch.randn(batch, 4, dtype=torch.float64)
        torch.testing.assert_close(model(x), plain(x))
        same(model, plain)
    assert sorted(count for _, count in together(model)) == counts


@torch._dynamo.allow_in_graph
def a_users_own(x):
    return x + 1


class Written(nn.Module):
    """One of its weights is changed between, one after a call of a user's own."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(parametrizations.weight_norm(nn.Linear(4, 4).double()) for _ in range(4))
        self.how = how

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            if i == 2 and self.how == "write":
                with torch.no_grad():
                    self.layers[3].parametrizations.weight.original0.mul_(1.5)
            if i == 2 and self.how == "call":
                x = a_users_own(x)
            x = layer(x)
        return x


@pytest.mark.parametrize(("how", "counts"), [("write", [3]), ("call", [2, 2]), ("", [4])])
def test_what_is_changed_between_stays(how, counts):
    model, plain = ganfast.accelerate(Written(how)), Written(how)
    for _ in range(2):
        torch.testing.assert_close(model(x_of()[0, 0, :, :4]), plain(x_of()[0, 0, :, :4]))
    same(model, plain)
    assert [count for _, count in together(model)] == counts


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm hook"])
def test_frozen_layers_and_autocast(norm):
    """A frozen layer's weight needs no gradient; autocast casts no norm."""
    for half in (False, True):
        model, plain = (network(norm).float() for _ in range(2))
        for each in (model, plain):
            each[2].requires_grad_(False)
        ganfast.accelerate(model)
        for each in (model, plain):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                y = each(x_of().float())
            y.float().sum().backward()
            if norm == "spectral_norm hook":
                assert [each[i].weight.requires_grad for i in (0, 2, 4)] == [True, False, True]
        assert together(model) == [NORMS[norm][1:]]
        got, want = ([p.grad for p in each.parameters() if p.grad is not None] for each in (model, plain))
        torch.testing.assert_close(got, want, rtol=2e-2 if half else 1e-4, atol=2e-2 if half else 1e-5)
        torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_report_and_backends_by_name():
    model = ganfast.accelerate(network())
    assert ganfast.explain(model).weights == []
    for backend in ("cpu", "reference", "torch"):
        with ganfast.use_backend(backend):
            model(x_of())
        (row,) = ganfast.explain(model).weights
        assert (row.kind, row.count, row.layers, row.ran) == ("weight norms", 3, ("0", "2", "4"), backend)
    assert "3 weight norms, 0 to 4: made in one call, torch" in str(ganfast.explain(model))


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_two_networks_in_one_whose_outputs_are_differentiated_in_turn(norm):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            branch = lambda: nn.Sequential(norm(nn.Conv2d(4, 4, 3, 1, 1)), nn.ReLU(), norm(nn.Conv2d(4, 4, 3, 1, 1)), nn.ReLU())
            self.a, self.b = branch(), branch()

        def forward(self, x):
            return self.a(x), self.b(x)

    plain, x = Two(), torch.randn(2, 4, 6, 6)
    model = ganfast.accelerate(copy.deepcopy(plain))
    for net in (plain, model):
        for y in net(x):
            y.square().mean().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
