"""Forwards with sums and norms with an affine from outside, as users write them; every name and whether it is one group."""

import torch
import torch.nn.functional as F

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


def before_and_after(x, r, w):
    s = conv(r, w)
    return F.relu(conv(x, w) + s) + s


def before_and_after_others(x, r, w):
    return F.relu(conv(x, w) + r) + x


def activated_twice(x, r, w):
    return F.relu(F.relu(batch(conv(x, w)) + x) + x)


def two_branches_of_two(x, r, w):
    return F.relu(conv(x, w) + x) + F.relu(conv(r, w) + x)


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
    before_and_after: ("conv2d()", "add()", "relu()"), before_and_after_others: ("conv2d()", "add()", "relu()"),
    activated_twice: ("batch_norm()", "add()"), two_branches_of_two: ("conv2d()", "add()", "relu()"),
    given_away: ("conv2d()", "add()", "relu()"), activated_sum_that_is_read: ("conv2d()", "add()"),
}  # fmt: skip
