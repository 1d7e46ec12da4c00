"""Sums with a residual, and scale and shift from outside: what is a group, and that code that eager runs stays valid."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin import small
from tests.dropin.sums import FORWARDS


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_a_forward(forward):
    fast = ganfast.accelerate(forward)
    x, r = small.images(2, 6, 4), small.images(3, 6, 4)[:2]
    w = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    small.assert_alike(small.orders(fast, x, r, w), small.orders(forward, x, r, w))
    names = [row.layers for row in ganfast.explain(fast).groups]
    ends = FORWARDS[forward]
    if ends is None:
        assert all(not {"add()", "mul()"} & set(layers) for layers in names), names
    else:
        assert any(layers[-len(ends) :] == ends for layers in names), names


class Residual(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d, act=F.relu) -> None:
        super().__init__()
        self.conv1, self.conv2, self.norm, self.act = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), norm(4), act

    def forward(self, x, skip=None):
        h = self.act(self.norm(self.conv1(x)))
        return self.act(self.norm(self.conv2(h)) + (x if skip is None else skip))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("given", ["as it is", "double", "channels_last", "another size"])
def test_residuals_of_every_look_at_one_module(given, grad):
    plain, model = small.pair(Residual)
    x = small.images(2, 6, 4)
    looks = {"as it is": x, "double": x.double(), "channels_last": x.contiguous(memory_format=torch.channels_last),
             "another size": x[:, :, :1]}  # fmt: skip
    with torch.set_grad_enabled(grad):
        for skip in (x, looks[given]):
            if grad:
                small.same(model, plain, x, skip)
            else:
                got, want = model(x, skip), plain(x, skip)
                assert got.dtype == want.dtype and got.stride() == want.stride()
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d, lambda n: nn.GroupNorm(2, n)], ids=["batch", "instance", "group"])
@pytest.mark.parametrize("act", [F.silu, F.leaky_relu, F.gelu], ids=lambda f: f.__name__)
def test_the_caller_changes_what_was_added(act, norm):
    """Of a summand eager keeps nothing."""
    found = []
    for m in reversed(small.pair(lambda: Residual(norm, act))):
        x, skip = small.images(2, 6, 4), small.images(3, 6, 4)[:2].requires_grad_() * 1
        y = m(x, skip)
        with torch.no_grad():
            skip.mul_(3)
        small.loss_of(y).backward()
        found.append({f"g {name}": p.grad for name, p in m.named_parameters()})
    small.assert_alike(*found)


def test_a_hook_sees_and_changes_what_is_added():
    plain, model = small.pair(Residual)
    for m in (model, plain):
        m.conv2.register_forward_hook(lambda module, given, y: y * 2)
    small.same(model, plain, small.images(2, 6, 4))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_half_precision_beside_a_float32_residual(training):
    """Eager's sum is float32 then, which no op of 16 bits gives."""
    plain, model = small.pair(lambda: Residual(lambda n: nn.GroupNorm(2, n)))
    x = small.images(2, 6, 4)
    for skip in (x, x.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            got, want = model.train(training)(x, skip), plain.train(training)(x, skip)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got.float(), want.float(), rtol=5e-2, atol=5e-2)


def test_a_scale_and_shift_that_the_caller_gives_and_changes():
    class Modulated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 4, affine=False)

        def forward(self, x, scale, shift):
            return F.silu(self.norm(x) * (1 + scale) + shift)

    plain, model = small.pair(Modulated)
    x = small.images(2, 6, 4)
    for given in (small.images(3, 1, 4)[:2], small.images(3, 6, 4)[:2]):
        small.same(model, plain, x, given, given + 1)
        found = []
        for m in (model, copy.deepcopy(plain)):
            ours, scale, shift = x.clone().requires_grad_(), given.clone().requires_grad_(), (given + 1).requires_grad_() * 1
            y = m(ours, scale, shift)
            with torch.no_grad():
                shift.mul_(2)
            found.append(dict(zip(("g x", "g scale"), torch.autograd.grad(small.loss_of(y), [ours, scale]))))
        small.assert_alike(*found)
