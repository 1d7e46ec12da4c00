"""Second order through inputs that are views: a copy made on the way must stay in the graph."""

import pytest
import torch

from ganfast.functional import conv_transpose_act
from ganfast.ops.conv_transpose_act import reference

VIEWS = {
    "transposed": ((2, 3, 4, 4), lambda t: t.transpose(2, 3)),
    "sliced": ((2, 6, 4, 4), lambda t: t[:, ::2]),
    "expanded": ((2, 1, 3, 3), lambda t: t.expand(-1, 3, -1, -1)),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_second_order(backend, view):
    shape, take = VIEWS[view]
    leaf = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    calls = (
        lambda x: conv_transpose_act(x, weight, stride=2, act="tanh", backend=backend),
        lambda x: reference.conv_transpose_act(x, weight, None, [2, 2], [0, 0], [0, 0], [1, 1], 1, "tanh", None, 0.0),
    )
    second = []
    for call in calls:
        (gweight,) = torch.autograd.grad(call(take(leaf)).sum(), weight, create_graph=True)
        second.append(torch.autograd.grad(gweight.square().sum(), leaf)[0])
    torch.testing.assert_close(*second)
