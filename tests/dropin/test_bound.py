"""What a group's ops decided at its first call holds for calls that look the same, and for no others."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast import explain
from ganfast.dropin.backend import Graph


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False),
        nn.InstanceNorm2d(8), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


def _pair() -> tuple[nn.Module, nn.Module]:
    plain = _network()
    return ganfast.accelerate(copy.deepcopy(plain)), plain


def _x(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(n))


def _same(fast: Callable, plain: Callable, x: torch.Tensor, models: list[nn.Module] | None = None) -> None:
    """Output, gradients, and that what is contiguous in eager is contiguous."""
    found = []
    for call, model in zip((fast, plain), models or (fast, plain)):
        own = x.detach().requires_grad_()
        y = call(own)
        found.append((y, *torch.autograd.grad(y.square().sum(), (own, *model.parameters()))))
    assert found[0][0].is_contiguous() or not found[1][0].is_contiguous()
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def _channels_last(model: nn.Module) -> None:
    for p in model.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


def _with_gaps(model: nn.Module) -> None:
    for p in model.parameters():
        if p.dim() == 4:
            p.data = p.data.repeat_interleave(2, -1)[..., ::2]


def _replaced(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach() * 2)
    model[7].bias = None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", [_channels_last, _with_gaps, _replaced])
def test_weights_that_look_otherwise_later(change, training):
    fast, plain = _pair()
    fast.train(training), plain.train(training)
    _same(fast, plain, _x())
    for model in (fast, plain):
        change(model)
    _same(fast, plain, _x())


@pytest.mark.parametrize("training", [True, False])
def test_images_that_look_otherwise_later(training):
    fast, plain = _pair()
    fast.train(training), plain.train(training)
    wide = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(9))
    looks = [_x(), _x().contiguous(memory_format=torch.channels_last), wide[..., ::2], _x(1).expand(2, -1, -1, -1), _x(3), _x(2), _x(1)]
    for x in looks:
        _same(fast, plain, x)


class Elastic(nn.Module):
    """Kernels of several sizes cut out of one weight."""

    def __init__(self, upsampled: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.upsampled = upsampled
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4, 7, 7)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        weight = self.weight[:, :, :k, :k]
        if self.upsampled:
            return F.leaky_relu(F.conv2d(F.interpolate(x, scale_factor=2.0), weight, self.bias, padding=1), 0.2)
        return F.leaky_relu(F.conv2d(x, weight, self.bias, stride=2, padding=1), 0.2)


@pytest.mark.parametrize("upsampled", [True, False])
def test_kernels_whose_size_changes(upsampled):
    plain = Elastic(upsampled)
    fast = ganfast.accelerate(copy.deepcopy(plain))
    for k in (3, 4, 5, 7, 3):
        _same(lambda x, m=fast, k=k: m(x, k), lambda x, m=plain, k=k: m(x, k), _x(), [fast, plain])


def test_a_backend_that_is_named_later():
    fast, plain = _pair()
    _same(fast, plain, _x())
    for backend in ("reference", "torch", "auto"):
        with ganfast.use_backend(backend):
            _same(fast, plain, _x())
            ran = {name for row in explain(fast).groups for name in row.ran.split(" + ")}
        assert (ran == {backend}) == (backend != "auto"), (backend, ran)


def test_threads_that_are_fewer_later():
    fast, plain = _pair()
    threads = torch.get_num_threads()
    try:
        for count in (2, 1, 2):
            torch.set_num_threads(count)
            _same(fast, plain, _x())
    finally:
        torch.set_num_threads(threads)


def test_settings_that_come_back_find_what_was_decided(monkeypatch):
    fast, _ = _pair()
    with torch.no_grad():
        fast.eval()(_x())
        with ganfast.use_backend("reference"):
            fast(_x())
        monkeypatch.setattr(Graph, "_settle", lambda *args: pytest.fail("decided anew"))
        fast(_x())
        with ganfast.use_backend("reference"):
            fast(_x())
