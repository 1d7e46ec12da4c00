"""Forwards as people write them: by functions and methods, in loops, with flags, with random numbers, with what no tracer follows."""

import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.3
ACT = F.elu


def scaled(x, by):
    return x * by


def noisy(x):
    return x + random.random()


class Private:
    def private(self, x):
        return F.relu(self.conv(x)) * self.__factor


private = Private.private


class Base(nn.Module):
    def __init__(self, **flags):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.register_buffer("offset", torch.full((1,), 0.1))
        self.plain = torch.ones(1)
        self.options = {"slope": 0.1}
        self.sizes = [1, 2]
        self.thing = object()
        self.down = None
        self.calls, self.act, self.copy = 0, F.relu, None
        self._Private__factor = 2.0
        self.stage0, self.stage1 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        for name, value in flags.items():
            setattr(self, name, value)

    def helper(self, x):
        return self.norm(self.conv(x))


def build(name: str, **flags) -> nn.Module:
    """A module with the function of this name as its forward."""
    return type(f"M_{name}", (Base,), {"forward": globals()[name]})(**flags)


def functions(self, x):
    x = F.leaky_relu(self.conv(x), SLOPE)
    return torch.tanh(self.norm(self.other(x)))


def methods(self, x):
    return self.other(self.conv(x).relu_()).sigmoid()


def loops(self, x):
    outs = []
    for i, (layer, _size) in enumerate(zip(self.layers, self.sizes)):
        x = F.silu(layer(x)) + i
        outs.append(x)
    return torch.cat([*outs, x * math.sqrt(2)], dim=1)


def flags(self, x, y=None, double=False):
    x = F.relu(self.helper(x))
    if y is not None:
        x = x + y
    if double:
        x = x * 2
    if self.down is not None:
        x = self.down(x)
    return scaled(x, self.options["slope"]) + self.scale * self.offset


def global_function(self, x):
    return ACT(self.conv(x))


def fetched(self, x):
    for i in range(2):
        x = self.act(getattr(self, f"stage{i}")(x))
        x = getattr(self, "stage" + str(i))(x) + getattr(self, "stage%d" % i)(x) + getattr(self, "stage{}".format(i))(x)  # noqa: UP031, UP032
    act = self.act
    return act(x) + torch.randn_like(x)


def keeps_a_function(self, x):
    act = noisy
    return act(F.relu(self.conv(x)))


def keeps_a_method(self, x):
    norm = self.helper
    return F.relu(norm(x))


def mode(self, x):
    x = F.relu(self.conv(x))
    return F.dropout(x, 0.5, self.training) if self.training else x


def used_twice(self, x):
    z = self.conv(x)
    return F.relu(z) + z


def twice_the_same_norm(self, x):
    a, b = self.conv(x), self.other(x)
    second = F.relu(self.norm(b))
    return F.relu(self.norm(a)) + second


def draws(self, x):
    return F.relu(self.conv(x)) * (1 if random.random() < 0.5 else 2)


def draws_inside(self, x):
    return noisy(F.relu(self.conv(x)))


def draws_a_tensor(self, x):
    return F.relu(self.conv(x)) + torch.randn(3, 1, 1)


def sets_an_attribute(self, x):
    self.seen = F.relu(self.conv(x))
    return self.seen


def counts(self, x):
    self.calls += 1
    return F.relu(self.conv(x)) * self.calls


def changes_a_list(self, x):
    self.sizes[0] = 3
    return F.relu(self.conv(x))


def appends(self, x):
    self.sizes.append(1)
    return F.relu(self.conv(x))


def context(self, x):
    with torch.no_grad():
        return F.relu(self.conv(x))


def prints(self, x):
    print("x")
    return F.relu(self.conv(x))


def branches_on_values(self, x):
    return F.relu(self.conv(x)) if x.sum() > 0 else x


def branches_on_a_size(self, x):
    return F.relu(self.conv(x)) if x.shape[-1] > 3 else x


def asks_for_a_type(self, x):
    return F.relu(self.conv(x)) if isinstance(x, torch.Tensor) else x


def asks_for_a_mode(self, x):
    return F.relu(self.conv(x)) if torch.is_grad_enabled() else x


def checkpoints(self, x):
    return F.relu(torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False))


def any_arguments(self, *xs):
    return F.relu(self.conv(xs[0]))


def numpy_too(self, x):
    return F.relu(self.conv(x)) * np.random.rand()


def an_unregistered_tensor(self, x):
    return F.relu(self.conv(x)) * self.plain


def an_object(self, x):
    return F.relu(self.conv(x)) if self.thing else x


def its_own_hand(self, x):
    return noisy(self) if x is None else F.relu(self.conv(x))


def tries(self, x):
    try:
        return F.relu(self.conv(x))
    except RuntimeError:
        return x


def defines(self, x):
    act = lambda t: F.relu(t)
    return act(self.conv(x))


def through_the_back_door(self, x):
    return F.relu(self.conv.forward(x))


def dynamic_names(self, x):
    name = "conv"
    return F.relu(getattr(self, name)(x))


def names_of_more_than_layers(self, x):
    return F.relu(getattr(self, f"co{'nv'}")(x))


def makes_a_layer(self, x):
    return nn.ReLU()(self.conv(x))


@torch.no_grad()
def decorated(self, x):
    return F.relu(self.conv(x))
