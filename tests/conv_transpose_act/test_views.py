"""Second order through inputs that are views: a copy made on the way must stay in the graph."""

import pytest
import torch

from ganfast.functional import conv_act, conv_transpose_act
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


@pytest.mark.parametrize("size", [(1,), (4,), (1, 1), (3, 2), (1, 1, 1), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("op", [conv_transpose_act, conv_act])
@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_second_order_from_a_cotangent_that_is_a_view(backend, op, size):
    """What arrives for the weight's gradient has whatever strides an earlier formula gave it."""
    taps = (2,) * len(size) if op is conv_transpose_act else (1,) * len(size)  # an image of one pixel on the transposed side, in both
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*((3, 4) if op is conv_transpose_act else (4, 3)), *taps, dtype=torch.float64, requires_grad=True)
    y = op(x, weight, stride=2, act="tanh", backend=backend)
    gweight = torch.autograd.grad(y.square().sum(), weight, create_graph=True)[0]
    values = torch.randn(gweight.shape, dtype=torch.float64)
    transposed, sliced = values.transpose(0, 1).contiguous().transpose(0, 1), values.repeat_interleave(2, -1)[..., ::2]
    for view in (transposed, sliced, values[:1, :1].expand_as(values)):
        second = [torch.autograd.grad(gweight, (x, weight), v, retain_graph=True) for v in (view, view.contiguous())]
        torch.testing.assert_close(*second, rtol=0, atol=1e-12)
