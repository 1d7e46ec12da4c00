"""Forwards that change tensors in place, and forwards that reach for what the module keeps through locals, loops and children."""

import torch
import torch.nn.functional as F
from torch import nn

FACTOR = 2.0
LIST = []


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.scale, self.aux, self.n = nn.Conv2d(3, 3, 1), 1.0, None, 0
        self.weight = nn.Parameter(torch.ones(1))

    def helper(self, x):
        return self.conv(x) * self.scale

    def forward(self, x):
        self.n += 1
        self.aux = x
        return self.conv(x) * self.scale


class Calls(Block):
    def __call__(self, x):
        self.n += 1
        return super().__call__(x) * self.n


class Own(nn.ModuleList):
    def __iter__(self):
        return iter(list(self._modules.values())[: self.most])


class Text:
    """With __module__ None, and a method."""

    def append(self, x):
        LIST.append(x)


Text.__module__ = None
TEXT = Text()


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.block = nn.Conv2d(3, 3, 1), Block()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.deep = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, 3, 1)]), nn.ModuleList([nn.Conv2d(3, 3, 1)])])
        self.own = Own([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
        self.own.most = 1
        self.stage0 = nn.ModuleList([nn.Conv2d(3, 3, 1)])
        self.weights = nn.ParameterList([torch.full((1,), 2.0), torch.full((1,), 3.0)])
        self.named = nn.ParameterDict({"a": torch.full((1,), 2.0)})
        self.extra = nn.Parameter(torch.ones(1))
        self.a = self.b = nn.Parameter(torch.ones(1))
        self.register_buffer("count", torch.zeros(1))
        self.features, self.acts, self.number = [], [F.relu], 1.0

    def helper(self, x):
        return F.relu(self.conv(x))

    def chosen(self):
        return self.block if self.number else self.blocks[0]


def build(name):
    return type(f"M_{name}", (Base,), {"forward": globals()[name]})()


# In place


def skip_in_place(self, x):
    h = self.conv(x)
    skip = h
    h *= 3
    return F.relu(self.conv(x)) + h + skip


def view_in_place(self, x):
    h = self.conv(x)
    v = h.view(h.shape[0], -1)
    v += 1
    return F.relu(h)


def attribute_in_place(self, x):
    h = self.conv(x)
    v = h.mT
    v -= 1
    return F.relu(h)


def input_in_place(self, x):
    x -= 0.5
    x /= 2
    x **= 2
    return F.relu(self.conv(x))


def buffer_in_place(self, x):
    n = self.count
    n += 1
    return F.relu(self.conv(x)) * n


def size_in_place(self, x):
    n = x.shape[0]
    m = n
    n += 1
    return F.relu(self.conv(x)) * m + n


def shape_before(self, x):
    shape = x.shape
    y = F.relu(self.conv(x))
    x.unsqueeze_(0)
    return y.reshape(shape) + 1


def sums_in_place(self, x):
    xs = None
    for layer in self.blocks:
        if xs is None:
            xs = layer(x)
        else:
            xs += layer(x)
    return F.relu(self.conv(xs / len(self.blocks)))


# What may change between calls


def deep(self, x):
    for row in self.deep:
        for layer in row:
            x = F.relu(layer(x))
    return x


def parameters(self, x):
    x = F.relu(self.conv(x))
    for weight in self.weights:
        x = x * weight
    for name, _ in self.named.items():
        x = x + self.named[name]
    return x if self.extra is None else x * self.extra


def helped(self, x):
    return self.helper(x) * 2


def fetched(self, x):
    for layer in getattr(self, f"stage{0}"):
        x = F.relu(layer(x))
    return x


def tied(self, x):
    return F.relu(self.conv(x)) * self.a + self.b


def functions(self, x):
    for act in self.acts:
        x = act(self.conv(x))
    return F.tanh(x)


def number(self, x, by=1):
    return F.relu(self.conv(x)) if isinstance_free(by) else x * self.number


def isinstance_free(by):
    return f"{by}" == "1"


def numbered(self, x):
    return F.relu(self.conv(x)) * self.number


# What cannot be compared


def loop_attribute(self, x):
    for b in self.blocks:
        scale = b.scale
        x = F.relu(self.conv(x)) * scale
    return x


def loop_method(self, x):
    for _, b in enumerate(list(self.blocks)):
        x = F.relu(self.conv(b.helper(x)))
    return x


def subscript_method(self, x):
    return F.relu(self.conv(self.blocks[0].helper(x)))


def subscript_flag(self, x):
    return F.relu(self.conv(x)) if self.blocks[1].training else x


def alias_appended(self, x):
    f = self.features
    g = (f, 1)[0]
    g.append(1)
    return F.relu(self.conv(x)) * len(self.features)


def alias_added(self, x):
    f = self.features
    f += [1]
    return F.relu(self.conv(x)) * len(self.features)


def alias_of_the_last_turn(self, x):
    f = g = None
    for _ in range(2):
        if g is not None:
            g.append(1)
        g = f
        f = self.features
    return F.relu(self.conv(x)) * len(self.features)


def handed_on(self, x):
    return scaled_by(self.block, F.relu(self.conv(x)))


def scaled_by(layer, x):
    return x * layer.scale


def own_iteration(self, x):
    for layer in self.own:
        x = F.relu(layer(x))
    return x


def returned(self, x):
    layers = self.chosen()
    return F.relu(self.conv(x)) * layers.scale


def child_attribute(self, x):
    y = self.block(F.relu(self.conv(x)))
    return y + self.block.n


def child_tensor(self, x):
    y = self.block(F.relu(self.conv(x)))
    return y if self.block.aux is None else y + 1


def default_list(self, x, seen=[]):  # noqa: B006
    seen.append(1)
    return F.relu(self.conv(x)) * len(seen)


def same_object(self, x):
    y = F.relu(self.conv(x))
    return y * 2 if self.a is self.b else y


def hidden_global(self, x):
    parts = [FACTOR for FACTOR in (1, 2)]
    return F.relu(self.conv(x)) * FACTOR * len(parts)


def backend_flag(self, x):
    y = F.relu(self.conv(x))
    return y * 2 if torch.backends.cudnn.benchmark else y


def odd_global(self, x):
    TEXT.append(1)
    return F.relu(self.conv(x))


def fetched_attribute(self, x):
    return F.relu(self.conv(x)) if getattr(self, f"stage{0}").training else x


def spelt_size(self, x):
    return F.relu(self.conv(x)) if str(x.shape[0]) == "2" else x
