"""The layers of an accelerated model are the plain ones: sliced, looped over, exchanged, hooked."""

import pytest
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
        m[2] = nn.ELU(0.5)
        m[5].negative_slope = 0.7
        m.append(nn.Sigmoid())
        del m[4]
    torch.testing.assert_close(model(x), plain(x))
    assert layers(model) == [("0", "1", "2"), ("3", "4"), ("5", "6")]


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
def test_hooks_added_later_see_what_they_would(which, kind):
    seen = {}
    for name, model in (("fast", ganfast.accelerate(flat())), ("plain", flat())):
        layer, values = model[which], seen.setdefault(name, [])
        if kind == "forward":
            layer.register_forward_hook(lambda m, i, o, values=values: values.append(o.detach().clone()))
        elif kind == "pre":
            layer.register_forward_pre_hook(lambda m, i, values=values: values.append(i[0].detach().clone()))
        else:
            if which in (2, 5):
                layer.inplace = False  # torch refuses a backward hook before an in-place activation
            if which in (1, 4):
                model[which + 1].inplace = False
            layer.register_full_backward_hook(lambda m, gi, go, values=values: values.append(go[0].detach().clone()))
        y = model(x_for())
        y.square().sum().backward()
        values.append(y.detach())
    assert len(seen["fast"]) == len(seen["plain"]) == 2
    for a, b in zip(seen["fast"], seen["plain"]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
