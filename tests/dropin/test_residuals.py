"""Sums with a residual, and scale and shift from outside: what is a group, and that code that eager runs stays valid."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin import small

conv = lambda x, w: F.conv2d(x, w, padding=1)
batch = lambda x: F.batch_norm(x, None, None, training=True)
B = torch.linspace(-0.5, 0.5, 4).view(-1, 1, 1)


def gain_then_residual(x, r, w):
    return conv(x, w) * 0.2 + r


def gain_residual_and_factor(x, r, w):
    return (conv(x, w) * 0.2 + r) * 0.2 + x


def gain_residual_and_activation(x, r, w):
    return F.silu(conv(x, w) * 0.2 + r)


def biased_gain_and_residual(x, r, w):
    return (torch.sin(x) + B) * 0.5 + r


def activated_gain_and_residual(x, r, w):
    return (F.leaky_relu(conv(x, w) + B, 0.2) * 1.4 + r) / 2**0.5


def negative_factor(x, r, w):
    return F.silu(conv(x, w) + r) * -3


def no_factor(x, r, w):
    return (F.leaky_relu(conv(x, w), 0.2) + r) * 0.0 + x


def rounded_quotient(x, r, w):
    return torch.div(conv(x, w) + r, 0.5, rounding_mode="floor") * r


def reversed_quotient(x, r, w):
    return 2 / (conv(x, w).exp() + r.exp())


def with_alpha(x, r, w):
    return torch.add(conv(x, w), r, alpha=2)


def of_itself(x, r, w):
    h = conv(x, w)
    return h + h


def one_branch_twice(x, r, w):
    h = F.silu(conv(r, w))
    return (conv(x, w) + h) + h


def both_branches(x, r, w):
    return F.relu(conv(x, w) + conv(r, w), inplace=True)


def its_own_input(x, r, w):
    return x + F.relu(batch(conv(x, w)))


def broadcast(x, r, w):
    return conv(x, w) + r[:, :1]


def one_image(x, r, w):
    return conv(x, w) + r[:1]


def in_place(x, r, w):
    h = conv(x, w)
    h += r
    return F.relu_(h)


def into_the_residual(x, r, w):
    r = torch.sin(r)
    r += F.leaky_relu(conv(x, w), 0.2)
    return r * 2


def method_into_the_residual(x, r, w):
    h = batch(conv(x, w))
    return torch.sin(r).add_(h).relu_()


def changed_between(x, r, w):
    r, h = torch.sin(r), conv(x, w)
    r.mul_(2)
    return h + r


def residual_made_in_place(x, r, w):
    r = F.relu_(torch.sin(r))
    return F.silu(batch(conv(x, w)) + r)


def residual_changed_after(x, r, w):
    r = torch.sin(r)
    y = F.silu(batch(conv(x, w)) + r)
    return y, r.add_(1)


def biased_residual_changed_after(x, r, w):
    r, x = r + 1, x + 1
    y = F.silu(x + B + r)
    return y, r.add_(1)


def biased_tanh_and_residual(x, r, w):
    x = x + 1
    y = torch.tanh(x + B) + r
    return torch.sin(y), x.add_(1)


def summand_changed_after(x, r, w):
    by, more = torch.sin(r), torch.cos(r) + 1
    y = F.silu(batch(x) * by + more)
    return y, more.mul_(2)


def sum_changed_after(x, r, w):
    y = F.leaky_relu(batch(conv(x, w)) + r, 0.2)
    y *= 2
    return y


def of_each_image(x, r, w):
    by, more = r.mean((2, 3), keepdim=True), r.amax((2, 3), keepdim=True)
    return F.silu(F.group_norm(x, 2) * (1 + by) + more)


def of_each_value(x, r, w):
    return F.leaky_relu(batch(x) * (1 + torch.sin(r)) + torch.cos(r), 0.2)


def summand_first(x, r, w):
    return F.silu(torch.cos(r) + torch.sin(r) * F.instance_norm(x))


def mixed_shapes(x, r, w):
    return F.silu(F.group_norm(x, 2) * r.mean((2, 3), keepdim=True) + r)


def modulated_and_added(x, r, w):
    by = r.mean((2, 3), keepdim=True)
    return F.relu(batch(conv(x, w)) * by + by + torch.sin(r))


def another_layout(x, r, w):
    return (conv(x, w) + torch.sin(r).contiguous(memory_format=torch.channels_last)).transpose(1, 2)


def the_others_layout(x, r, w):
    """The sum lies as its first summand does: it can be flattened."""
    h = conv(torch.sin(x).contiguous(memory_format=torch.channels_last), w)
    return (r + h).view(r.shape[0], -1)


def expanded(x, r, w):
    return conv(x, w) + torch.sin(r)[:1].expand_as(r)


def without_grad(x, r, w):
    h = conv(x, w)
    with torch.no_grad():
        s = conv(r, w)
    return F.relu(h + s)


def sum_without_grad(x, r, w):
    h = conv(x, w)
    with torch.no_grad():
        s = h + r
    return s * x


def half(x, r, w):
    with torch.autocast("cpu", torch.bfloat16):
        return conv(x, w).float() * 0 + (conv(x * 0, w) + r)


def given_away(x, r, w):
    s = conv(r, w)
    return F.relu(conv(x, w) + s), s


def activated_sum_that_is_read(x, r, w):
    s = conv(x, w) + r
    return F.relu(s) + s


# what a group of each ends with; None: the sum is part of none
FORWARDS = {
    gain_then_residual: ("mul()", "add()"), gain_residual_and_factor: ("mul()", "add()", "mul()"),
    gain_residual_and_activation: ("mul()", "add()"), biased_gain_and_residual: ("add()", "mul()", "add()"),
    activated_gain_and_residual: ("leaky_relu()", "mul()", "add()", "div()"), negative_factor: ("add()", "silu()", "mul()"),
    no_factor: ("leaky_relu()", "add()", "mul()"), rounded_quotient: ("conv2d()", "add()"),
    reversed_quotient: None, with_alpha: None, of_itself: None, one_branch_twice: ("conv2d()", "add()"),
    both_branches: ("conv2d()", "add()", "relu()"), its_own_input: ("batch_norm()", "relu()", "add()"), broadcast: None, one_image: None,
    in_place: ("conv2d()", "add()", "relu()"), into_the_residual: None, method_into_the_residual: None, changed_between: None,
    residual_made_in_place: ("batch_norm()", "add()", "silu()"), residual_changed_after: ("batch_norm()", "add()"),
    biased_residual_changed_after: ("add()", "add()"),
    biased_tanh_and_residual: ("add()", "tanh()"),
    summand_changed_after: None, sum_changed_after: ("batch_norm()", "add()"), of_each_image: ("group_norm()", "mul()", "silu()"),
    of_each_value: ("batch_norm()", "mul()", "leaky_relu()"), summand_first: ("instance_norm()", "mul()", "silu()"), mixed_shapes: None,
    modulated_and_added: ("batch_norm()", "mul()", "add()", "relu()"), another_layout: ("conv2d()", "add()"), the_others_layout: None,
    expanded: ("conv2d()", "add()"), without_grad: ("conv2d()", "add()", "relu()"), sum_without_grad: None, half: None,
    given_away: ("conv2d()", "add()", "relu()"), activated_sum_that_is_read: ("conv2d()", "add()"),
}  # fmt: skip


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
