"""The layers of an accelerated model are the plain ones: sliced, looped over, exchanged."""

import torch
from torch import nn

import ganfast
from tests.dropin.common import flat, x_for
from tests.dropin.small import layers


def test_slices_and_children_are_plain_layers():
    model, plain = ganfast.accelerate(flat()), flat()
    x = x_for()
    torch.testing.assert_close(model[:3](x), plain[:3](x))
    assert [type(m) for m in model] == [type(m) for m in plain]
    y = x
    for layer in model:
        y = layer(y)
    z = x
    for layer in flat():
        z = layer(z)
    torch.testing.assert_close(y, z)


def test_changed_children_are_seen():
    x = x_for()
    model, plain = ganfast.accelerate(flat()), flat()
    for m in (model, plain):
        m(x)
        m[2] = nn.ELU(0.5)
        m[5].negative_slope = 0.7
        m.append(nn.Sigmoid())
        del m[4]
    torch.testing.assert_close(model(x), plain(x))
    assert {("0", "1", "2"), ("3", "4"), ("5", "6")} <= set(layers(model))
